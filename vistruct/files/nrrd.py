"""One NRRD file (`.nrrd`, or `.nhdr` with its data beside it): its header checked, its voxels whole or by the slice.

Source: Definition of NRRD File Format (Teem), versions 1 to 5. A library for it (pynrrd) would be one more dependency
for a header of text and an array that is raw or gzip. Other encodings and several data files are refused by name.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.volume_grid import Axis, Grid, grid

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_BY_NAME = {name: code for code, names in _TYPES.items() for name in names}
_TO_RAS = {  # what each axis of the space counts to, against right, front and up
    "left-posterior-superior": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
}
_SPACES = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
_MOST_HEADER = 2**20  # bytes
_FIX = "save it as .nii.gz, or as .nrrd with encoding raw or gzip"


@dataclass(frozen=True, eq=False)
class Nrrd:
    """An opened file."""

    path: Path
    grid: Grid
    data: Path  # the file of the voxels
    offset: int  # of the voxels in it, bytes
    dtype: np.dtype
    is_packed: bool

    def values(self) -> np.ndarray:
        """number[S, H, W].

        Raises:
            UnreadableImage: damaged or cut short.
        """
        return self.grid.stacked(self._array())

    def slice_values(self, number: int) -> np.ndarray:
        """number[H, W] of one slice; of a file that is not packed, nothing else is read."""
        return self.grid.upright(np.array(self._array()[self.grid.plane(number)]))

    def _array(self) -> np.ndarray:
        shape, number = self.grid.shape, math.prod(self.grid.shape)
        try:
            if not self.is_packed:
                return np.memmap(self.data, self.dtype, "r", offset=self.offset, shape=shape, order="F")
            packed = self.data.read_bytes()[self.offset :]
            content = zlib.decompressobj(47).decompress(
                packed, number * self.dtype.itemsize
            )  # no more than the header says
            return np.frombuffer(content, self.dtype, number).reshape(shape, order="F")
        except (OSError, ValueError, OverflowError, zlib.error) as error:
            what = f"cannot read the voxels: {error}"
            raise UnreadableImage(what, where=self.data, fix="copy or download it again") from error


def open_nrrd(path: Path, axis: Axis = "axial") -> Nrrd:
    """Read and check a header; no voxel is read.

    Raises:
        UnreadableImage: no such file, or no NRRD.
        UserError: no place in the patient, another encoding or type, more or fewer than three axes.
    """
    fields, offset = _header(path)
    encoding, type_ = fields.get("encoding", "").lower(), fields.get("type", "").lower()
    if encoding not in ("raw", "gzip", "gz") or type_ not in _BY_NAME:
        raise UserError(f"NRRD of type {type_!r}, encoding {encoding!r}", where=path, fix=_FIX)
    named = fields.get("data file", fields.get("datafile"))
    data = path if named is None else path.parent / named
    if named is not None and (named.split()[:1] in ([], ["LIST"]) or "%" in named or not data.is_file()):
        raise UserError(f"NRRD whose data are {named!r}", where=path, fix="one data file, beside the header")
    skip = fields.get("byte skip", fields.get("byteskip", "0"))
    if not skip.isdecimal() or fields.get("line skip", fields.get("lineskip", "0")) != "0":
        raise UserError("NRRD whose data begin somewhere in their file", where=path, fix=_FIX)
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "").lower(), "<")
    dtype = np.dtype(order + _BY_NAME[type_])
    shape, affine = _place(fields, path)
    start = int(skip) + (offset if named is None else 0)
    return Nrrd(path, grid(shape, affine, axis, path), data, start, dtype, encoding != "raw")


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the data begin."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_HEADER)
    except OSError as error:
        raise UnreadableImage(f"cannot read the volume: {error.strerror}", where=path, fix="check the path") from error
    if not content.startswith(b"NRRD000"):
        raise UnreadableImage("no NRRD", where=path, fix="copy or download it again")
    end = re.search(rb"\r?\n\r?\n", content)
    text = content[: end.start() if end else len(content)].decode("utf-8", "replace")
    pairs = (line.split(": ", 1) for line in text.splitlines()[1:] if ": " in line and not line.startswith("#"))
    return {name.strip().lower(): value.strip() for name, value in pairs}, end.end() if end else len(content)


def _place(fields: dict[str, str], path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Sizes, and float64[4, 4] from indices to RAS; axes of one that are not of space are left out."""
    space = fields.get("space", "").lower()
    to_ras = _TO_RAS.get(_SPACES.get(space, space))
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    try:
        sizes = [int(size) for size in fields.get("sizes", "").split()]
        kept = [at for at, one in enumerate(directions) if one != "none" or sizes[at] != 1]
        rows = [[float(v) for v in directions[at].strip("()").split(",")] for at in kept if directions[at] != "none"]
        origin = [float(v) for v in fields["space origin"].strip("()").split(",")]
        if (
            to_ras is None
            or len(sizes) != len(directions)
            or {len(row) for row in (*rows, origin)} != {3}
            or min(sizes) < 1
        ):
            raise ValueError
    except (KeyError, ValueError, IndexError):
        what = "the header does not say how the volume lies in the patient (space, space directions, space origin)"
        raise UserError(what, where=path, fix="write them into it, with the tool that made the file") from None
    affine = np.eye(4)
    if len(rows) == 3 == len(kept):
        affine[:3, :3], affine[:3, 3] = np.array(rows).T, origin
    affine[:3] *= np.array(to_ras)[:, None]
    return tuple(sizes[at] for at in kept), affine
