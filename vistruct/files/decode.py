"""The bytes of an image file to uint8 RGB, or one clear error that names the file.

Pillow reads every header and decodes everything but JPEG, which libjpeg-turbo (simplejpeg) decodes to the same
pixels, faster, and without the silence: Pillow and most programs show a JPEG with damage in its middle without
any sign of it, here it is an error. Torchvision's decoders are not used: they are deprecated since 0.29, and
the PNG decoder ends the whole process (segmentation fault) on more than half of slightly damaged files.

The EXIF orientation is applied, so that what is decoded is what an annotation tool showed. Grey, palette and
transparent images become RGB (transparency is ignored). Images of more than 8 bits, of floats, or of bands
that are not colours are refused, because every way to squeeze them into 8 bits is a guess.

Not caught: of JPEGs with three flipped bits about half, and of those with 4 KiB of zeros about 3 in 100, decode
without a sign. A checksum finds them all (see `images.read_image`).
"""

from __future__ import annotations

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from vistruct.errors import UserError
from vistruct.files.embedded import image_source, image_status
from vistruct.files.memory import available_bytes

MAX_PIXELS = 900_000_000  # 2.5 GiB decoded: DOTA has scenes of 806 million. More is taken for a decompression bomb
MAX_PIXELS_VARIABLE = "VISTRUCT_MAX_IMAGE_PIXELS"

_LARGE = 2**24  # pixels; fewer never make trouble, and are not asked about
_MOST_DEFLATED = 1032  # bytes that a byte of a PNG can stand for, at most
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its type of colours
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # bytes a pixel in Pillow; all others 4


def say(bands: int) -> str:
    """What to type where an image of so many bands is no 8-bit colours: options of every command that reads images."""
    which = {1: "", 2: "which band is meant, and "}.get(bands, "which bands are the channels, and ")
    chosen = {1: "", 2: "--bands 1 "}.get(bands, "--bands 1,2,3 ")
    return (
        f"say {which}what becomes black and white: {chosen}--percentiles 1,99 (of each "
        "image; or one range for all, with --low and --high), or --dtype float32 for values as they are"
    )


SAY = say(3)

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width
_EXTRA_SAMPLES = 338  # TIFF tag; 1 and 2 are transparency, anything else is a band that is no colour
_SAMPLES_PER_PIXEL = 277  # TIFF tag
_BITS_PER_SAMPLE = 258  # TIFF tag
_TOLD = (258, 259, 262, ORIENTATION)  # of the first image: bits, compression, photometric interpretation
_KIND_OF_IMAGE, _REDUCED, _MASK = 254, 1, 4  # TIFF tag NewSubfileType, and two of its bits
_EIGHT_BIT_MODES = {
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
}  # fmt: skip
# What Pillow's parsers raise at damaged bytes; it has no common class for them.
_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, struct.error, zlib.error)
# How libjpeg-turbo's warnings about damaged pixels begin; its other warnings are about harmless oddities.
_JPEG_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression", "Invalid SOS parameters")


class UnreadableImage(UserError):
    """An image that is not there, is damaged, or has changed: the fault of one file, and not of the settings."""


def pillow_says(image: Image.Image, name: str, otherwise: Any) -> Any:
    """What Pillow gives with images of some file formats only: how many there are, tags of TIFF, layout of PNG."""
    return getattr(image, name, otherwise)  # an attribute of some formats alone


