"""Raster files opened: what a file says of itself, and who decodes it. `raster_files` has their numbers.

rasterio (extra `geo`) decodes window by window where a format is written in blocks; Pillow decodes all where it is
not (PNG, JPEG), and where rasterio is not installed. Files are opened by what is in them, and only as formats that hold
their own pixels, or (VRT) name such files beside them: never as one that fetches others (web services).
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vistruct.errors import UserError
from vistruct.files.decode import (
    ORIENTATION,
    UnreadableImage,
    is_deep_png,
    opened,
    several,
    tiff_tags,
    unreadable,
    upright_size,
)
from vistruct.files.embedded import image_status, place_of

Stamp = tuple[str, int, int]  # a path, and when it was written and how large: a file that changed is another one

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two of more than 4 GiB
_STARTS = {start: "GTiff" for start in _TIFF} | {
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG", b"\xff\x4f\xff\x51": "JP2OpenJPEG", b"EHFA_HEADER_TAG": "HFA",
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG",
}  # fmt: skip
_BLOCKS = ("GTiff", "JP2OpenJPEG", "HFA", "VRT")  # written in blocks, of which a window is decoded alone
_GDAL_BYTES = 32 * 2**20  # of decoded blocks in each process; GDAL's own limit is a part of the machine's memory
_OPEN = 8  # files that a process keeps open: to open one takes as long as to read a small window
# Photometric interpretations of TIFF that Pillow makes colours of and GDAL does not: white is 0, palette, CMYK, Lab.
_ODD_COLOURS = (0, 3, 5, 8)
_YCBCR, _JPEG = 6, 7


def rasterio_() -> Any:
    """The library with all its parts that are used here.

    Raises:
        UserError: it is not installed.
    """
    try:
        for part in ("crs", "errors", "features", "warp", "windows"):
            importlib.import_module(f"rasterio.{part}")
        return importlib.import_module("rasterio")
    except ImportError as error:
        what = "rasters with coordinates or of more than 8 bits need rasterio"
        raise UserError(what, where=error.name or "rasterio", fix='pip install "vistruct[geo]"') from error


def driver_of(path: Path) -> str | None:
    """What GDAL calls the format of a file, told without GDAL; None: none of those that are read here.

    Raises:
        UnreadableImage: no such file.
    """
    return _driver(stamp_of(path))


@functools.lru_cache(maxsize=65536)
def _driver(stamp: Stamp) -> str | None:
    path = Path(stamp[0])
    if place_of(path) is not None:  # in base64: Pillow decodes it
        return None
    try:
        image_status(path)
        with open(path, "rb") as file:
            start = file.read(256)
    except OSError as error:
        raise unreadable(path, error) from error
    if b"<VRTDataset" in start and start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return "VRT"
    return next((driver for begin, driver in _STARTS.items() if start.startswith(begin)), None)


def is_windowed(path: Path) -> bool:
    """Whether windows of a file are decoded alone.

    Raises:
        UnreadableImage, UserError: as in `header_of`, of formats that may be.
    """
    return driver_of(path) in _BLOCKS and header_of(stamp_of(path)).by_window


def size_of_image(path: Path) -> tuple[int, int]:
    """(height, width) in pixels from the header alone, as it is shown, whatever the values are.

    Raises:
        UnreadableImage: no such file, no image, or too many pixels where they must be decoded at once.
        UserError: a raster that only rasterio reads, and it is not installed.
    """
    if driver_of(path) in _BLOCKS:
        return header_of(stamp_of(path)).size_hw
    with opened(path, path, eight_bit=False) as image:
        return upright_size(image)


def has_rasterio() -> bool:
    """Whether the extra is installed."""
    try:
        rasterio_()
    except UserError:
        return False
    return True


def stamp_of(path: Path) -> Stamp:
    """What caches know a file by.

    Raises:
        UnreadableImage: no such file.
    """
    try:
        status = image_status(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return os.fspath(path), status.st_mtime_ns, status.st_size


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    size_hw: tuple[int, int]  # as it is shown
    types: tuple[str, ...]  # of each band
    is_alpha: tuple[bool, ...]
    by_window: bool  # windows are decoded alone, by rasterio; else all of it is
    is_colour: bool  # grey or red, green and blue, of 8 bits, with or without alpha
    gaps: tuple[bool, ...] = ()  # of each band, whether the file says that pixels of it have no data
    by_gdal: bool = True  # else Pillow decodes it


@functools.lru_cache(maxsize=65536)
def header_of(stamp: Stamp) -> Header:
    """Read once for each process.

    Raises:
        UnreadableImage: no image, or several in a file.
        UserError: a raster that only rasterio reads, and it is not installed.
    """
    path = Path(stamp[0])
    driver = driver_of(path)
    if driver not in _BLOCKS:
        return _pillow_header(path)
    if not has_rasterio():
        try:
            return _pillow_header(path)
        except UnreadableImage as error:
            if "pixels, more than" not in error.what and not _is_several(path, driver):
                rasterio_()  # says how to install it
            raise
    if driver == "GTiff":
        tags, images = tiff_tags(path)
        if images > 1:
            raise several(path)
        turned, deep = tags.get(ORIENTATION, 1) != 1, max(tags.get(258, (1,))) > 8
        ycbcr = tags.get(262) == _YCBCR and tags.get(259) != _JPEG
        if turned or ycbcr or (not deep and (tags.get(262) in _ODD_COLOURS or max(tags.get(258, (1,))) < 8)):
            try:
                return _pillow_header(path)
            except UnreadableImage:
                if turned:
                    what = "a TIFF whose rows or columns run backwards (tag Orientation)"
                    raise UnreadableImage(what, where=path, fix="write it anew, upright") from None
    return _gdal_header(path)


def _gdal_header(path: Path) -> Header:
    with opened_raster(path) as file:
        shown = tuple(colour.name for colour in file.colorinterp)
        is_alpha = tuple(name == "alpha" for name in shown)
        flags = [{flag.name for flag in each} for each in file.mask_flag_enums]
        return Header(
            size_hw=(file.height, file.width),
            types=tuple(file.dtypes),
            is_alpha=is_alpha,
            by_window=True,
            is_colour=set(file.dtypes) == {"uint8"} and "palette" not in shown and _like_colours(is_alpha),
            gaps=tuple(not each & {"all_valid", "alpha"} for each in flags),
        )


def _like_colours(is_alpha: Sequence[bool]) -> bool:
    without = [one for one in is_alpha if not one]
    return len(without) in (1, 3) and not any(is_alpha[: len(without)]) and len(is_alpha) <= len(without) + 1


DEEP = {"I;16": "uint16", "I;16B": "uint16", "I;16L": "uint16", "I;16N": "uint16", "I": "int32", "F": "float32"}
AS_THEY_ARE = {"RGBA": (False, False, False, True), "RGBX": (False,) * 4, "LA": (False, True)}  # others become RGB


def _pillow_header(path: Path) -> Header:
    with opened(path, path, eight_bit=False) as image:
        is_gdals = is_deep_png(image) and image.mode not in DEEP  # Pillow would drop the lower bits
        is_alpha = AS_THEY_ARE.get(image.mode, (False,) * (1 if image.mode in ("L", "1", *DEEP) else 3))
        deep = "uint16" if is_gdals else DEEP.get(image.mode)
        return Header(
            size_hw=upright_size(image),
            types=(deep or "uint8",) * len(is_alpha),
            is_alpha=is_alpha,
            by_window=False,
            is_colour=deep is None and image.mode != "RGBX",
            by_gdal=is_gdals,
        )


def _is_several(path: Path, driver: str) -> bool:
    return driver == "GTiff" and tiff_tags(path)[1] > 1


@contextmanager
def quiet() -> Generator[None]:
    """Without a warning for every file that does not say where it lies: most data sets of images do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dataset has no geotransform")
        yield


