"""Raster files through rasterio (extra `geo`): opened safely, and their numbers as they stand. `geo` has the rest.

Files are opened by what is in them, and only as formats that hold their own pixels: never as one that fetches others
(VRT, web services).
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage, unreadable

Bands = Sequence[tuple[int, int]]  # number of the file from 0, and of the band in it from 1
Stamp = tuple[str, int, int]  # a path, and when it was written and how large: a file that changed is another one

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two of more than 4 GiB
_STARTS = {start: "GTiff" for start in _TIFF} | {
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG", b"\xff\x4f\xff\x51": "JP2OpenJPEG", b"EHFA_HEADER_TAG": "HFA",
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG",
}  # fmt: skip
# A large image is looked at in so many small windows a side. GDAL's own way to read a thinned image decodes all of it,
# or takes averages where they lie beside it; a cache too small for a row of its blocks makes that take minutes.
_PATCHES, _PATCH = (
    32,
    32,
)  # 32 x 32 windows of 32 x 32 pixels: a million, of a thousand blocks at most (four at corners)


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
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise unreadable(path, error) from error
    return next((driver for begin, driver in _STARTS.items() if start.startswith(begin)), None)


def stamp_of(path: Path) -> Stamp:
    """What caches know a file by.

    Raises:
        UnreadableImage: no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return os.fspath(path), status.st_mtime_ns, status.st_size


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    size_hw: tuple[int, int]
    types: tuple[str, ...]  # of each band
    is_alpha: tuple[bool, ...]


@functools.lru_cache(maxsize=65536)
def header_of(stamp: Stamp) -> Header:
    """Read once for each process.

    Raises:
        UnreadableImage: no raster.
    """
    with opened_raster(Path(stamp[0])) as file:
        is_alpha = tuple(colour.name == "alpha" for colour in file.colorinterp)
        return Header(size_hw=(file.height, file.width), types=tuple(file.dtypes), is_alpha=is_alpha)


@contextmanager
def quiet() -> Generator[None]:
    """Without a warning for every file that does not say where it lies: most data sets of images do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dataset has no geotransform")
        yield


@contextmanager
def opened_raster(path: Path) -> Generator[Any]:
    """A rasterio dataset; opened for each read, because a forked worker must not share its place in the file.

    Raises:
        UnreadableImage: no such file, no raster; or it proves damaged while it is read.
    """
    rasterio = rasterio_()
    driver = driver_of(path)
    if driver is None:
        what = "empty (0 bytes)" if os.path.getsize(path) == 0 else "no GeoTIFF, JPEG 2000, ERDAS, PNG or JPEG"
        raise UnreadableImage(f"cannot decode the raster: it is {what}", where=path, fix="save it as a GeoTIFF")
    try:
        with quiet(), rasterio.open(path, driver=driver) as file:
            yield file
    except rasterio.errors.RasterioError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UnreadableImage(f"cannot decode the raster: {reason}", where=path, fix="copy it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def bands_of(paths: Sequence[Path]) -> Bands:
    """All that there are, file by file."""
    counts = [len(header_of(stamp_of(path)).types) for path in paths]
    return [(number, band) for number, count in enumerate(counts) for band in range(1, count + 1)]


def one_size(paths: Sequence[Path], bands: Bands) -> tuple[int, int]:
    """(height, width) of the files of these bands.

    Raises:
        UnreadableImage: they differ.
    """
    sizes: dict[tuple[int, int], Path] = {}
    for number in dict.fromkeys(number for number, _ in bands):
        sizes.setdefault(header_of(stamp_of(paths[number])).size_hw, paths[number])
    if len(sizes) > 1:
        told = " and ".join(f"{path.name} {width} x {height}" for (height, width), path in sizes.items())
        fix = "choose bands of one resolution, or resample the others"
        raise UnreadableImage(f"bands on different grids: {told}", where=paths[0].parent, fix=fix)
    return next(iter(sizes))


def read_values(paths: Sequence[Path], bands: Bands, window: Window, *, exact: bool) -> np.ndarray:
    """number[C, H, W], in the order of the bands.

    Args:
        exact: in the file's own number type, with 0 for no data; else as floats, with NaN for it.

    Raises:
        UserError: complex numbers.
    """
    x0, y0, x1, y1 = window
    part = rasterio_().windows.Window(x0, y0, x1 - x0, y1 - y0)
    return _read(paths, bands, [part], exact)[..., 0]


def sample_values(paths: Sequence[Path], bands: Bands) -> np.ndarray:
    """float[C, N]: all pixels of a small image, a million of a large one from small windows all over it; NaN: no data.

    Raises:
        UserError: complex numbers, or bands on different grids.
    """
    height, width = one_size(paths, bands)
    new_window = rasterio_().windows.Window
    if height * width <= (_PATCHES * _PATCH) ** 2:
        parts = [new_window(0, 0, width, height)]
    else:
        high, wide = min(_PATCH, height), min(_PATCH, width)
        parts = [new_window(x, y, wide, high) for y in _starts(height, high) for x in _starts(width, wide)]
    return _read(paths, bands, parts, exact=False).reshape(len(bands), -1)


def _starts(length: int, part: int) -> list[int]:
    """Where windows of a side of `part` begin, evenly from one border to the other."""
    number = min(_PATCHES, -(-length // part))
    return np.linspace(0, length - part, number).astype(int).tolist()


def _read(paths: Sequence[Path], bands: Bands, parts: Sequence[Any], exact: bool) -> np.ndarray:
    """number[C, H, W, P] of P windows of one size."""
    found: dict[tuple[int, int], list[np.ndarray]] = {band: [] for band in bands}
    for number in dict.fromkeys(number for number, _ in bands):
        mine = list(dict.fromkeys(band for one, band in bands if one == number))
        if any("complex" in kind for kind in header_of(stamp_of(paths[number])).types):
            fix = "write its amplitude as a band of its own"
            raise UserError("complex numbers, of which there is no one picture", where=paths[number], fix=fix)
        for at in range(0, len(parts), _PATCHES):  # a closed file gives up the blocks that GDAL keeps of it
            with opened_raster(paths[number]) as file:
                for part in parts[at : at + _PATCHES]:
                    values = file.read(mine, window=part)
                    if not exact:
                        values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64, copy=False)
                    for band, channel in zip(mine, values, strict=True):
                        found[number, band].append(_without_data(file, band, channel, part, exact))
    return np.stack([np.stack(found[band], axis=-1) for band in bands])


def _without_data(file: Any, band: int, values: np.ndarray, part: Any, exact: bool) -> np.ndarray:
    """Values with 0 (exact) or NaN at the pixels that the file calls empty; alpha is a band like others."""
    flags = {flag.name for flag in file.mask_flag_enums[band - 1]}
    if flags & {"all_valid", "alpha"}:
        return values
    is_empty = file.read_masks(band, window=part) == 0
    return np.where(is_empty, values.dtype.type(0 if exact else np.nan), values)
