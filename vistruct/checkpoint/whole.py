"""The starting weights of a whole vision-language model, from our own runs or from a public folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.checkpoint.adapters import read_adapters
from vistruct.checkpoint.clip import is_start_of, load_clip
from vistruct.checkpoint.downstream import load_downstream
from vistruct.checkpoint.fronts import take_front
from vistruct.checkpoint.layouts import layout_of
from vistruct.checkpoint.load import is_ours, load_exactly, read_card, refuse_others, stopped_run, weights_of
from vistruct.checkpoint.low_rank import records_in
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import newest_good, step_of
from vistruct.checkpoint.shards import read_folder
from vistruct.checkpoint.trunks import backbone_option, carry
from vistruct.checkpoint.weights import Coverage, fill, in_float32
from vistruct.config import flat
from vistruct.contracts import Described, HeadTraits
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.read_yaml import read_yaml
from vistruct.tasks.instruct import InstructConfig
from vistruct.vlm.names import LanguageNames, ours_of, to_ours
from vistruct.vlm.quantised import refuse_quantised

# Of a vision-language model, the parts that one may have and another not.
OPTIONAL = ("pointing.", "token_weights.", "alignment.")


def load_start(task: Any, source: Path, name: str = "", start_set: str = "") -> Coverage:
    """Start a whole task from one of our runs or models, a public folder, or the file of a published downstream model.

    Args:
        name: of the task, where the source is a run with several.
        start_set: as of `load_downstream`.

    Raises:
        UserError: as `load_whole` and `load_downstream`; a model of another shape; a public folder without its
            tokenizer; a run that has not finished and has adapters.
    """
    if is_start_of(task, source):
        return load_clip(task, source)
    if source.is_file():
        return load_downstream(task, source, start_set)
    if start_set:
        what = f"start_set={start_set} chooses among last layers in a file of MTP's pretraining, and this is a folder"
        raise UserError(what, where=source, fix="leave start_set out, and name the model of one task")
    if stopped_run(source):
        return _load_stopped(task, source, name)
    if is_ours(source):
        return _load_ours(task, source, name)
    layout_of(source)  # before anything else is said of it
    if not isinstance(task.config, InstructConfig):
        fix = "use init for its backbone"
        raise UserError("only a vision-language model starts from a public one as a whole", where=source, fix=fix)
    language = task.config.language
    if language.tokenizer is None and language.weights is None:
        fix = f"--set task.language.tokenizer={source}, or to a folder with the same tokenizer"
        raise UserError("a public model comes with its tokenizer, and this run has another", where=source, fix=fix)
    return load_whole(task, source)


def _load_ours(task: Any, source: Path, name: str) -> Coverage:
    """Start from a model of ours: described alike, it must be the same to the last tensor; else what fits comes."""
    card = read_card(source, name)
    state = weights_of(card)
    licence = str(card.values.get("licence", "unknown"))
    report = Coverage(source=source, what="model", licence=licence, adapters=records_in(card.values))
    head = dict(task.named_children()).get("head")
    traits = head.traits if isinstance(head, Described) else None
    if isinstance(traits, HeadTraits):
        with torch.device("meta"):  # no memory: for its names and shapes
            other = card.task.build(card.info, card.path)
        if type(other) is not type(task):
            what = f"this is a model of kind {card.task.kind}, and the task is one of kind {task.config.kind}"
            raise UserError(what, where=source, fix=backbone_option(source))
        shapes = {key: tuple(value.shape) for key, value in other.state_dict().items()}
        refuse_others(shapes, {key: tuple(value.shape) for key, value in state.items()}, card.path)
        others = differences(other.config, task.config)
        names = other.traits.class_names
        if traits.name_width is not None and others:
            what = f"a detector that tells classes by their names, and not as it is here: {'; '.join(others)}"
            raise UserError(what, where=source, fix=backbone_option(source))
        if others or (names != task.traits.class_names and traits.name_width is None):
            convert = traits.convert_keys or dict
            above = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
            rest = {key: value for key, value in state.items() if not key.startswith("head.")}
            own = rest | {f"head.{key}": value for key, value in convert(above).items()}
            notes = (f"set otherwise there: {'; '.join(others)}",) if others else ()
            return carry(task, own, names, replace(report, notes=notes))
    fix = f"give it the sizes in {card.path / 'model.json'}, or only its backbone: {backbone_option(source)}"
    state, changes = _grown(task, state)
    load_exactly(task, state, card.path, fix)
    return replace(report, **changes)


def differences(there: Any, here: Any) -> list[str]:
    """How two models of a kind are described differently, in words; of parts of two kinds these alone."""
    found = []
    for part in ("backbone", "neck", "head", "fusion", "multi_label"):
        a, b = (flat(config.model_dump(mode="json", include={part})) for config in (there, here))
        kinds = [one.get(f"{part}.kind") for one in (a, b)]
        keys = {**a, **b} if kinds[0] == kinds[1] else (f"{part}.kind",)
        found += [f"{key}={a.get(key)} (here {b.get(key)})" for key in keys if a.get(key) != b.get(key)]
    return found


def _load_stopped(task: Any, source: Path, name: str) -> Coverage:
    """Start from the newest intact checkpoint of a run that has not finished."""
    notes: list[str] = []
    newest = newest_good(source / "checkpoints", notes.append)
    assert newest is not None  # or it is no stopped run
    state = read_weights(newest)
    finish = f"finish it first: vistruct train -c {source}/run.yaml --out {source}"
    if any(key.endswith(".lora_A") for key in state):
        raise UserError("this run has not finished: its adapters (LoRA) are not merged yet", where=source, fix=finish)
    if any(key.startswith("tasks.") for key in state):  # of several, each with the backbone under its own name too
        own = f"tasks.{name}."
        state = {key.removeprefix(own): value for key, value in state.items() if key.startswith(own)}
    known, own_names = _classes_of(source, name), task.traits.class_names
    if known and own_names and own_names not in known:  # as many of others would fit, and mean something else
        what = "this run has not finished and has other classes, which only a finished one brings along"
        raise UserError(what, where=source, fix=finish)
    state, changes = _grown(task, state)
    load_exactly(task, state, newest, f"give it the sizes in {source / 'run.yaml'}, or {finish}")
    notes.append(f"{source} has not finished: these are its weights after {step_of(newest):,} steps")
    licence = f"unknown: that of {source.name}, and of what it began with, holds"
    begun = read_yaml(source / "run.yaml").get("adapters")
    records = (read_adapters(Path(begun)).record,) if begun and Path(begun).exists() else ()
    return Coverage(
        source=source,
        what="model",
        notes=tuple(notes),
        licence=licence,
        adapters=records,
        **changes,
    )


def _grown(task: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a vision-language model with what this one has besides, which is as it was built.

    Decoders and region tokens of one that points, averages of earlier steps, where the other had none, and the rows of
    tokens that the other's vocabulary lacked.

    Returns:
        of all tensors of the task, and what of `Coverage` says so.
    """
    if not isinstance(task.config, InstructConfig):
        return state, {"matched": tuple(sorted(state))}
    own = task.state_dict()
    fresh = _fresh(task, state)
    gone = sorted(name for name in state if name.startswith(OPTIONAL) and name not in own)
    state = {name: value for name, value in state.items() if name not in gone} | fresh
    tables = (task.language.get_input_embeddings(), task.language.get_output_embeddings())
    resized = [name for table in tables for name in _lengthen(state, task, table)]
    matched = tuple(sorted(set(state) - set(fresh) - set(resized)))
    return state, {"matched": matched, "fresh": tuple(fresh), "unexpected": tuple(gone), "resized": tuple(resized)}


