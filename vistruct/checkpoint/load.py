"""Reading a shipped model back into a task that answers."""

from __future__ import annotations

import reprlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from pydantic import with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from vistruct.checkpoint.adapters import adapters_for, add_adapters
from vistruct.checkpoint.low_rank import Adapters, records_in
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import MAIN, Run, of_one_task, run_from_dict, task_from_dict
from vistruct.contracts import BackboneTraits, DataInfo, Described
from vistruct.data.input import Input, read_input
from vistruct.errors import UserError
from vistruct.files.json_files import read_record

MODEL_FORMAT, BACKBONE_FORMAT = 2, 1

Shape = tuple[int, ...]


OTHER_VERSION = "use the version of vistruct that wrote them"


def load_exactly(model: nn.Module, state: dict[str, Tensor], where: Path, fix: str = OTHER_VERSION) -> None:
    """Load a state dict that must cover the model name for name and shape for shape.

    A backbone first becomes the variant that its weights are of.

    Args:
        fix: what to try where it does not.

    Raises:
        UserError: naming the first tensors that are missing, unexpected or of another shape; two different tensors
            for what is one in the model.
    """
    for name, module in model.named_modules():
        traits = module.traits if name and isinstance(module, Described) else None
        if isinstance(traits, BackboneTraits):
            own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            traits.match_state(own)
    own = model.state_dict()
    refuse_others(
        {k: tuple(v.shape) for k, v in own.items()}, {k: tuple(v.shape) for k, v in state.items()}, where, fix
    )
    _refuse_untied(model, state, where)
    model.load_state_dict(state)


