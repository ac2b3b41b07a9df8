"""The numbers of raster files as they stand: windows, samples, where there is no data. `geo` has the rest."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps

from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage, decode, num_images, opened, several
from vistruct.files.decoded_cache import CACHE_BYTES, DecodedCache
from vistruct.files.intake import Intake
from vistruct.files.raster_headers import AS_THEY_ARE, DEEP, Header, header_of, opened_raster, rasterio_, stamp_of

Bands = Sequence[tuple[int, int]]  # number of the file from 0, and of the band in it from 1

# A large image is looked at in so many small windows a side. GDAL's own way to read a thinned image decodes all of it,
# or takes averages where they lie beside it; a cache too small for a row of its blocks makes that take minutes.
_PATCHES, _PATCH = (
    32,
    32,
)  # 32 x 32 windows of 32 x 32 pixels: a million, of a thousand blocks at most (four at corners)


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
    return _read(paths, bands, window, exact)


def read_numbers(path: Path, window: Window) -> np.ndarray:
    """number[H, W] of the first band as they are written, whether they are called empty or not."""
    with opened_raster(path) as file:
        return file.read(1, window=_part(window))


def may_lack_data(paths: Sequence[Path], intake: Intake | None = None) -> bool:
    """Whether an image of these files can have pixels without data, as far as their headers say.

    Args:
        intake: what the image is read with; an alpha that is read as a band is data.

    Raises:
        UnreadableImage: no such file, or damaged.
    """
    return all(_has_gaps(header_of(stamp_of(path)), intake) for path in paths)


def valid_pixels(paths: Sequence[Path], window: Window, intake: Intake | None = None) -> np.ndarray | None:
    """bool[H, W], where any file has data (in any band; where alpha is not 0); None: everywhere.

    Raises:
        UnreadableImage: no such file, or damaged.
    """
    if not may_lack_data(paths, intake):
        return None
    found: np.ndarray | None = None
    for path in paths:
        header = header_of(stamp_of(path))
        with opened_raster(path) as file:
            here = file.dataset_mask(window=_part(window)) > 0
            if _has_fractions(header):
                here &= np.isfinite(file.read(window=_part(window))).any(axis=0)
        found = here if found is None else found | here
    return found


def valid_in_all(images: Sequence[Sequence[Path]], window: Window, intake: Intake | None = None) -> np.ndarray | None:
    """bool[H, W], where each of several images on one grid has data; None: everywhere.

    Raises:
        UnreadableImage: no such file, or damaged.
    """
    found = [one for paths in images if (one := valid_pixels(paths, window, intake)) is not None]
    return np.logical_and.reduce(found) if found else None


def _has_gaps(header: Header, intake: Intake | None) -> bool:
    alphas = {band for band, is_alpha in enumerate(header.is_alpha, 1) if is_alpha}
    if intake is not None:
        alphas = alphas - set(intake.bands) if intake.bands is not None else set()
    return header.by_window and (any(header.gaps) or bool(alphas) or _has_fractions(header))


def _has_fractions(header: Header) -> bool:
    """Whether a value may be NaN."""
    return any("float" in kind for kind in header.types)


def sample_values(paths: Sequence[Path], bands: Bands) -> np.ndarray:
    """float[C, N]: all pixels of a small image, a million of a large one from small windows all over it; NaN: no data.

    Raises:
        UserError: complex numbers, or bands on different grids.
    """
    height, width = one_size(paths, bands)
    if height * width <= (_PATCHES * _PATCH) ** 2:
        parts = [(0, 0, width, height)]
    else:
        high, wide = min(_PATCH, height), min(_PATCH, width)
        parts = [(x, y, x + wide, y + high) for y in _starts(height, high) for x in _starts(width, wide)]
    return np.concatenate([_read(paths, bands, part, exact=False).reshape(len(bands), -1) for part in parts], axis=1)


def _starts(length: int, part: int) -> list[int]:
    """Where windows of a side of `part` begin, evenly from one border to the other."""
    number = min(_PATCHES, -(-length // part))
    return np.linspace(0, length - part, number).astype(int).tolist()


def _read(paths: Sequence[Path], bands: Bands, window: Window, exact: bool) -> np.ndarray:
    """number[C, H, W], as `read_values`."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for number in dict.fromkeys(number for number, _ in bands):
        mine = list(dict.fromkeys(band for one, band in bands if one == number))
        values = _of_file(paths[number], mine, window, exact)
        if len(paths) == 1 and len(mine) == len(bands):
            return values
        found |= {(number, band): channel for band, channel in zip(mine, values, strict=True)}
    return np.stack([found[band] for band in bands])


def _of_file(path: Path, bands: list[int], window: Window, exact: bool) -> np.ndarray:
    """number[C, H, W] of a file's bands with 0 (exact) or NaN where there is no data; alpha is a band like others."""
    header = header_of(stamp_of(path))
    if any("complex" in kind for kind in header.types):
        fix = "write its amplitude as a band of its own"
        raise UserError("complex numbers, of which there is no one picture", where=path, fix=fix)
    if not header.by_window:
        x0, y0, x1, y1 = window
        return _number(_whole.get(path)[[band - 1 for band in bands], y0:y1, x0:x1], exact)
    part = _part(window)
    with opened_raster(path) as file:
        values = _number(file.read(bands, window=part), exact)
        if exact and any(header.gaps):  # of colours: white is no gap where one of three is 255
            values[:, file.dataset_mask(window=part) == 0] = 0
        elif not exact:
            for channel, band in zip(values, bands, strict=True):
                if header.gaps[band - 1]:
                    channel[file.read_masks(band, window=part) == 0] = np.nan
    return values


def _number(values: np.ndarray, exact: bool) -> np.ndarray:
    return values if exact else values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64, copy=False)


def _part(window: Window) -> Any:
    x0, y0, x1, y1 = window
    return rasterio_().windows.Window(x0, y0, x1 - x0, y1 - y0)


def _decode_values(data: bytes, path: Path) -> np.ndarray:
    """number[C, H, W] of a file that is decoded as a whole, its bands as its header counts them."""
    header = header_of(stamp_of(path))
    if header.by_gdal:
        with opened_raster(path) as file:
            return file.read()
    with opened(io.BytesIO(data), path, eight_bit=False) as image:
        if num_images(image, data) > 1:
            raise several(path)
        if image.mode in DEEP or image.mode in AS_THEY_ARE:
            ImageOps.exif_transpose(image, in_place=True)
            values = np.asarray(image)
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
            return np.ascontiguousarray(np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0))
    return decode(data, path)[: len(header.types)].numpy()


_whole = DecodedCache(CACHE_BYTES, _decode_values)
