"""Label rasters as the numbers that were written: the index of a palette and not its colour, 16 bits as 16 bits.

Pillow reads all that label maps are written in: PNG and TIFF of 1, 8, 16 and 32 bits, palettes, colours, JPEG; where
rasterio is installed, it reads whole numbers of TIFF and its kin, window by window. torchvision's `decode_image` was
weighed: it turns palettes into colours. Rasters have a small cache of their own, as images have.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vistruct.contracts import RGB
from vistruct.files.decode import UnreadableImage, is_deep_png, num_images, opened, refuse_too_large, several
from vistruct.files.decoded_cache import DecodedCache
from vistruct.files.raster_files import read_numbers
from vistruct.files.raster_headers import header_of, is_windowed, stamp_of

Window = tuple[int, int, int, int]

CACHE_BYTES = 128 * 2**20  # of decoded rasters, in each process


def read_raster(path: Path, window_xyxy: Window | None = None) -> np.ndarray:
    """The numbers of a raster, or of a window of it.

    Args:
        path: PNG, TIFF, JPEG, BMP, GIF. A raster of one bit has the numbers 0 and 1; transparency is ignored.
        window_xyxy: pixels of the whole raster; right and bottom are exclusive.

    Returns:
        integer[H, W], or uint8[H, W, 3] if it is written in colours; the caller must not change it.

    Raises:
        UnreadableImage: no such file, damaged, several images, fractions, colours of 16 bits, or a window that does
            not lie inside.
    """
    path = Path(path)
    header = header_of(stamp_of(path)) if is_windowed(path) else None
    is_numbers = header is not None and len(header.types) == 1 and "int" in header.types[0]
    raster = None if is_numbers else _cache.get(path)
    height, width = header_of(stamp_of(path)).size_hw if raster is None else raster.shape[:2]
    x0, y0, x1, y1 = window_xyxy or (0, 0, width, height)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        what = f"window {window_xyxy} is not inside the labels of {width} x {height} pixels"
        raise UnreadableImage(what, where=path, fix="bring image and labels to the same grid")
    return raster[y0:y1, x0:x1] if raster is not None else read_numbers(path, (x0, y0, x1, y1))


def decode_raster(data: bytes, name: object) -> np.ndarray:
    """As `read_raster`, of the bytes of a file; `name` is said in errors."""
    with opened(io.BytesIO(data), name, eight_bit=False) as image:
        if num_images(image, data) > 1:
            raise several(name)
        if is_deep_png(image) and image.mode in ("RGB", "RGBA"):  # the lower 8 are dropped
            raise UnreadableImage("labels in colours of 16 bits", where=name, fix="write them in 8 bits")
        refuse_too_large(image, name, 6, data)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBa", "RGBX"):
            image = image.convert("RGB")
        return _numbers(image, name)


def palette_of(path: Path) -> tuple[RGB, ...] | None:
    """The colour of each value, of a raster that has a palette; None: it has none, or Pillow does not read it."""
    try:
        with Image.open(path) as image:
            colours = image.getpalette("RGB") if image.mode == "P" else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if colours is None:
        return None
    return tuple((red, green, blue) for red, green, blue in zip(*[iter(colours)] * 3, strict=True))


def clear_raster_cache() -> None:
    """Forget every decoded raster of this process."""
    _cache.clear()


def _numbers(image: Image.Image, name: object) -> np.ndarray:
    raster = np.array(image)
    if image.mode in ("LA", "La", "PA"):
        raster = raster[..., 0]
    elif image.mode == "RGBA":
        raster = np.ascontiguousarray(raster[..., :3])
    elif image.mode == "1":
        raster = raster.astype(np.uint8)
    elif image.mode == "F":
        if not np.array_equal(raster, np.rint(raster)):
            raise UnreadableImage("labels that are fractions", where=name, fix="write whole numbers: is this a mask?")
        raster = raster.astype(np.int32)
    return raster


_cache = DecodedCache(CACHE_BYTES, decode_raster)
