"""One MetaImage file (`.mha`, or `.mhd` with its data beside it): its header checked, its voxels whole or by the slice.

Source: ITK's documentation of MetaIO. Directions and places count to the patient's left and back (LPS), as ITK has it;
the rows of TransformMatrix are the directions of the axes. A library for it (SimpleITK) would be one more dependency
for a header of text and an array that is raw or zlib.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage
from vistruct.files.nrrd import Nrrd
from vistruct.files.volume_grid import Axis, grid

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MOST_HEADER = 2**20  # bytes
_FIX = "save it as .nii.gz, or as .mha of one number a voxel, raw or compressed"


def open_metaimage(path: Path, axis: Axis = "axial") -> Nrrd:
    """Read and check a header; no voxel is read. What is in the file lies as in an NRRD file.

    Raises:
        UnreadableImage: no such file, or no MetaImage.
        UserError: no place in the patient, another type, several numbers a voxel, other than three axes.
    """
    fields, offset = _header(path)
    type_, channels = fields.get("elementtype", ""), fields.get("elementnumberofchannels", "1")
    is_binary = fields.get("binarydata", "true").lower() == "true"
    if type_ not in _TYPES or channels != "1" or not is_binary:
        what = f"MetaImage of type {type_!r}, {channels} numbers a voxel{'' if is_binary else ', as text'}"
        raise UserError(what, where=path, fix=_FIX)
    named = fields["elementdatafile"]
    is_local = named.upper() == "LOCAL"
    data = path if is_local else path.parent / named
    if not is_local and (named.split()[:1] == ["LIST"] or "%" in named or not data.is_file()):
        raise UserError(f"MetaImage whose data are {named!r}", where=path, fix="one data file, beside the header")
    shape, affine = _place(fields, path)
    is_big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")).lower() == "true"
    dtype = np.dtype((">" if is_big else "<") + _TYPES[type_])
    is_packed = fields.get("compresseddata", "false").lower() == "true"
    skip = fields.get("headersize", "0")
    if skip not in ("0", "-1") and (is_local or not skip.isdecimal()):
        raise UserError("MetaImage whose data begin somewhere in their file", where=path, fix=_FIX)
    start = offset if is_local else max(int(skip), 0)
    if skip == "-1" and not is_packed:  # the data are the end of their file
        start = data.stat().st_size - math.prod(shape) * dtype.itemsize
    return Nrrd(path, grid(shape, affine, axis, path), data, start, dtype, is_packed)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the data begin: after the one that says where they are."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_HEADER)
    except OSError as error:
        raise UnreadableImage(f"cannot read the volume: {error.strerror}", where=path, fix="check the path") from error
    end = re.search(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*=[^\n]*(?:\n|$)", content)
    if end is None or b"\0" in content[: end.start()]:
        raise UnreadableImage("no MetaImage", where=path, fix="copy or download it again")
    lines = content[: end.end()].decode("utf-8", "replace").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    if not fields["elementdatafile"]:
        raise UnreadableImage("no MetaImage: nothing says where its data are", where=path, fix="write it again")
    return fields, end.end()


def _place(fields: dict[str, str], path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Sizes, and float64[4, 4] from indices to RAS; a fourth axis of one is left out."""
    names = (("transformmatrix", "rotation", "orientation"), ("offset", "position", "origin"), ("elementspacing",))
    told = [next((fields[name] for name in same if name in fields), "") for same in names]
    try:
        sizes = [int(size) for size in fields.get("dimsize", "").split()]
        matrix, origin, spacing = ([float(value) for value in text.split()] for text in told)
        number = len(sizes)
        if not sizes or min(sizes) < 1 or (len(matrix), len(origin), len(spacing)) != (number**2, number, number):
            raise ValueError
    except ValueError:
        what = "the header does not say how the volume lies in the patient (TransformMatrix, Offset, ElementSpacing)"
        raise UserError(what, where=path, fix="write them into it, with the tool that made the file") from None
    affine = np.eye(4)
    if sizes[3:] == [1] * (number - 3) and number >= 3:
        sizes = sizes[:3]
        directions = np.array(matrix).reshape(number, number)[:3, :3].T
        affine[:3, :3], affine[:3, 3] = directions * spacing[:3], origin[:3]
        affine[:2] *= -1
    return tuple(sizes), affine
