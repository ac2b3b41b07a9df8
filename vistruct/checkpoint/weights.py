"""A backbone's starting weights, from our own runs or from the public, with an account of what went where.

A backbone that can read other layouts has `convert_keys(state) -> state` (names to its own names, leaving out
what is not the backbone's); one whose tensors depend on the image size has `resize_state(state) -> (state,
resized names)`.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistruct.checkpoint.tensors import read_tensors
from vistruct.errors import UserError

PICKLED = {".pt", ".pth", ".bin", ".ckpt"}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which of a backbone's tensors were found in a file."""

    source: Path
    matched: tuple[str, ...] = ()  # taken as they were
    resized: tuple[str, ...] = ()  # taken, after a change of shape
    missing: tuple[str, ...] = ()  # of the backbone, not in the file: left as they were
    unexpected: tuple[str, ...] = ()  # in the file, not of the backbone: not used
    licence: str = "unknown"  # of the weights, as far as the source says

    def lines(self) -> list[str]:
        """One line, and one more for each kind of tensor that did not simply fit."""
        total = len(self.matched) + len(self.resized) + len(self.missing)
        lines = [f"backbone from {self.source}: {len(self.matched) + len(self.resized)} of {total} tensors"]
        for what, names in (
            ("resized", self.resized),
            ("missing", self.missing),
            ("not used", self.unexpected),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
        return lines


def load_backbone(backbone: Any, source: Path, *, allow_missing: bool = False) -> Coverage:
    """Start a backbone from a file or directory.

    Args:
        backbone: nn.Module; with the two methods above where it can read other layouts.
        source: a `backbone/` directory, a run directory, a directory of safetensors files, a .safetensors
            file, or a foreign .pt / .pth of plain tensors.
        allow_missing: leave tensors that the source lacks as they are, instead of refusing.

    Raises:
        UserError: nothing there; a pickle that would run code; tensors of another shape; NaN among the
            weights; nothing in common; missing tensors.
    """
    state, licence, is_ours = _read(source)
    if not is_ours and hasattr(backbone, "convert_keys"):
        state = backbone.convert_keys(state)
    resized: list[str] = []
    if hasattr(backbone, "resize_state"):
        state, resized = backbone.resize_state(state)

    own = backbone.state_dict()
    found = sorted(own.keys() & state.keys())
    if not found:
        raise UserError(
            f"none of its {len(state)} tensors is this backbone's ({', '.join(sorted(state)[:3])}, ...)",
            where=source,
            fix="check that the file holds this kind of backbone",
        )
    reshaped = [name for name in found if own[name].shape != state[name].shape]
    if reshaped:
        name = reshaped[0]
        raise UserError(
            f"{len(reshaped)} tensors have another shape: {name} is {list(state[name].shape)} there and "
            f"{list(own[name].shape)} here",
            where=source,
            fix="give the backbone the size (width, depth, patch) that the weights were made with",
        )
    broken = [name for name in found if not bool(torch.isfinite(state[name]).all())]
    if broken:
        raise UserError(f"NaN or infinity in {broken[0]}", where=source, fix="use an earlier checkpoint of that model")
    missing = sorted(own.keys() - state.keys())
    if missing and not allow_missing:
        raise UserError(
            f"{len(missing)} of the backbone's {len(own)} tensors are not there: {', '.join(missing[:3])}",
            where=source,
            fix="give the backbone the size (depth, stem) that the weights were made with",
        )
    backbone.load_state_dict({name: state[name] for name in found}, strict=False)
    return Coverage(
        source=source,
        matched=tuple(name for name in found if name not in resized),
        resized=tuple(resized),
        missing=tuple(missing),
        unexpected=tuple(sorted(state.keys() - own.keys())),
        licence=licence,
    )


def backbone_dir(path: Path) -> Path | None:
    """The directory with a backbone.json that `path` is or holds, if any."""
    return next((d for d in (path, path / "backbone") if (d / "backbone.json").is_file()), None)


def _read(source: Path) -> tuple[dict[str, Tensor], str, bool]:
    """Tensors by name, their licence, and whether the names are our own."""
    ours = backbone_dir(source)
    if ours is not None:
        card = json.loads((ours / "backbone.json").read_text())
        return read_tensors(ours / "backbone.safetensors"), str(card.get("licence", "unknown")), True
    if not source.exists():
        raise UserError("no such file or directory", where=source, fix="check the path of the starting weights")
    if (source / "run.yaml").is_file():
        raise UserError("this run has not finished: it has no backbone yet", where=source, fix="finish that run first")
    unknown = f"unknown: that of {source.name} holds"
    if source.is_dir():
        files = sorted(source.glob("*.safetensors"))
        if not files:
            raise UserError(
                "no backbone.json and no safetensors file here",
                where=source,
                fix="give a run directory or a file",
            )
        return {name: tensor for file in files for name, tensor in read_tensors(file).items()}, unknown, False
    if source.suffix in PICKLED:
        return _read_pickled(source), unknown, False
    return read_tensors(source), unknown, False


def _read_pickled(source: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"not read, because it is damaged or holds more than tensors and could run code: {reason}",
            where=source,
            fix="convert it to safetensors where you trust it",
        ) from error
    for key in ("state_dict", "model", "module"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    tensors = {str(k): v for k, v in values.items() if isinstance(v, Tensor)} if isinstance(values, dict) else {}
    if not tensors:
        raise UserError("no tensors by name in this file", where=source, fix="give a file with a state dict")
    return tensors
