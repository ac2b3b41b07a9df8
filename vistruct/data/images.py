"""Files on disk to uint8 RGB, or one clear error that names the file.

Pillow decodes everything. Torchvision's decoders are faster on JPEG, but deprecated since 0.29, and its PNG
decoder ends the whole process (segmentation fault) on more than half of slightly damaged files.

The EXIF orientation is applied, so that what is decoded is what an annotation tool showed. Grey, palette and
transparent images become RGB (transparency is ignored). Images of more than 8 bits, of floats, or of bands
that are not colours are refused, because every way to squeeze them into 8 bits is a guess.

Not caught: bytes damaged in the middle of a JPEG usually decode without any sign of it.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vistruct.errors import UserError

MAX_PIXELS = 178_956_970  # 0.5 GiB decoded; more is taken for a decompression bomb. Raised by the variable below
MAX_PIXELS_VARIABLE = "VISTRUCT_MAX_IMAGE_PIXELS"
CACHE_BYTES = 256 * 2**20  # of decoded images, in each process

_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width
_EXTRA_SAMPLES = 338  # TIFF tag; 1 and 2 are transparency, anything else is a band that is no colour
_SAMPLES_PER_PIXEL = 277  # TIFF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
_EIGHT_BIT_MODES = {
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
}
# What Pillow's parsers raise at damaged bytes; it has no common class for them.
_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, struct.error, zlib.error)


def read_image(path: Path, window_xyxy: tuple[int, int, int, int] | None = None) -> Tensor:
    """Decode an image, or the part of it inside a window.

    A whole image stays in a small per-process cache, so that the windows of a large scene decode it once.

    Args:
        path: any 8-bit image that Pillow reads.
        window_xyxy: pixels of the whole image; right and bottom are exclusive.

    Returns:
        uint8[3, H, W], RGB; the caller's own copy.

    Raises:
        UserError: no such file, no image, cut short, too many pixels, more than 8 bits, or a window that does
            not lie inside the image.
    """
    image = _cache.get(path)
    if window_xyxy is None:
        return image.clone()
    x0, y0, x1, y1 = window_xyxy
    height, width = image.shape[1:]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"window {window_xyxy} is not inside the image of {width} x {height} pixels",
            where=path,
            fix="the image changed after its annotations were read: check it and start again",
        )
    return image[:, y0:y1, x0:x1].clone()


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels from the header alone, as `read_image` will give it.

    Raises:
        UserError: no such file, no image, too many pixels, or more than 8 bits.
    """
    with _opened(path, path) as image:
        return _upright_size(image)


def decode(data: bytes, name: object) -> Tensor:
    """Decode the bytes of an image file; `name` is said in errors.

    Returns:
        uint8[3, H, W], RGB.

    Raises:
        UserError: as `read_image`.
    """
    with _opened(io.BytesIO(data), name) as image:
        is_preview = image.format == "MPO"  # a phone's JPEG with a small copy behind it
        if getattr(image, "n_frames", 1) > 1 and not is_preview:
            raise UserError("this file holds several images", where=name, fix="save one image in a file")
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()


def clear_cache() -> None:
    """Forget every decoded image of this process."""
    _cache.clear()


class _Cache:
    """The most recently used images, as many as fit; the newest stays whatever its size."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.images: OrderedDict[tuple[str, int, int], Tensor] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, path: Path) -> Tensor:
        data = None
        try:
            status = os.stat(path)
            key = (
                os.fspath(path),
                status.st_mtime_ns,
                status.st_size,
            )  # a file that changed is another image
            with self.lock:
                if key in self.images:
                    self.images.move_to_end(key)
                    return self.images[key]
            data = Path(path).read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        image = decode(data, path)
        with self.lock:
            self.images[key] = image
            while len(self.images) > 1 and sum(i.nbytes for i in self.images.values()) > self.max_bytes:
                self.images.popitem(last=False)
        return image

    def clear(self) -> None:
        with self.lock:
            self.images.clear()


_cache = _Cache(CACHE_BYTES)
_pillow_limit = threading.Lock()


@contextmanager
def _opened(source: Path | io.BytesIO, name: object) -> Generator[Image.Image]:
    """A Pillow image whose header is sound and promises no more than we are ready to decode."""
    try:
        with _pillow_limit, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            pillow_limit, Image.MAX_IMAGE_PIXELS = (
                Image.MAX_IMAGE_PIXELS,
                None,
            )  # ours, below, names the way out
            try:
                image = Image.open(source)
            finally:
                Image.MAX_IMAGE_PIXELS = pillow_limit
        with image:
            _refuse(image, name)
            yield image
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise _unreadable(name, error) from error
    except _DAMAGE as error:
        raise _broken(name, error, source) from error


def _refuse(image: Image.Image, name: object) -> None:
    limit = _max_pixels()
    width, height = image.size
    if width * height > limit:
        raise UserError(
            f"{width} x {height} = {width * height} pixels, more than the limit of {limit}",
            where=name,
            fix=f"if you trust this file, set {MAX_PIXELS_VARIABLE}={width * height}; or cut it up",
        )
    if image.mode not in _EIGHT_BIT_MODES:
        raise _not_eight_bit(name, f"pixels of type {image.mode}")
    tags = getattr(image, "tag_v2", {})  # TIFF only
    layout = str(getattr(image, "tile", "")) if image.format == "PNG" else ""
    if ";16" in layout or max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:  # Pillow would drop the lower bits
        raise _not_eight_bit(name, "16 bits a channel")
    extra = tags.get(_EXTRA_SAMPLES, ())
    if any(kind not in (1, 2) for kind in extra):
        raise _not_eight_bit(name, f"{tags.get(_SAMPLES_PER_PIXEL)} bands, not all of them colours")


def _max_pixels() -> int:
    value = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not value.isdecimal():
        raise UserError(f"{value!r} is not a number of pixels", where=MAX_PIXELS_VARIABLE, fix="for example 400000000")
    return int(value)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # Pillow turns a TIFF by itself, and its size is already the turned one
        return height, width
    if image.format == "PNG" and "exif" not in image.info:  # asking on would decode the whole file
        return height, width
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _unreadable(name: object, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError("no such image", where=name, fix="check the path, and where the image folder is")
    return UserError(f"cannot read the image: {error.strerror or error}", where=name, fix="check path and permissions")


def _broken(name: object, error: Exception, source: Path | io.BytesIO | None = None) -> UserError:
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else None
    if isinstance(source, Path):
        size = source.stat().st_size
    if size == 0:
        return UserError("the image file is empty (0 bytes)", where=name, fix="copy or download it again")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in reason:
        reason = "not an image that can be read here (a GeoTIFF of several bands or more than 8 bits?)"
    return UserError(
        f"cannot decode the image: {reason}",
        where=name,
        fix="copy or download it again, or save it as an 8-bit RGB JPEG or PNG",
    )


def _not_eight_bit(name: object, found: str) -> UserError:
    return UserError(
        f"only 8-bit grey or RGB images are read, this one has {found}",
        where=name,
        fix="scale it to 8-bit RGB yourself, with the same scaling for all images",
    )
