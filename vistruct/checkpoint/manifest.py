"""What a checkpoint holds, as its `manifest.json` says it: which rows of which tensor lie in which file.

    format    3
    step      optimiser steps done
    world     ranks that wrote it
    parallel  how the model lay among them: ddp or fsdp
    files     name -> bytes, sha256
    tensors   name -> dtype, shape, pieces: [{file, offset}]; a piece is stored under the tensor's name and begins at
              row `offset` of it. `model/NAME` are weights, `optimizer/NAME/WHAT` their optimiser state, `ema/NAME`
              their moving averages
    aliases   further names of one and the same weight (tied)
    standing  null, or what the run is judged by: step and value of the best, value of the last, evaluations since
    scaler    null, or of fp16 how its gradients are scaled
    sha256    of all the rest

The file is written last, so that a directory with a manifest is a whole checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistruct.errors import UserError

FORMAT = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows of a tensor, in a file."""

    file: str
    offset: int  # the first row within the whole tensor; 0 for a single number


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A whole tensor and where its pieces are, by offset."""

    dtype: str  # as torch calls it: float32
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one rank says of a tensor that it holds rows of, or could."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of the whole
    offset: int
    rows: int  # 0: none; nothing is written then


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file that one rank has written."""

    file: str
    bytes: int
    sha256: str
    held: tuple[Held, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a run stands by the number that it is judged by."""

    best_step: int | None = None  # after which the best one was measured; None: none was that is finite
    best: float | None = None
    last: float | None = None  # the one measured last; None: not finite
    since: int = 0  # evaluations since the best one, or since the beginning


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of it."""

    step: int
    world: int
    parallel: str
    files: Mapping[str, tuple[int, str]]  # bytes, sha256
    tensors: Mapping[str, Entry]
    aliases: Mapping[str, str]  # name -> the name that its tensor is stored under
    standing: Standing | None = None  # None: not judged yet
    scaler: Mapping[str, float] | None = None  # state of torch's GradScaler; None: there is none

    def to_dict(self) -> dict[str, Any]:
        """As it is written."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "world": self.world,
            "parallel": self.parallel,
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in self.files.items()},
            "tensors": {
                name: {
                    "dtype": entry.dtype,
                    "shape": list(entry.shape),
                    "pieces": [{"file": piece.file, "offset": piece.offset} for piece in entry.pieces],
                }
                for name, entry in self.tensors.items()
            },
            "aliases": dict(self.aliases),
            "standing": None if self.standing is None else asdict(self.standing),
            "scaler": None if self.scaler is None else dict(self.scaler),
        }
        return values | {"sha256": _digest(values)}


def num_rows(shape: Sequence[int]) -> int:
    """Rows of a tensor; a single number is one."""
    return shape[0] if len(shape) else 1


def assemble(
    step: int,
    parallel: str,
    shards: Sequence[Shard],
    aliases: Mapping[str, str],
    standing: Standing | None = None,
    scaler: Mapping[str, float] | None = None,
) -> Manifest:
    """Put together what all ranks hold.

    Raises:
        ValueError: they do not agree, or their pieces do not make up every tensor exactly once.
    """
    tensors: dict[str, Entry] = {}
    rows: dict[str, list[tuple[int, int, str]]] = {}  # (offset, rows, file)
    for shard in shards:
        for held in shard.held:
            entry = tensors.setdefault(held.name, Entry(dtype=held.dtype, shape=held.shape, pieces=()))
            if (entry.dtype, entry.shape) != (held.dtype, held.shape):
                raise ValueError(f"ranks disagree on {held.name}: {entry} and {held}")
            if held.rows:
                rows.setdefault(held.name, []).append((held.offset, held.rows, shard.file))
    for name, entry in tensors.items():
        found, end = sorted(rows.get(name, [])), 0
        for offset, number, _ in found:
            if offset != end:
                raise ValueError(f"rows {end} to {offset} of {name} are missing, or there twice")
            end += number
        if end != num_rows(entry.shape) and 0 not in entry.shape:
            raise ValueError(f"{end} of {num_rows(entry.shape)} rows of {name} are there")
        pieces = tuple(Piece(file=file, offset=offset) for offset, _, file in found)
        tensors[name] = Entry(dtype=entry.dtype, shape=entry.shape, pieces=pieces)
    return Manifest(
        step=step,
        world=len(shards),
        parallel=parallel,
        files={shard.file: (shard.bytes, shard.sha256) for shard in shards},
        tensors=tensors,
        aliases=dict(aliases),
        standing=standing,
        scaler=scaler,
    )


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a checkpoint's directory.

    Raises:
        UserError: not there, changed since it was written, or of another format.
    """
    file = path / MANIFEST
    fix = "remove this checkpoint; the run resumes from the one before"
    try:
        values = json.loads(file.read_text())
        digest = values.pop("sha256")
        if _digest(values) != digest:
            raise UserError(f"{MANIFEST} has changed since it was written", where=file, fix=fix)
        if values["format"] != FORMAT:
            raise UserError(f"format {values['format']}, not {FORMAT}", where=file, fix="update vistruct")
        return Manifest(
            step=values["step"],
            world=values["world"],
            parallel=values["parallel"],
            files={name: (note["bytes"], note["sha256"]) for name, note in values["files"].items()},
            tensors={
                name: Entry(
                    dtype=entry["dtype"],
                    shape=tuple(entry["shape"]),
                    pieces=tuple(Piece(file=piece["file"], offset=piece["offset"]) for piece in entry["pieces"]),
                )
                for name, entry in values["tensors"].items()
            },
            aliases=values["aliases"],
            standing=None if values["standing"] is None else Standing(**values["standing"]),
            scaler=values.get("scaler"),
        )
    except OSError as error:
        raise UserError(f"{MANIFEST}: {error.strerror}", where=file, fix=fix) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{MANIFEST} cannot be read", where=file, fix=fix) from error


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
