"""Where each entry of an annotation file lies, so that one can be read without the others.

A jsonl file has one entry on a line. A json list has its entries between brackets; it is one value, and a fault
anywhere in it is a fault of the whole file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vistruct.errors import UserError

_BLOCK = 16 * 2**20  # bytes read at once
_BOM = b"\xef\xbb\xbf"
_WHITE = " \t\n\r"


@dataclass(frozen=True, kw_only=True, eq=False)
class Offsets:
    """The entries of one file as it was when they were found; small, and free of open handles."""

    path: Path
    size: int  # of the file, bytes
    mtime_ns: int
    is_list: bool  # a json list; else one entry on a line
    starts: np.ndarray  # int64[N], bytes
    lengths: np.ndarray  # int64[N], bytes
    numbers: np.ndarray  # int32[N], of its line, or of its place in the list; from 1

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, row: int) -> bytes:
        """The bytes of one entry.

        Raises:
            UserError: the file is gone or has changed.
        """
        file = _opened(self.path, self.size, self.mtime_ns)
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise UserError("the annotation file changed after it was read", where=self.path, fix="start again")
        return os.pread(file.fileno(), int(self.lengths[row]), int(self.starts[row]))

    def some(self, rows: slice | np.ndarray) -> Offsets:
        """Those of some entries, bool[N] or a slice."""
        return replace(self, starts=self.starts[rows], lengths=self.lengths[rows], numbers=self.numbers[rows])

    def place(self, row: int) -> str:
        """`file.jsonl:12`, or `file.json#12` for the twelfth of a list."""
        return f"{self.path.name}{self._at(row)}"

    def whole_place(self, row: int) -> str:
        """As `place`, with the folder."""
        return f"{self.path}{self._at(row)}"

    def _at(self, row: int) -> str:
        return f"{'#' if self.is_list else ':'}{self.numbers[row]}"


def find_entries(path: Path) -> tuple[Offsets, str]:
    """The lines of a jsonl file, blank ones too, or the entries of a json list; which of the two, the first byte tells.

    Returns:
        the offsets, and the sha256 of the file in hexadecimal digits.

    Raises:
        UserError: no such file, or a list that is not json.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(4096)
            skip = len(_BOM) if head.startswith(_BOM) else 0
            file.seek(0)
            is_list = head[skip:].lstrip(_WHITE.encode())[:1] == b"["
            starts, lengths, digest = _list_entries(file.read(), skip, path) if is_list else _lines(file, skip)
    except FileNotFoundError:
        raise UserError("no such annotation file", where=path, fix="check the path") from None
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read") from error
    offsets = Offsets(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        is_list=is_list,
        starts=starts,
        lengths=lengths,
        numbers=np.arange(1, len(starts) + 1, dtype=np.int32),
    )
    return offsets, digest


def _lines(file: BinaryIO, skip: int) -> tuple[np.ndarray, np.ndarray, str]:
    digest = hashlib.sha256()
    ends: list[np.ndarray] = []
    size = 0
    while block := file.read(_BLOCK):
        digest.update(block)
        ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + size)
        size += len(block)
    end = np.concatenate([*ends, np.array([size])]).astype(np.int64)  # the last line may lack its newline
    start = np.concatenate([np.array([skip]), end[:-1] + 1])
    if start[-1] == end[-1]:  # it does not
        start, end = start[:-1], end[:-1]
    return start, end - start, digest.hexdigest()


def _list_entries(data: bytes, skip: int, path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    # One character a byte: json's own marks are ASCII, so the entries end where they end in UTF-8.
    text = data.decode("latin-1")
    decoder = json.JSONDecoder()
    starts: list[int] = []
    ends: list[int] = []

    def skip_white(at: int) -> int:
        while text[at : at + 1] in _WHITE and at < len(text):
            at += 1
        return at

    def broken(what: str, at: int) -> UserError:
        line = text.count("\n", 0, at) + 1
        return UserError(
            f"not valid json: {what}", where=f"{path}:{line}", fix="a list of objects, or one on each line"
        )

    at = skip_white(skip_white(skip) + 1)
    is_open = text[at : at + 1] != "]"
    while is_open:
        try:
            end = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is one too
            place = error.pos if isinstance(error, json.JSONDecodeError) else at
            raise broken(f"entry {len(starts) + 1} of the list cannot be read", place) from error
        starts.append(at)
        ends.append(end)
        at = skip_white(end)
        is_open = text[at : at + 1] != "]"
        if is_open and text[at : at + 1] != ",":
            raise broken(f"entry {len(starts)} of the list is not followed by a comma or the end of the list", at)
        at = skip_white(at + 1) if is_open else at
    if skip_white(at + 1) < len(text):
        raise broken("there is more behind the end of the list", at)
    start, end = np.array(starts, np.int64), np.array(ends, np.int64)
    return start, end - start, hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=256)
def _opened(path: Path, size: int, mtime_ns: int) -> FileIO:
    """An open file for `pread`, which has no position that forked workers could fight over; closed when forgotten."""
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="put the file back") from error
