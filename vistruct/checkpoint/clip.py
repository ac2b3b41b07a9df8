"""The weights of a CLIP of others, all of them: backbone, projection, text tower and scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vistruct.checkpoint.clip_layouts import OPEN_CLIP, is_public_clip
from vistruct.checkpoint.tensors import read_tensors
from vistruct.checkpoint.weights import Coverage, fill, fitted, read_public
from vistruct.errors import UserError
from vistruct.vlm.clip_names import of_open_clip, of_transformers
from vistruct.vlm.quantised import refuse_quantised

TASKS = ("zero_shot", "match", "region_text")  # that are a CLIP as a whole


def is_start_of(task: Any, source: Path) -> bool:
    """Whether a task is begun with a CLIP of others."""
    return task.config.kind in TASKS and is_public_clip(source)


def load_clip(task: Any, source: Path) -> Coverage:
    """Start a CLIP from a public file or folder.

    Raises:
        UserError: nothing that can be read; a tensor that is missing or of another shape; NaN among the weights.
    """
    state, notes = _read(source)
    refuse_quantised([(name, str(value.dtype)) for name, value in state.items()], source)
    text = task.config.clip.text
    if text.library == "transformers":
        prefix = "text_model." if text.options["model_type"] == "clip_text_model" else ""
        image, rest = of_transformers(state, prefix)
    else:
        image, rest = of_open_clip(state)
    image, report = fitted(task.backbone, image, source)
    report = replace(
        report,
        what="model",
        names=tuple(state),
        resized=tuple(f"backbone.{name}" for name in report.resized),
        inflated=tuple(f"backbone.{name}" for name in report.inflated),
        fresh=(),
        notes=(*notes, *report.notes),
        licence=f"unknown: that of {source.name} holds",
    )
    return fill(task, {f"backbone.{name}": value for name, value in image.items()} | rest, report, False)


def check_size(parameters: int, source: Path) -> None:
    """Refuse a file that is too small for a model, before billions of weights are made for it.

    Raises:
        UserError: it has not a byte for each.
    """
    size = source.stat().st_size if source.is_file() else parameters
    if size < parameters:
        what = (
            f"a file of {size / 2**20:,.1f} MiB cannot hold the {parameters / 1e6:,.1f} million weights of this model"
        )
        raise UserError(what, where=source, fix="--model with the name of the model that it is of")


def _read(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder in the layout that it says it has, where the weights lie there in several."""
    if source.is_dir() and (source / OPEN_CLIP).is_file():
        for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
            if (source / name).is_file():
                return read_public(source / name)
    single = source / "model.safetensors"
    return (read_tensors(single), []) if single.is_file() else read_public(source)
