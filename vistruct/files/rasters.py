"""Label rasters as the numbers that were written: the index of a palette and not its colour, 16 bits as 16 bits.

Pillow reads all that label maps are written in: PNG and TIFF of 1, 8, 16 and 32 bits, palettes, colours, JPEG. What it
does not know, `geo` reads where rasterio is installed. torchvision's `decode_image` was weighed: it turns palettes into
colours. Rasters have a small cache of their own, as images have.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vistruct.files.decode import UnreadableImage, opened, pillow_says, upright_size
from vistruct.files.images import DecodedCache

Window = tuple[int, int, int, int]

CACHE_BYTES = 128 * 2**20  # of decoded rasters, in each process

_TIFFS = (".tif", ".tiff", ".img", ".jp2")


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
    raster = _cache.get(Path(path))
    if window_xyxy is None:
        return raster
    x0, y0, x1, y1 = window_xyxy
    height, width = raster.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        what = f"window {window_xyxy} is not inside the labels of {width} x {height} pixels"
        raise UnreadableImage(what, where=path, fix="bring image and labels to the same grid")
    return raster[y0:y1, x0:x1]


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels from the header alone, of any image or raster.

    Raises:
        UnreadableImage: no such file, or none that can be opened.
    """
    try:
        with opened(path, path, eight_bit=False) as image:
            return upright_size(image)
    except UnreadableImage:
        if Path(path).suffix.lower() not in _TIFFS or not Path(path).is_file():
            raise
        from vistruct.files import geo

        return geo.raster_size(path)


def decode_raster(data: bytes, name: object) -> np.ndarray:
    """As `read_raster`, of the bytes of a file; `name` is said in errors."""
    with opened(io.BytesIO(data), name, eight_bit=False) as image:
        if pillow_says(image, "n_frames", 1) > 1:
            raise UnreadableImage("this file holds several images", where=name, fix="save one image in a file")
        if ";16" in str(pillow_says(image, "tile", "")) and image.mode in ("RGB", "RGBA"):  # the lower 8 are dropped
            raise UnreadableImage("labels in colours of 16 bits", where=name, fix="write them in 8 bits")
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBa", "RGBX"):
            image = image.convert("RGB")
        return _numbers(image, name)


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
