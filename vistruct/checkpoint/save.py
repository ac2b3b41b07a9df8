"""Checkpoints that are either whole or not there.

A checkpoint is written into a fresh directory, its files and the directory are fsynced, and one rename makes
it `step_00000100`. What a cut-short write leaves is a `.partial-*` directory, which nothing reads and the
next start removes. Older ones go only after the new one stands.

    checkpoints/step_00000100/
        shard_00000-of-00002.safetensors    what rank 0 wrote
        shard_00001-of-00002.safetensors    what rank 1 wrote
        manifest.json                       which rows of which tensor lie where; sha256 of each file
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistruct.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from vistruct.checkpoint.tensors import no_room, sha256
from vistruct.distributed.ranks import from_main, gather_objects, own_rank, world_size
from vistruct.errors import UserError

PARTIAL = ".partial-"


def begin(root: Path, step: int) -> Path:
    """An empty directory to write the checkpoint of `step` into.

    Raises:
        UserError: no room, or no right to write.
    """
    partial = root / f"{PARTIAL}{step_name(step)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()
    except OSError as error:
        raise no_room(error, root) from error
    return partial


def commit(partial: Path, manifest: Manifest, *, keep: int) -> Path:
    """Make a checkpoint of what was written, then remove all but the `keep` newest and those that these call the best.

    Args:
        partial: from `begin`, with the fsynced files of all ranks in it.
        keep: at least 1, this one included.

    Returns:
        the checkpoint's directory.

    Raises:
        UserError: no room, or a file is not there; the previous checkpoints are as they were.
    """
    root, name = partial.parent, step_name(manifest.step)
    try:
        for file, (size, _) in manifest.files.items():
            if not (partial / file).is_file() or (partial / file).stat().st_size != size:
                raise UserError(
                    f"{file}, which another device has written, is not here",
                    where=partial,
                    fix="give a run directory (--out) that all machines share",
                )
        write_json(partial / MANIFEST, manifest.to_dict(), indent=None)
        fsync_dir(partial)
        if (root / name).exists():  # a broken one that was passed over at the start
            os.rename(root / name, root / f"{PARTIAL}replaced-{name}")
        os.rename(partial, root / name)
        fsync_dir(root)
    except OSError as error:
        raise no_room(error, root) from error
    # Newer directories than this one failed their check when the run started; counting them would evict good
    # ones.
    known = [path for path in steps(root) if step_of(path) <= manifest.step]
    needed = {step_of(path) for path in known[:keep]} | {_best_of(path) for path in known[:keep]}
    for old in known[keep:]:
        if step_of(old) not in needed:
            os.rename(old, root / f"{PARTIAL}old-{old.name}")  # out of sight first: no kill leaves half a checkpoint
    sweep(root)
    return root / name


def sweep(root: Path) -> list[str]:
    """Remove what a cut-short save or clean-up left; the names of what went."""
    orphans = sorted(root.glob(f"{PARTIAL}*"))
    for orphan in orphans:
        _remove(orphan)
    return [orphan.name for orphan in orphans]


def _best_of(path: Path) -> int | None:
    """The step that was the best when a checkpoint was written; None: none was, or it is damaged."""
    try:
        standing = read_manifest(path).standing
    except UserError:
        return None
    return None if standing is None else standing.best_step


def newest_good(root: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what was written; None where there is no checkpoint at all.

    All ranks call it together and share the reading.

    Args:
        say: is told of each checkpoint that is passed over, and why.

    Raises:
        UserError: there are checkpoints and none is intact.
    """
    found = from_main(steps(root))
    for path in found:
        wrong = fault_of_all(path)
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


def fault_of_all(path: Path) -> str | None:
    """As `fault`; all ranks call it together and share the reading."""
    faults = gather_objects(fault(path, own_rank(), world_size()))
    return next((one for one in faults if one is not None), None)


def fault(path: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint, as far as every `parts`-th of its files tells, from the one numbered `part` on.

    None: nothing.
    """
    try:
        manifest = read_manifest(path)
        for name, (_, digest) in sorted(manifest.files.items())[part::parts]:
            if sha256(path / name) != digest:
                return f"{name} has changed since it was written"
    except UserError as error:
        return error.what
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    return None


def steps(root: Path) -> list[Path]:
    """All checkpoints, newest first."""
    return sorted((p for p in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", p.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.name.removeprefix("step_"))


def step_name(step: int) -> str:
    """`step_00000100`."""
    return f"step_{step:08d}"


def write_json(path: Path, values: dict[str, Any], *, indent: int | None = 2) -> None:
    """Write and fsync a readable json file, through a rename, so that it is the old one or the new one.

    Raises:
        UserError: no room, or no right to write.
    """
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")


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
