"""A backbone's starting weights, from our own runs or from the public, with an account of what went where.

What a backbone can do with weights of other layouts, variants and sizes, its `traits` say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from vistruct.checkpoint.catalogue.entry import Entry
from vistruct.checkpoint.catalogue.find import entry_of
from vistruct.checkpoint.catalogue.here import check_sum, found_or_told, located
from vistruct.checkpoint.fronts import take_front
from vistruct.checkpoint.low_rank import Record, records_beside
from vistruct.checkpoint.pickled import is_pickled, read_pickled
from vistruct.checkpoint.shards import has_tensors, read_folder
from vistruct.checkpoint.tensors import read_tensors
from vistruct.contracts import Backbone, BackboneTraits, Described, Weights
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.vlm.quantised import refuse_quantised


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which of a module's tensors were found in a file or folder."""

    source: Path
    what: str = "backbone"
    names: tuple[str, ...] = ()  # of all tensors there, as the source has them
    matched: tuple[str, ...] = ()  # taken as they were
    resized: tuple[str, ...] = ()  # taken, after a change of shape
    inflated: tuple[str, ...] = ()  # kernels for three colours, taken for other channels; may be resized as well
    by_class: tuple[str, ...] = ()  # taken row by row, for the classes that are known there
    fresh: tuple[str, ...] = ()  # of parts that such a file does not have: they start from random weights
    missing: tuple[str, ...] = ()  # of the module, not in the file: left as they were
    unexpected: tuple[str, ...] = ()  # in the file, not of the module: not used
    notes: tuple[str, ...] = ()  # what the module changed about itself to fit the weights
    licence: str = "unknown"  # of the weights, as far as the source says
    adapters: tuple[Record, ...] = ()  # that are in these weights, as far as the source says
    before: Coverage | None = None  # of what was loaded first, where this replaced a part of it

    def lines(self) -> list[str]:
        """One line, and one more for each kind of tensor that did not simply fit."""
        taken = dict.fromkeys((*self.matched, *self.resized, *self.inflated, *self.by_class))
        lines = [] if self.before is None else self.before.lines()
        left = (*self.missing, *(self.fresh if self.what == "model" else ()))
        lines.append(f"{self.what} from {self.source}: {len(taken)} of {len(taken) + len(left)} tensors")
        if self.what == "model":
            got = Counter(name.partition(".")[0] for name in taken)
            all_ = got + Counter(name.partition(".")[0] for name in left)
            lines[-1] += f" ({', '.join(f'{part} {got[part]} of {total}' for part, total in all_.items())})"
        for what, names in (
            ("resized", self.resized),
            ("inflated from 3 channels", self.inflated),
            ("taken class by class", self.by_class),
            ("start from random weights", self.fresh),
            ("missing", self.missing),
            ("not used", self.unexpected),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
        return lines + [f"  {note}" for note in self.notes]


def load_backbone(backbone: Backbone, source: Path, *, allow_missing: bool = False) -> Coverage:
    """Start a backbone from a file or directory.

    Args:
        source: a `backbone/` directory, a run directory, a public folder (one safetensors file, or several with their
            index), a .safetensors file, a foreign .pt / .pth of plain tensors, or a name of public weights that are on
            this machine (`checkpoint.catalogue`).
        allow_missing: leave tensors that the source lacks as they are, instead of refusing.

    Raises:
        UserError: nothing there; a pickle that would run code; tensors of another shape; NaN among the
            weights; nothing in common; missing tensors.
    """
    ours = backbone_dir(source)
    records = records_beside(located(source)) if ours is None else read_backbone_card(ours).adapters
    state, licence, notes = read_source(source)
    state, report = fitted(backbone, state, source)
    report = replace(report, licence=licence, notes=(*notes, *report.notes), adapters=records)
    return fill(backbone, state, report, allow_missing)


def fitted(backbone: Backbone, state: dict[str, Tensor], source: Path) -> tuple[dict[str, Tensor], Coverage]:
    """A state dict of any layout that the backbone reads, in its own names and shapes; and what was done for it.

    What stands before all of its names is taken off. The backbone becomes the variant that the weights are of.
    """
    traits, names, own = backbone.traits, tuple(state), backbone.state_dict()

    def fits(part: dict[str, Tensor]) -> tuple[int, int]:
        found = traits.convert_keys(part)
        shared = found.keys() & own.keys()
        return len(shared), sum(found[name].shape == own[name].shape for name in shared)

    state, notes = take_front(state, fits, source, of_all=False)
    state = traits.convert_keys(state)
    try:
        notes += traits.match_state(state)
        # What is computed of half precision is computed in float32, and rounded once: by the module that keeps it.
        state, resized = traits.resize_state({name: in_float32(value) for name, value in state.items()})
    except UserError as error:
        raise UserError(error.what, where=error.where or source, fix=error.fix) from error
    state, inflated = inflate(backbone, state)
    return state, Coverage(
        source=source,
        names=names,
        resized=tuple(resized),
        inflated=tuple(inflated),
        fresh=tuple(sorted(traits.fresh_parts(state))),
        notes=tuple(notes),
    )


def in_float32(value: Tensor) -> Tensor:
    """bfloat16 and float16 as float32, everything else as it is."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def inflate(backbone: Backbone, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Give kernels that look at three colours the channels of this backbone; also names them.

    Source: timm's rule. Red, green and blue in turn, scaled by 3 / channels, so that an image whose channels are all
    alike gives what it gave in grey; for a single channel their sum, which does the same.

    Args:
        state: of the backbone's own names.
    """
    channels = backbone.traits.channels
    if channels == 3:
        return dict(state), []
    from timm.models import adapt_input_conv  # seconds to import

    state, own, names = dict(state), backbone.state_dict(), []
    for name in sorted(own.keys() & state.keys()):
        there, here = tuple(state[name].shape), tuple(own[name].shape)
        if len(there) == 4 and there[1] == 3 and here == (there[0], channels, *there[2:]):
            state[name] = adapt_input_conv(channels, state[name])
            names.append(name)
    return state, names


def backbone_dir(path: Path) -> Path | None:
    """The directory with a backbone.json that `path` is or holds, if any."""
    return next((d for d in (path, path / "backbone") if (d / "backbone.json").is_file()), None)


class BackboneCard(BaseModel):
    """What backbone.json says, as far as it is looked at."""

    config: dict[str, Any]
    input: dict[str, Any] | None = None
    licence: str = "unknown"
    sha256: str = ""
    adapters: tuple[dict[str, str | int], ...] = ()  # that were added into them


def read_backbone_card(directory: Path) -> BackboneCard:
    """
    Raises:
        UserError: a damaged one.
    """
    return read_record(directory / "backbone.json", BackboneCard, "copy the backbone again, whole")


def fill(module: Weights, state: Mapping[str, Tensor], report: Coverage, allow_missing: bool) -> Coverage:
    """Put a state dict of the module's own names in place.

    Args:
        report: what is known of it before: its source, what was resized, what may be missing (`fresh`), what had no
            place in any module.

    Returns:
        the report, complete.

    Raises:
        UserError: as `load_backbone`; one table under two names with two values.
    """
    own, source, what = module.state_dict(), report.source, report.what
    found = sorted(own.keys() & state.keys())
    names = report.names or tuple(sorted(state))
    if not found:
        raise UserError(
            f"none of its {len(names)} tensors is this {what}'s: there are {', '.join(names[:3])}, ...; looked for "
            f"were {', '.join(list(own)[:3])}, ... and what public layouts call these",
            where=source,
            fix=f"see what is there: vistruct inspect {source}",
        )
    merged = next((name for name in state if ".lora_" in name or ".modules_to_save." in name), None)
    if merged is not None:
        raise UserError(
            f"adapters (LoRA) that are not merged lie among these weights, such as {merged}",
            where=source,
            fix="merge them with peft: model = model.merge_and_unload(); model.save_pretrained(FOLDER)",
        )
    reshaped = [name for name in found if own[name].shape != state[name].shape]
    if reshaped:
        name = reshaped[0]
        raise UserError(
            f"{len(reshaped)} tensors have another shape: {name} is {list(state[name].shape)} there and "
            f"{list(own[name].shape)} here",
            where=source,
            fix=f"give the {what} the size (width, depth, patch, channels) that the weights were made with",
        )
    broken = [name for name in found if not bool(torch.isfinite(state[name]).all())]
    if broken:
        raise UserError(f"NaN or infinity in {broken[0]}", where=source, fix="use an earlier checkpoint of that model")
    _check_ties(own, state, source)
    there = {own[name].data_ptr() for name in found}  # a table that serves twice is written once
    fresh = set(report.fresh) - state.keys()
    missing = [
        name
        for name in sorted(own.keys() - state.keys() - fresh)
        if own[name].data_ptr() not in there
        and not name.endswith(".num_batches_tracked")  # a counter; old files lack it
    ]
    if missing and not allow_missing:
        traits = module.traits if isinstance(module, Described) else None
        advice = traits.advise(missing) if isinstance(traits, BackboneTraits) else ""
        raise UserError(
            f"{len(missing)} of the {what}'s {len(own)} tensors are not there: {', '.join(missing[:3])}",
            where=source,
            fix=advice or f"give the {what} the size (depth, stem) that the weights were made with",
        )
    module.load_state_dict({name: state[name] for name in found}, strict=False)
    return Coverage(
        source=source,
        what=what,
        names=report.names,
        matched=tuple(sorted(own.keys() - {*report.resized, *report.inflated, *missing} - fresh)),
        resized=report.resized,
        inflated=report.inflated,
        fresh=tuple(sorted(fresh)),
        missing=tuple(missing),
        unexpected=(*report.unexpected, *sorted(state.keys() - own.keys())),
        notes=report.notes,
        licence=report.licence,
        adapters=report.adapters,
    )


def _check_ties(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path) -> None:
    """Two names of one memory must not be given two values, of which the second would win."""
    first: dict[int, str] = {}
    for name in own.keys() & state.keys():
        other = first.setdefault(own[name].data_ptr(), name)
        if other != name and own[name].numel() and not torch.equal(state[name], state[other]):
            raise UserError(
                f"{name} and {other} are one table here and two different ones there",
                where=source,
                fix="--set task.language.options.tie_word_embeddings=false",
            )


def read_source(source: Path) -> tuple[dict[str, Tensor], str, list[str]]:
    """Tensors by name, their licence, and what else there is to be said of them.

    Raises:
        UserError: nothing there, or nothing that can be read.
    """
    ours = backbone_dir(source)
    if ours is not None:
        return read_tensors(ours / "backbone.safetensors"), read_backbone_card(ours).licence, []
    if (entry := entry_of(source)) is not None:
        return _read_named(entry)
    if not source.exists():
        raise UserError("no such file or directory", where=source, fix="check the path of the starting weights")
    if (source / "run.yaml").is_file():
        raise UserError("this run has not finished: it has no backbone yet", where=source, fix="finish that run first")
    state, notes = read_public(source)
    refuse_quantised([(name, str(value.dtype)) for name, value in state.items()], source)
    return state, f"unknown: that of {source.name} holds", notes


def _read_named(entry: Entry) -> tuple[dict[str, Tensor], str, list[str]]:
    """As `read_source`, of public weights by name.

    Raises:
        UserError: they are not on this machine; another file than the published one.
    """
    found = found_or_told(entry)
    check_sum(found, entry)
    state, notes = read_public(found.path)
    refuse_quantised([(name, str(value.dtype)) for name, value in state.items()], found.path)
    licence = f"{entry.licence}: {entry.what}"
    return state, licence, [f"{entry.name} is {found.path}", f"licence: {licence}", *notes]


def read_public(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file or folder of others, whatever they are of; and what else is to be said of it.

    Raises:
        UserError: nothing that can be read.
    """
    if source.is_dir():
        if has_tensors(source):
            return read_folder(source), []
        pickled = [path for path in sorted(source.iterdir()) if path.suffix in (".bin", ".pth", ".pt", ".ckpt")]
        if len(pickled) != 1:
            what = "no backbone.json and no safetensors file here"
            what += f", and {len(pickled)} others: {', '.join(path.name for path in pickled[:3])}" if pickled else ""
            raise UserError(what, where=source, fix="give a run directory or a file")
        (source,) = pickled
    return read_pickled(source) if is_pickled(source) else (read_tensors(source), [])