def decode(data: bytes, name: object) -> Tensor:
    """Decode the bytes of an image file; `name` is said in errors.

    Returns:
        uint8[3, H, W], RGB; the colours of a pixel lie side by side in memory (channels last), as decoders write
        them and resizing is fastest.

    Raises:
        UnreadableImage: no image, cut short, damaged, too many pixels, more than 8 bits, several images.
    """
    with opened(io.BytesIO(data), name) as image:
        if num_images(image, data) > 1:
            raise several(name)
        refuse_too_large(image, name, 6, data)  # the array, and a copy for whoever asks
        pixels = _decode_jpeg(data, image, name) if image.format in ("JPEG", "MPO") else None
        if pixels is None:
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _rgb(image)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8[H, W, 3]; a large image is converted in strips, so that it is there once beside the result."""
    width, height = image.size
    if width * height < _LARGE:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    image.load()
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _LARGE // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


def refuse_too_large(image: Image.Image, name: object, more: int, data: bytes) -> None:
    """Before a pixel is decoded: whether the file can hold all of them, and the memory too.

    Args:
        more: bytes a pixel beside what Pillow keeps.
        data: the file.

    Raises:
        UnreadableImage: it cannot.
    """
    width, height = image.size
    bits = data[24] * _CHANNELS.get(data[25], 1) if image.format == "PNG" else 0  # a pixel, as the header has it
    if width * height * bits / 8 > _MOST_DEFLATED * len(data) + 2**20:
        what = f"the PNG is cut short: {len(data)} bytes cannot hold {width} x {height} pixels"
        raise UnreadableImage(what, where=name, fix="copy or download it again")
    needed, there = width * height * (_STORED.get(image.mode, 4) + more), available_bytes()
    if there is not None and width * height >= _LARGE and needed > there:
        gib = [f"{number / 2**30:.1f} GiB" for number in (needed, there)]
        what = f"{width} x {height} pixels take {gib[0]} while they are decoded, and {gib[1]} are left here"
        raise UnreadableImage(
            what, where=name, fix="cut it up (`gdal_translate -srcwin`), or fewer workers: --set workers=0"
        )


def num_images(image: Image.Image, data: bytes) -> int:
    """How many a file holds, without previews, overviews and masks of the first."""
    if image.format == "MPO":  # a phone's JPEG with a small copy behind it
        return 1
    return tiff_tags(data)[1] if image.format == "TIFF" else pillow_says(image, "n_frames", 1)


def several(name: object) -> UnreadableImage:
    """What to say of a file that is no one image."""
    return UnreadableImage("this file holds several images", where=name, fix="save one image in a file")


def tiff_tags(source: Path | bytes) -> tuple[dict[int, Any], int]:
    """The tags of a TIFF's first image by their numbers, and how many images there are that are neither smaller copies
    (overviews) nor masks of another; nothing and 1 where that cannot be told."""
    first: dict[int, Any] = {}
    images, seen = 0, set[int]()
    try:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            start = file.read(8)
            place = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if b"+" in start[2:4] else b""))
            while place.next and place.next not in seen:
                seen.add(place.next)
                file.seek(place.next)
                place.load(file)
                first = first or {tag: place[tag] for tag in _TOLD if tag in place}
                images += place.get(_KIND_OF_IMAGE, 0) & (_REDUCED | _MASK) == 0
    except _DAMAGE:
        pass
    return first, max(images, 1)


def is_deep_png(image: Image.Image) -> bool:
    """Whether a PNG has 16 bits, of which Pillow drops the lower ones where it is in colours."""
    return image.format == "PNG" and ";16" in str(pillow_says(image, "tile", ""))


def unreadable(name: object, error: OSError) -> UnreadableImage:
    """What to say of a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return UnreadableImage("no such image", where=name, fix="check the path, and where the image folder is")
    what = f"cannot read the image: {error.strerror or error}"
    return UnreadableImage(what, where=name, fix="check path and permissions")


def _decode_jpeg(data: bytes, image: Image.Image, name: object) -> np.ndarray | None:
    """uint8[H, W, 3], upright; None for the rare kinds of JPEG (CMYK, odd subsampling) that Pillow must decode."""
    width, height = image.size
    # simplejpeg counts bytes in 32 bits, and believes whatever the header says: only what Pillow agrees to.
    if image.mode not in ("L", "RGB") or height * width * 3 >= 2**31:
        return None
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    except KeyError:  # a kind of subsampling that it has no name for
        return None
    except ValueError as error:
        if str(error).startswith(_JPEG_DAMAGE):
            raise UnreadableImage(
                f"the JPEG is damaged: {error}",
                where=name,
                fix="copy or download it again; if it looks right to you, save it anew",
            ) from None
        return None
    turn = image.getexif().get(ORIENTATION, 1)
    if turn in (5, 6, 7, 8):  # the first row of the file is a column
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


