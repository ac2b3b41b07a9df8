"""Label maps as PNG files, written row by row: an image larger than memory has a map that is larger than memory.

Pillow and GDAL write PNG from whole images only, and the pure-Python encoders that can do rows (pypng) would be a
dependency for forty lines: a header, a palette, one zlib stream.

Source: PNG specification (W3C), third edition: chunks, colour types 0 (grey), 2 (RGB) and 3 (palette), no filter, which
is what it advises for palettes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vistruct.contracts import RGB
from vistruct.files.whole import whole_file

_GREY, _RGB, _PALETTE = 0, 2, 3
_LARGEST = 2**31 - 1  # pixels of a side


def write_png(
    path: Path, strips: Iterable[np.ndarray], size_hw: tuple[int, int], palette: Sequence[RGB] | None = None
) -> None:
    """Write a PNG from strips of whole rows, from top to bottom; complete or not at all.

    Args:
        strips: uint8[h, W] or uint16[h, W] (grey, or numbers of a palette), or uint8[h, W, 3]; all of one kind.
        size_hw: of the whole, pixels.
        palette: colours of the numbers 0, 1, ... (at most 256); None: grey. 8 bits only.

    Raises:
        ValueError: strips that do not fit together, or not as many rows as `size_hw` says.
        OSError: the folder cannot be made, or the disk is full; a file that was there is untouched.
    """
    height, width = size_hw
    if not (0 < height <= _LARGEST and 0 < width <= _LARGEST):
        raise ValueError(f"{width} x {height} pixels make no PNG")
    with whole_file(path) as temporary, temporary.open("wb") as file:
        rows = _write(file, strips, size_hw, palette)
        if rows != height:
            raise ValueError(f"{rows} rows for a PNG of {height}")


def _write(
    file: BinaryIO, strips: Iterable[np.ndarray], size_hw: tuple[int, int], palette: Sequence[RGB] | None
) -> int:
    """How many rows there were."""
    height, width = size_hw
    packer, kind, rows = zlib.compressobj(6), None, 0
    for strip in strips:
        mine = (strip.dtype.str[1:], strip.shape[2:])
        if kind is None:
            kind = mine
            colour = {("u1", ()): _GREY, ("u2", ()): _GREY, ("u1", (3,)): _RGB}.get(kind)
            if colour is None or (palette is not None and (kind != ("u1", ()) or len(palette) > 256)):
                raise ValueError(f"no PNG of {strip.dtype}{list(strip.shape)}{' with this palette' if palette else ''}")
            file.write(b"\x89PNG\r\n\x1a\n")
            bits, colour = 8 * strip.itemsize, _PALETTE if palette is not None else colour
            _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
            if palette is not None:
                _chunk(file, b"PLTE", np.array(palette, np.uint8).tobytes())
        if not len(strip):
            continue
        if mine != kind or strip.shape[1] != width:
            raise ValueError(f"a strip of {strip.dtype}{list(strip.shape)} in a PNG {width} wide that began as {kind}")
        lines = np.ascontiguousarray(strip).astype(strip.dtype.newbyteorder(">"), copy=False)
        lines = lines.view(np.uint8).reshape(len(strip), -1)
        with_filter = np.concatenate([np.zeros((len(lines), 1), np.uint8), lines], axis=1)
        packed = packer.compress(with_filter.tobytes())
        if packed:
            _chunk(file, b"IDAT", packed)
        rows += len(strip)
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")
    return rows


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
