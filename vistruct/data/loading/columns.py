"""Named arrays in one file that is either as it was written or noticed to be not: the caches of the data.

The file is numpy's npz and the crc32 of it behind; nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.whole import whole_file
from vistruct.progress import notice

VERSION = 4  # of what is in the caches; another one makes them stale
_HEADER = "__header__"
_TAIL = 4  # bytes


class Stale(Exception):
    """A cache that cannot be used, and why."""


def cache_file(cache: Path, kind: str, *parts: object) -> Path:
    """Where a cache is kept that belongs to some files or settings; readable, and different for different parts."""
    text = "\x1f".join(str(part.absolute() if isinstance(part, Path) else part) for part in parts)
    stem = parts[0].stem if isinstance(parts[0], Path) else str(parts[0])
    return cache / f"{stem[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.{kind}.npz"


def kept_columns(file: Path, header: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """What is kept under this header; None where it must be made anew, which is said unless it never was there."""
    try:
        return read_columns(file, header)
    except Stale as reason:
        notice(f"{file} {reason}: made anew")
        return None


def keep_columns(file: Path, header: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
    """Keep columns for the next start.

    Raises:
        UserError: they cannot be written.
    """
    try:
        write_columns(file, header, columns)
    except OSError as error:
        what = f"the index of the data cannot be kept: {error.strerror}"
        raise UserError(what, where=file, fix="make room there, or choose another --out") from error


def write_columns(path: Path, header: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> None:
    """Write all of it or nothing.

    Args:
        header: plain json values that say what the columns belong to.

    Raises:
        OSError: the disk is full, or the folder may not be written to; an older file is untouched.
    """
    data = io.BytesIO()
    text = json.dumps({**header, "version": VERSION})
    arrays: dict[str, Any] = {_HEADER: np.frombuffer(text.encode(), np.uint8), **columns}
    np.savez(data, **arrays)
    with whole_file(path, "partial") as temporary, open(temporary, "wb") as file:
        file.write(data.getbuffer())
        file.write(zlib.crc32(data.getbuffer()).to_bytes(_TAIL, "little"))
        file.flush()
        os.fsync(file.fileno())


def read_columns(path: Path, header: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """What was written under an equal header; None where there is no file.

    Raises:
        Stale: the file is damaged, or belongs to something else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stale(f"cannot be read ({error.strerror})") from error
    body = memoryview(data)[:-_TAIL]
    if len(data) <= _TAIL or zlib.crc32(body) != int.from_bytes(data[-_TAIL:], "little"):
        raise Stale("is damaged")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            if json.loads(file[_HEADER].tobytes()) != {**header, "version": VERSION}:
                raise Stale("is out of date")
            return {name: file[name] for name in file.files if name != _HEADER}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # whole, and not ours: objects, most likely
        raise Stale(f"is no index ({error})") from error