@contextmanager
def opened_raster(path: Path) -> Generator[Any]:
    """A rasterio dataset, kept open for the next window; each process and thread has its own, because they must not
    share its place in the file.

    Raises:
        UnreadableImage: no such file, no raster; or it proves damaged while it is read.
        UserError: rasterio is not installed.
    """
    rasterio = rasterio_()
    driver = driver_of(path)
    if driver is None:
        what = "empty (0 bytes)" if os.path.getsize(path) == 0 else "no GeoTIFF, JPEG 2000, ERDAS, VRT, PNG or JPEG"
        raise UnreadableImage(f"cannot decode the raster: it is {what}", where=path, fix="save it as a GeoTIFF")
    try:
        with quiet(), rasterio.Env(GDAL_CACHEMAX=_GDAL_BYTES):
            yield _dataset(stamp_of(path), driver, os.getpid(), threading.get_ident())
    except rasterio.errors.RasterioError as error:
        _dataset.cache_clear()
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UnreadableImage(f"cannot decode the raster: {reason}", where=path, fix="copy it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


@functools.lru_cache(maxsize=_OPEN)
def _dataset(stamp: Stamp, driver: str, process: int, thread: int) -> Any:
    if driver == "VRT":
        _check_sources(Path(stamp[0]))
    return rasterio_().open(stamp[0], driver=driver)


def _check_sources(vrt: Path, above: tuple[Path, ...] = ()) -> None:
    """
    Raises:
        UnreadableImage: a virtual raster of anything but raster files that are there.
    """
    try:
        nodes = list(ElementTree.parse(vrt).iter())
    except ElementTree.ParseError as error:
        raise UnreadableImage(f"a damaged virtual raster: {error}", where=vrt, fix="write it anew") from error
    for node in nodes:
        name = (node.text or "").strip()
        if node.tag not in ("SourceFilename", "SourceDataset") or not name:
            continue
        file = vrt.parent / name if node.get("relativeToVRT") == "1" else Path(name)
        if not file.is_file() or driver_of(file) is None or file.resolve() in above:
            what = f"a virtual raster of {name!r}, which is no raster file that is there"
            fix = "bring its files along, or write it as one: gdal_translate FILE.vrt FILE.tif"
            raise UnreadableImage(what, where=vrt, fix=fix)
        if driver_of(file) == "VRT":
            _check_sources(file, (*above, vrt.resolve(), file.resolve()))