def _refuse_untied(model: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Raise where a weight with several names (a table of words that is input and output) has several values."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if state[first] is not state[name] and not torch.equal(state[first], state[name]):
            raise UserError(
                f"{first} and {name} are one table in this model, and two different ones here",
                where=where,
                fix="--set task.language.options.tie_word_embeddings=false, if it was trained so",
            )


def refuse_others(own: Mapping[str, Shape], found: Mapping[str, Shape], where: Path, fix: str = OTHER_VERSION) -> None:
    """Raise unless the tensors found, by name and shape, are exactly a model's own.

    Raises:
        UserError: naming the first tensors that are missing, unexpected or of another shape.
    """
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    reshaped = [k for k in sorted(own.keys() & found.keys()) if own[k] != found[k]]
    wrong = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if wrong:
        raise UserError(
            f"these are not the weights of this model: {'; '.join(wrong)}",
            where=where,
            fix=fix,
        )


class _Info(TypedDict):
    class_names: tuple[str, ...]
    map_class_names: NotRequired[tuple[str, ...]]
    palette: tuple[tuple[int, int, int], ...] | None
    channels: int
    pixels: Literal["uint8", "uint16", "float32", "raw"]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input: dict[str, Any]
    num_records: int
    fingerprint: str
    counts: dict[str, int]
    dropped: dict[str, int]


@with_config(extra="allow")
class _ModelJson(TypedDict):
    format: int
    task: dict[str, Any]
    info: _Info
    input: dict[str, Any]
    sha256: str
    stream: str
    run: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What model.json says beside the weights."""

    path: Path  # the model/ directory
    task: Any  # Part, the task's config
    info: DataInfo  # of its training data: class names, counts, fingerprint
    input: Input  # how images are put before it
    values: dict[str, Any] = field(default_factory=dict)  # all of model.json
    notes: tuple[str, ...] = ()  # what of adapters that were added was left aside

    @property
    def run(self) -> Run:
        """The run that made it, resolved: for the record, and to measure it again. Of several tasks its own alone.

        Raises:
            UserError: parts that are not there any more.
        """
        run = run_from_dict(self.values["run"], self.path / "model.json")
        return run if len(run.streams) == 1 else of_one_task(run, self.values["stream"])


def is_ours(path: Path) -> bool:
    """Whether a path is one of our runs or models, finished or not, and not a folder in a public layout."""
    public = ("config.json", "open_clip_config.json")
    return not any((path / name).is_file() for name in public) or (path / "model.json").is_file()


def model_dir(path: Path, task: str = "") -> Path:
    """The model/ directory that `path` is or holds.

    Args:
        task: of a run with several tasks: the name of one.

    Raises:
        UserError: neither a model nor a finished run; several models, and none is named.
    """
    for directory in (path, path / "model", *((path / "model" / task, path / task) if task else ())):
        if (directory / "model.json").is_file():
            return directory
    for directory in (path / "model", path):
        several = sorted(file.parent.name for file in directory.glob("*/model.json"))
        if several:
            lacks = f", and no {task!r}" if task not in ("", MAIN) else ""
            what = f"this run has several tasks: {', '.join(several)}{lacks}"
            raise UserError(what, where=path, fix=f"give one of them: {', '.join(str(directory / s) for s in several)}")
    if (path / "run.yaml").is_file():
        raise UserError(
            "this run has not finished: it has no model yet",
            where=path,
            fix=f"vistruct train -c {path}/run.yaml --out {path}",
        )
    what = "no model here" if path.exists() else "no such file or directory"
    raise UserError(what, where=path, fix="give a run directory, or the model directory inside one")


def stopped_run(path: Path) -> bool:
    """Whether `path` is a run that has checkpoints and no model yet."""
    has_model = any((path / "model").glob("**/model.json")) or (path / "model.json").is_file()
    return (path / "run.yaml").is_file() and not has_model and any((path / "checkpoints").glob("step_*"))


def copy_assets(source: Path, target: Path) -> None:
    """Copy what a model has beside its weights and descriptions (a tokenizer), unless it is there already."""
    own = {"model.safetensors", "model.json", "README.md"}
    for item in source.iterdir():
        if item.name in own or (target / item.name).exists():
            continue
        if item.is_dir():
            shutil.copytree(item, target / item.name)
        else:
            shutil.copy2(item, target / item.name)


def read_card(path: Path, task: str = "") -> ModelCard:
    """Read a model's json without its weights.

    Raises:
        UserError: no model at `path`, or one of another format.
    """
    directory = model_dir(path, task)
    file, again = directory / "model.json", "copy the model again, whole"
    values = read_record(file, dict[str, Any], again)
    if values.get("format") != MODEL_FORMAT:
        what = f"a model of format {reprlib.repr(values.get('format'))}; this version reads {MODEL_FORMAT}"
        raise UserError(what, where=file, fix="update vistruct")
    values = read_record(file, _ModelJson, again)
    return ModelCard(
        path=directory,
        task=task_from_dict(values["task"], file),
        info=DataInfo(**values["info"]),
        input=read_input(values["input"], file),
        values=dict(values),
    )


def weights_of(card: ModelCard) -> dict[str, Tensor]:
    """
    Raises:
        UserError: no weights, or others than those that model.json was written for.
    """
    _refuse_onnx(card)
    weights = card.path / "model.safetensors"
    if not weights.is_file() or sha256(weights) != card.values["sha256"]:
        what = "the weights are not those that model.json was written for"
        raise UserError(what, where=weights, fix="copy the model again")
    return read_tensors(weights)


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    task: str = "",
    *,
    lora: Path | None = None,
    or_onnx: bool = False,
) -> tuple[Any, ModelCard]:
    """Rebuild a task with its weights, in eval mode.

    Args:
        path: a run directory or the model/ directory inside one.
        task: of a run with several tasks: the name of one.
        lora: adapters that are added into its weights: a run, a folder of peft's, or a file of ViSFT.
        or_onnx: also the folder of an export to ONNX, whose task predicts by its file and has no weights.

    Returns:
        the task, and what is known of it, the adapters too.

    Raises:
        UserError: no model, damaged weights, weights that do not cover the task, or are not finite; as
            `checkpoint.adapters.adapters_for` and `add_adapters`.
    """
    card = read_card(path, task)
    if or_onnx and "onnx" in card.values and lora is None:
        from vistruct.checkpoint.onnx_run import opened

        return opened(card.path, card.task.build(card.info, card.path), card.values["onnx"]), card
    weights = card.path / "model.safetensors"
    state = weights_of(card)
    task = card.task.build(card.info, card.path)
    load_exactly(task, state, weights)
    bad = [name for name, tensor in task.named_parameters() if not tensor.isfinite().all()]
    if bad:  # whatever is found with them means nothing, and mostly is nothing
        what = f"{len(bad)} of the weights are not finite (NaN or infinite), first {bad[0]}"
        raise UserError(what, where=weights, fix="train again, with a smaller learning rate: --set optim.lr=...")
    if lora is not None:
        added = lora_for(task, card, lora)
        add_adapters(task, added)
        values = card.values | {"adapters": [*records_in(card.values), added.record]}
        card = replace(card, values=values, notes=added.notes)
    return task.to(device).eval(), card


def _refuse_onnx(card: ModelCard) -> None:
    if "onnx" in card.values:
        what = "an ONNX file is asked for predictions alone: it has no weights to start from, to adapt or to export"
        raise UserError(what, where=card.path, fix="give the run that it was exported from")


def lora_for(task: Any, card: ModelCard, lora: Path) -> Adapters:
    """Adapters that can be added into the weights of a model that was loaded.

    Raises:
        UserError: as `checkpoint.adapters.adapters_for`.
    """
    _refuse_onnx(card)
    return adapters_for(task, lora, str(card.values.get("stream", "")), records_in(card.values))
