"""Checkpoints that are either whole or not there.

A checkpoint is written into a fresh directory, its files and the directory are fsynced, and one rename makes
it `step_00000100`. What a cut-short write leaves is a `.partial-*` directory, which nothing reads and the
next start removes. Older ones go only after the new one stands.

    checkpoints/step_00000100/
        model.safetensors       the whole state dict
        optimizer.safetensors   `<parameter name>/exp_avg`, `/exp_avg_sq`, `/step`
        state.json              format, step, sha256 of each file
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.checkpoint.tensors import no_room, sha256, write_tensors
from vistruct.errors import UserError

FORMAT = 1
PARTIAL = ".partial-"


def save(root: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Write the checkpoint of `step`, then remove all but the `keep` newest.

    Args:
        root: the run's `checkpoints/`; made if missing.
        optimizer: its groups list their parameters' names under `names`.
        keep: at least 1, this one included.

    Returns:
        the checkpoint's directory.

    Raises:
        UserError: no room; the previous checkpoints are as they were.
    """
    name = step_name(step)
    partial = root / f"{PARTIAL}{name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()
        digests = {
            "model.safetensors": write_tensors(partial / "model.safetensors", model.state_dict()),
            "optimizer.safetensors": write_tensors(partial / "optimizer.safetensors", optimizer_state(optimizer)),
        }
        write_json(partial / "state.json", {"format": FORMAT, "step": step, "sha256": digests})
        fsync_dir(partial)
        if (root / name).exists():  # a broken one that was passed over at the start
            os.rename(root / name, root / f"{PARTIAL}replaced-{name}")
        os.rename(partial, root / name)
        fsync_dir(root)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise no_room(error, root) from error
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # Newer directories than this one failed their check when the run started; counting them would evict good
    # ones.
    for old in [path for path in steps(root) if step_of(path) <= step][keep:]:
        os.rename(old, root / f"{PARTIAL}old-{old.name}")  # out of sight first: a kill now leaves no half checkpoint
    sweep(root)
    return root / name


def sweep(root: Path) -> list[str]:
    """Remove what a cut-short save or clean-up left; the names of what went."""
    orphans = sorted(root.glob(f"{PARTIAL}*"))
    for orphan in orphans:
        _remove(orphan)
    return [orphan.name for orphan in orphans]


def newest_good(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what was written; None where there is no checkpoint at all.

    Args:
        say: is told of each checkpoint that is passed over, and why.

    Raises:
        UserError: there are checkpoints and none is intact.
    """
    found = steps(root)
    for path in found:
        wrong = fault(path)
        if wrong is None:
            return path
        say(f"WARNING: checkpoint {path.name} is damaged ({wrong}); falling back to the one before")
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints is intact",
            where=root,
            fix="remove this directory to start the run over",
        )
    return None


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    try:
        state = json.loads((path / "state.json").read_text())
        for name, digest in state["sha256"].items():
            if sha256(path / name) != digest:
                return f"{name} has changed since it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "state.json cannot be read"
    return None if state.get("format") == FORMAT else f"format {state.get('format')}, not {FORMAT}"


def steps(root: Path) -> list[Path]:
    """All checkpoints, newest first."""
    return sorted((p for p in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", p.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.name.removeprefix("step_"))


def step_name(step: int) -> str:
    """`step_00000100`."""
    return f"step_{step:08d}"


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of each parameter as `<parameter name>/<what>`."""
    return {
        f"{name}/{what}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write and fsync a readable json file, through a rename, so that it is the old one or the new one.

    Raises:
        UserError: no room, or no right to write.
    """
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_json`, for any text."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        fsync_dir(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise no_room(error, path) from error


def fsync_dir(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
