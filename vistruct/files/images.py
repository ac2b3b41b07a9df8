"""The one door to the pixels of image files: whole or in windows, 8-bit colours or what an intake makes of the values.

Who decodes is decided here and nowhere else. What can be decoded window by window (GeoTIFF and its kin, `raster_files`)
is, where rasterio is installed: a file larger than memory costs a window's blocks. What is written from one end to the
other (PNG, JPEG), and everything where rasterio is not installed, is decoded whole (`decode`) and kept in a small
cache, so that the windows of an image that follow each other decode it once (see `data/loading/visits.py`).

An image that cannot be read, or is no longer what it was when the data set was listed, is an `UnreadableImage` error.
What a training run does about one is decided in one place, `data.loader`: it stops, or takes another sample and
says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import Record, Window
from vistruct.files.decode import UnreadableImage, decode, unreadable
from vistruct.files.decoded_cache import CACHE_BYTES, DecodedCache, changed
from vistruct.files.embedded import image_bytes
from vistruct.files.geo import images_of, read_bands
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import header_of, is_windowed, stamp_of
from vistruct.files.raster_headers import size_of_image as image_size

__all__ = ["DecodedCache", "UnreadableImage", "clear_cache", "decode", "image_size", "read_image", "read_images"]

_ROWS = 512  # decoded at a time where not all is needed


def read_image(
    path: Path | Sequence[Path],
    window_xyxy: Window | None = None,
    crc32: int | None = None,
    intake: Intake | None = None,
) -> Tensor:
    """An image, or the part of it inside a window.

    A whole image stays in a small per-process cache, so that the windows of a large scene decode it once, where windows
    alone cannot be decoded. One image larger than the cache is held at a time, and given up before the next is decoded.

    Args:
        path: an image file; or several of one band each (and an intake).
        window_xyxy: pixels of the whole image; right and bottom are exclusive.
        crc32: what `zlib.crc32` said of the file's bytes when the data set was listed; looked at whenever they are
            read. None: not known.
        intake: which bands, and what becomes of their values; None: 8-bit colours.

    Returns:
        uint8[3, H, W], RGB, or what the intake says; the caller's own copy.

    Raises:
        UnreadableImage: no such file, no image, cut short, damaged, changed, too many pixels, or a window that does not
            lie inside the image.
        UserError: no 8-bit colours, and no intake; as in `read_bands`.
    """
    files = (Path(path),) if isinstance(path, str | Path) else tuple(path)
    if len(files) > 1 or intake is not None:
        return read_bands(files, window_xyxy, intake)
    path = files[0]
    if is_windowed(path):
        if crc32 is not None:
            _check_bytes(path, crc32)
        return _side_by_side(read_bands(path, window_xyxy, None))
    image = _cache.get(path, crc32)
    if window_xyxy is None:
        return image.clone()
    x0, y0, x1, y1 = window_xyxy
    height, width = image.shape[1:]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UnreadableImage(
            f"window {window_xyxy} is not inside the image of {width} x {height} pixels",
            where=path,
            fix="the image changed after its annotations were read: check it and start again",
        )
    return image[:, y0:y1, x0:x1].clone()


def read_images(record: Record, intake: Intake | None = None) -> list[Tensor]:
    """number[C, H, W] of each image of a record, or of its window of each.

    `Record.images` are one file an image, or as many as the note FILES_AN_IMAGE says, image after image.

    Raises:
        UnreadableImage, UserError: as in `read_image`.
    """
    return [read_image(files, record.window_xyxy, intake=intake) for files in images_of(record)]


def colour_size(path: Path, fix: str = "save it as an 8-bit PNG or JPEG") -> tuple[int, int]:
    """As `image_size`, of an image that `read_image` reads without an intake.

    Args:
        fix: what to do about one that it does not read.

    Raises:
        UnreadableImage: as `image_size`; or it is no 8-bit colours.
    """
    header = header_of(stamp_of(path))
    if not header.is_colour:
        bands = f"{len(header.types)} band{'s' * (len(header.types) > 1)}"
        what = f"{bands} of {header.types[0]}, where 8-bit grey or RGB is expected"
        raise UnreadableImage(what, where=path, fix=fix)
    return header.size_hw


def check_pixels(path: Path, intake: Intake | None = None) -> None:
    """Decode all of an image, a few rows at a time where that is possible.

    Raises:
        UnreadableImage, UserError: as in `read_image`.
    """
    if intake is None and not is_windowed(path):
        try:
            decode(image_bytes(path), path)
        except OSError as error:
            raise unreadable(path, error) from error
        return
    height, width = image_size(path)
    rows = _ROWS if is_windowed(path) else height
    for y in range(0, height, rows):
        read_image(path, (0, y, width, min(y + rows, height)), intake=intake)


def clear_cache() -> None:
    """Forget every decoded image of this process."""
    _cache.clear()


def _side_by_side(image: Tensor) -> Tensor:
    """The same with the colours of a pixel side by side in memory; by channel, several times as fast as at once."""
    pixels = np.empty((*image.shape[1:], len(image)), np.uint8)
    for channel, values in enumerate(image.numpy()):
        pixels[..., channel] = values
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _check_bytes(path: Path, crc32: int) -> None:
    found = 0
    try:
        with open(path, "rb") as file:
            while part := file.read(2**20):
                found = zlib.crc32(part, found)
    except OSError as error:
        raise unreadable(path, error) from error
    if found != crc32:
        raise changed(path)


_cache = DecodedCache(CACHE_BYTES, decode)