def _fresh(task: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What only some models have and these weights lack, as it was built."""
    return {name: v for name, v in task.state_dict().items() if name.startswith(OPTIONAL) and name not in state}


def _classes_of(run: Path, stream: str) -> list[tuple[str, ...]]:
    """The names of a run's classes, of objects and of pixels; none: it has not got as far as reading its data."""
    file = run / "data.json"
    noted = read_record(file, dict[str, Any])["train"] if file.is_file() else {}
    info = next(iter(noted.values()), {}) if len(noted) < 2 else noted.get(stream, {})
    return [tuple(info[key]) for key in ("class_names", "map_class_names") if info.get(key)]


def load_whole(task: Any, folder: Path, *, allow_missing: bool = False) -> Coverage:
    """Start a vision-language model from a public folder: backbone, projector and language model.

    The rows of tokens that the folder's vocabulary lacks become the mean of those that it has, in both tables.
    Source: the published training code starts the output rows of added tokens so.

    Args:
        task: Instruct, of the folder's size (`checkpoint.layouts.instruct_config`).
        folder: an InternVL in the original or in `transformers`' layout.
        allow_missing: leave tensors that the folder lacks as they are, instead of refusing.

    Raises:
        UserError: not such a folder; an incomplete or damaged one; tensors of another shape; NaN among the weights;
            missing tensors.
    """
    layout = layout_of(folder)
    held, names = read_folder(folder), LanguageNames.of(task.language)
    refuse_quantised([(name, str(value.dtype)) for name, value in held.items()], folder)

    def fits(part: dict[str, Tensor]) -> tuple[int]:
        return (sum(1 for name in part if ours_of(name, layout, names)),)

    public, notes = take_front(held, fits, folder, of_all=True)
    state, strange = to_ours(public, layout, names, folder)
    backbone = {k.removeprefix("backbone."): in_float32(v) for k, v in state.items() if k.startswith("backbone.")}
    backbone, names = task.backbone.traits.resize_state(backbone)
    state |= {f"backbone.{name}": value for name, value in backbone.items()}
    resized = [f"backbone.{name}" for name in names]
    for table in (task.language.get_input_embeddings(), task.language.get_output_embeddings()):
        resized += _lengthen(state, task, table)
    report = Coverage(
        source=folder,
        what="model",
        names=tuple(held),
        notes=tuple(notes),
        resized=tuple(resized),
        unexpected=tuple(strange),
        licence=f"unknown: that of {folder.name} holds",
    )
    fresh = _fresh(task, state)
    found = fill(task, {**state, **fresh}, report, allow_missing)
    return replace(found, matched=tuple(name for name in found.matched if name not in fresh), fresh=tuple(fresh))


def _lengthen(state: dict[str, Tensor], task: nn.Module, table: nn.Module) -> list[str]:
    """Give a table of the vocabulary in `state` as many rows as the task's has; its name, where it had fewer."""
    own: Any = table.weight
    for name, parameter in task.named_parameters(remove_duplicate=False):
        if parameter is own and name in state and len(state[name]) < len(own):
            rows = state[name]
            rows = in_float32(rows)
            mean = rows.mean(0, keepdim=True)
            state[name] = torch.cat([rows, mean.expand(len(own) - len(rows), -1)])
            return [name]
    return []