class _PixelsOfPng(PngImagePlugin.PngStream):
    """Reads past texts and colour profiles that are longer than Pillow takes: nobody asks for them."""

    def chunk_zTXt(self, pos: int, length: int) -> bytes:
        return self._or_skip(super().chunk_zTXt, pos, length)

    def chunk_iTXt(self, pos: int, length: int) -> bytes:
        return self._or_skip(super().chunk_iTXt, pos, length)

    def chunk_tEXt(self, pos: int, length: int) -> bytes:
        return self._or_skip(super().chunk_tEXt, pos, length)

    def chunk_iCCP(self, pos: int, length: int) -> bytes:
        return self._or_skip(super().chunk_iCCP, pos, length)

    def _or_skip(self, read: Callable[[int, int], bytes], pos: int, length: int) -> bytes:
        file: Any = self.fp
        start = file.tell()
        try:
            return read(pos, length)
        except ValueError:
            file.seek(start)
            return ImageFile._safe_read(file, length)


_png: Any = PngImagePlugin
_pillow_limit = threading.Lock()
_tiff_log = logging.getLogger("PIL.TiffImagePlugin")


@contextmanager
def opened(source: Path | io.BytesIO, name: object, *, eight_bit: bool = True) -> Generator[Image.Image]:
    """A Pillow image whose header is sound and promises no more than we are ready to decode.

    Args:
        eight_bit: refuse what is no 8-bit grey or RGB.
    """
    try:
        with _pillow_limit, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours, below, names the way out
            was_silent, _tiff_log.disabled = _tiff_log.disabled, True  # it prints what it then raises
            png_stream, _png.PngStream = _png.PngStream, _PixelsOfPng
            try:
                image = Image.open(image_source(source) if isinstance(source, Path) else source)
            finally:
                _png.PngStream = png_stream
                Image.MAX_IMAGE_PIXELS = pillow_limit
                _tiff_log.disabled = was_silent
        with image:
            _refuse(image, name, eight_bit)
            yield image
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise unreadable(name, error) from error
    except _DAMAGE as error:
        raise _broken(name, error, source) from error


def _refuse(image: Image.Image, name: object, eight_bit: bool) -> None:
    limit = max_pixels()
    width, height = image.size
    if width * height > limit:
        raise UnreadableImage(
            f"{width} x {height} = {width * height} pixels, more than the limit of {limit}",
            where=name,
            fix=f"if you trust this file, set {MAX_PIXELS_VARIABLE}={width * height}; or cut it up",
        )
    if not eight_bit:
        return
    if image.mode not in _EIGHT_BIT_MODES:
        raise _not_eight_bit(name, f"pixels of type {image.mode}")
    tags = pillow_says(image, "tag_v2", {})  # TIFF only
    if is_deep_png(image) or max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:  # Pillow would drop the lower bits
        raise _not_eight_bit(name, "16 bits a channel")
    extra = tags.get(_EXTRA_SAMPLES, ())
    if any(kind not in (1, 2) for kind in extra):
        raise _not_eight_bit(name, f"{tags.get(_SAMPLES_PER_PIXEL)} bands, not all of them colours")


def max_pixels() -> int:
    """How many pixels are decoded at once; the environment may say otherwise."""
    value = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not value.isdecimal():
        raise UserError(f"{value!r} is not a number of pixels", where=MAX_PIXELS_VARIABLE, fix="for example 400000000")
    return int(value)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as it is shown, without decoding a pixel."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow turns a TIFF by itself, and its size is already the turned one
        return height, width
    if image.format == "PNG" and "exif" not in image.info:  # asking on would decode the whole file
        return height, width
    turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _broken(name: object, error: Exception, source: Path | io.BytesIO) -> UnreadableImage:
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else image_status(source).st_size
    if size == 0:
        return UnreadableImage("the image file is empty (0 bytes)", where=name, fix="copy or download it again")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in reason:
        reason = "not an image that can be read here (a GeoTIFF of several bands or more than 8 bits?)"
    return UnreadableImage(
        f"cannot decode the image: {reason}",
        where=name,
        fix="copy or download it again, or save it as an 8-bit RGB JPEG or PNG",
    )


def _not_eight_bit(name: object, found: str) -> UnreadableImage:
    return UnreadableImage(
        f"only 8-bit grey or RGB images are read, this one has {found}",
        where=name,
        fix=SAY,
    )
