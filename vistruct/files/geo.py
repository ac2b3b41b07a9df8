"""GeoTIFF and its kin through rasterio (extra `geo`): any number of bands, any number type, only the window wanted.

Why rasterio: it is GDAL, which decodes only the blocks of a file that a window needs, knows every compression, and
hands the coordinate system through to what is written. tifffile reads pixels as well, but knows no projections.
Pillow reads no 16-bit colours.

Values are those in the file: a scale or offset in its tags is not applied. Where a file says that a pixel has no data
(a nodata value, a mask of its own), the pixel is not finite on the way and 0 in the end. An image may lie in several
files of one band each (Landsat, Sentinel-2): then a sequence of paths stands for it, and bands are counted through.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vistruct.contracts import IGNORED, RGB, Record, Window
from vistruct.errors import UserError
from vistruct.files.decode import SAY, UnreadableImage, max_pixels, say
from vistruct.files.intake import Intake
from vistruct.files.raster_files import Bands, bands_of, one_size, read_values, sample_values
from vistruct.files.raster_headers import Stamp, driver_of, header_of, opened_raster, quiet, rasterio_, stamp_of
from vistruct.files.whole import whole_file

Raster = Path | Sequence[Path]

FILES_AN_IMAGE = "files an image"  # among the notes of a record whose bands lie in files of their own

_BLOCK = 256  # pixels, both sides, of a written tile
_MOST_IN_BYTE = 255  # classes that a byte has room for; 255 says "no class"


@dataclass(frozen=True, kw_only=True)
class GeoProfile:
    """Where on earth a raster lies."""

    crs: str  # WKT; "": not known
    transform: tuple[float, float, float, float, float, float]  # x = a * column + b * row + c, y = d * column + ...


def read_bands(path: Raster, window_xyxy: Window | None, intake: Intake | None) -> Tensor:
    """The bands of a raster, or of a window of it, as channels.

    Args:
        path: a file, or several on one grid whose bands are counted through.
        window_xyxy: pixels of the whole image; right and bottom are exclusive. Only its blocks are read.
        intake: which bands, and what becomes of their values; None: three 8-bit bands that are RGB, with or
            without alpha. Percentiles are of the whole image, taken once for each process; of a large one from a
            million pixels.

    Returns:
        uint8[C, H, W], or what `Intake.pixels` says; 0 where there is no data.

    Raises:
        UnreadableImage: no such file, damaged, several grids, a window that does not lie inside.
        UserError: no such band; bands that are no 8-bit colours, and no word of what becomes of them; no rasterio.
    """
    paths, intake_ = _paths(path), intake or Intake()
    chosen = _chosen(paths, intake)
    height, width = one_size(paths, chosen)
    x0, y0, x1, y1 = window_xyxy or (0, 0, width, height)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        what = f"window {window_xyxy} is not inside the image of {width} x {height} pixels"
        raise UnreadableImage(what, where=paths[0], fix="the image changed after it was listed: start again")
    if (x1 - x0) * (y1 - y0) * len(chosen) > 3 * max_pixels():
        what = f"{x1 - x0} x {y1 - y0} pixels in {len(chosen)} bands at once"
        raise UnreadableImage(what, where=paths[0], fix="cut it into windows: tiles, or slide")
    is_exact = not intake_.has_range and intake_.pixels == "uint8"
    values = read_values(paths, chosen, (x0, y0, x1, y1), exact=is_exact)
    if is_exact and values.dtype != np.uint8:
        raise UserError(f"{describe(path)}, and no word of what becomes black and white", where=paths[0], fix=SAY)
    if not intake_.has_range:
        return intake_.taken(values)
    return intake_.taken(values, _ranges(tuple(map(stamp_of, paths)), tuple(chosen), intake_))


def num_channels(record: Record, intake: Intake | None) -> int:
    """Of each image of a data set, as this one of its records has them.

    Raises:
        UnreadableImage: a file of it cannot be read.
        UserError: it is no 8-bit colours, and nothing says what becomes of its values.
    """
    if intake is None:
        for files in images_of(record):
            _chosen(files, None)
        return 3
    bands = len(intake.bands) if intake.bands is not None else raster_bands(images_of(record)[0])
    return intake.channels_of(bands)


def raster_size(path: Raster) -> tuple[int, int]:
    """(height, width) in pixels from the header alone.

    Raises:
        UnreadableImage: no such file, no raster, several files on different grids.
        UserError: no rasterio.
    """
    paths = _paths(path)
    return one_size(paths, bands_of(paths))


def raster_bands(path: Raster) -> int:
    """How many bands there are; of several files in sum.

    Raises:
        UnreadableImage, UserError: as in `raster_size`.
    """
    return len(bands_of(_paths(path)))


def bands_of_images(record: Record) -> list[int]:
    """How many bands each image of a record has.

    Raises:
        UnreadableImage, UserError: as in `raster_size`.
    """
    return [raster_bands(files) for files in images_of(record)]


def raster_type(path: Path) -> str:
    """Number type of the first band: uint8, uint16, float32, ..."""
    return header_of(stamp_of(path)).types[0]


def describe(path: Raster) -> str:
    """In words for an error: bands, number type, and the values of some pixels of each band."""
    paths = _paths(path)
    bands = bands_of(paths)
    values = sample_values(paths, bands)
    finite = [band[np.isfinite(band)] for band in values]
    seen = ", ".join(f"{one.min():.5g} to {one.max():.5g}" if one.size else "no data" for one in finite[:4])
    more = ", ..." if len(finite) > 4 else ""
    return f"{len(bands)} band{'s' * (len(bands) > 1)} of {raster_type(paths[0])} with values {seen}{more}"


def geo_profile(path: Path) -> GeoProfile | None:
    """Where a raster lies; None where it does not say, and of pictures like PNG (without rasterio).

    Raises:
        UnreadableImage: no such file, or damaged.
        UserError: a TIFF, and no rasterio.
    """
    if driver_of(path) not in ("GTiff", "JP2OpenJPEG", "HFA", "VRT"):
        return None
    with opened_raster(path) as file:
        transform = tuple(float(number) for number in file.transform[:6])
        crs = file.crs.to_wkt() if file.crs is not None else ""
    if not crs and transform == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        return None
    a, b, c, d, e, f = transform
    return GeoProfile(crs=crs, transform=(a, b, c, d, e, f))


def write_geotiff(
    path: Path,
    labels: Tensor | np.ndarray | Iterable[tuple[int, Tensor | np.ndarray]],
    profile: GeoProfile | None,
    palette: Sequence[RGB] | None = None,
    *,
    size_hw: tuple[int, int] | None = None,
    num_classes: int | None = _MOST_IN_BYTE,
    values: Sequence[int] | None = None,
) -> None:
    """Write classes (or shares) as a GeoTIFF, complete or not at all; strips need memory for a few rows of tiles only.

    Args:
        labels: int[H, W], a class or IGNORED; or strips of it, (first row, int[h, W]), from top to bottom.
        profile: where it lies; None: nowhere.
        palette: a colour for each class, for programs that show maps; only where they fit into a byte.
        size_hw: of the whole, for strips.
        num_classes: up to 255 are written as bytes with 255 for IGNORED, more as 16 bits with 65535; None: these are no
            classes, and are written as float32, NaN where there are no data.
        values: what each class is written as, and IGNORED behind them; None: as its number.

    Raises:
        ValueError: strips without a size, a class that there is no room for, or rows that nothing was written to.
        UserError: no rasterio.
        OSError: the folder cannot be made, or the disk is full; a file that was there is untouched.
    """
    rasterio, path = rasterio_(), Path(path)
    if isinstance(labels, (Tensor, np.ndarray)):
        size_hw, strips = (int(labels.shape[0]), int(labels.shape[1])), [(0, labels)]
    elif size_hw is None:
        raise ValueError("strips do not say how large the whole is: size_hw")
    else:
        strips = labels
    height, width = size_hw
    number_type, nodata = (np.uint8, 255) if (num_classes or 0) <= _MOST_IN_BYTE else (np.uint16, 65535)
    if values is not None:
        num_classes, nodata = len(values) - 1, values[-1]
        number_type = np.uint8 if max(values) <= _MOST_IN_BYTE else np.uint16
    elif num_classes is None:
        number_type, nodata = np.float32, np.nan
    table = np.array([*range(num_classes or 0), nodata] if values is None else values)  # IGNORED, -1, is the last
    settings: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": number_type, "nodata": nodata,
        "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    if min(height, width) >= _BLOCK:
        settings |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    if profile is not None:
        affine = rasterio.Affine(*profile.transform)
        settings |= {"transform": affine, "crs": rasterio.crs.CRS.from_wkt(profile.crs) if profile.crs else None}
    written = 0
    # GDAL keeps tiles that are not full yet: two rows of them, or it would write (and compress) them several times.
    cache_bytes = 16 * 2**20 + 4 * _BLOCK * width * np.dtype(number_type).itemsize
    try:
        with (
            whole_file(path) as temporary,
            quiet(),
            rasterio.Env(GDAL_CACHEMAX=cache_bytes),
            rasterio.open(temporary, "w", **settings) as file,
        ):
            if palette is not None and number_type is np.uint8:
                colours = {int(table[number]): (*colour, 255) for number, colour in enumerate(palette)}
                file.write_colormap(1, colours | {nodata: (0, 0, 0, 0)})
            for y0, strip in strips:
                rows = strip.detach().cpu().numpy() if isinstance(strip, Tensor) else strip
                if num_classes is not None and (rows.max(initial=0) >= num_classes or rows.min(initial=0) < IGNORED):
                    raise ValueError(f"classes {rows.min()} to {rows.max()} where there are {num_classes}")
                window = rasterio.windows.Window(0, y0, width, len(rows))
                rows = rows if num_classes is None else table[rows]
                file.write(rows.astype(number_type), 1, window=window)
                written += len(rows)
            if written != height:
                raise ValueError(f"{written} of {height} rows were written")
    except rasterio.errors.RasterioError as error:
        raise OSError(f"{path}: {error}") from error


def _paths(path: Raster) -> tuple[Path, ...]:
    paths = (Path(path),) if isinstance(path, (str, Path)) else tuple(Path(one) for one in path)
    if not paths:
        raise ValueError("a raster of no file")
    return paths


def images_of(record: Record) -> list[tuple[Path, ...]]:
    """The files of each image."""
    each = int(record.notes.get(FILES_AN_IMAGE, "1"))
    return [record.images[at : at + each] for at in range(0, len(record.images), each)]


def _chosen(paths: Sequence[Path], intake: Intake | None) -> Bands:
    """The bands that become channels.

    Raises:
        UserError: no such band, or no word of which of them are meant where they are not RGB.
    """
    bands = bands_of(paths)
    if intake is not None and intake.bands is not None:
        beyond = [band for band in intake.bands if band > len(bands)]
        if beyond:
            what = f"no band {beyond[0]}: {describe(paths)}"
            raise UserError(what, where=paths[0], fix=f"--bands from 1 to {len(bands)}")
        return [bands[band - 1] for band in intake.bands]
    if intake is not None:
        return bands
    header = header_of(stamp_of(paths[0]))
    if len(paths) > 1 or not header.is_colour:
        what = f"{describe(paths)}, where 8-bit grey or RGB is expected"
        is_range_clear = all(kind == "uint8" for kind in header.types)
        few = "--bands 1" if len(bands) < 3 else "--bands 1,2,3"
        fix = f"say which bands are the colours: {few}" if is_range_clear else say(len(bands))
        raise UserError(what, where=paths[0], fix=fix)
    return [band for band, is_alpha in zip(bands, header.is_alpha, strict=True) if not is_alpha]


@functools.lru_cache(maxsize=4096)
def _ranges(
    stamps: tuple[Stamp, ...], bands: tuple[tuple[int, int], ...], intake: Intake
) -> tuple[np.ndarray, np.ndarray]:
    """float64[C] each; percentiles are those of the whole image, whatever part is wanted."""
    paths = [Path(path) for path, _, _ in stamps]
    if intake.percentiles is None:
        return intake.ranges(np.empty((len(bands), 0)))
    try:
        return intake.ranges(sample_values(paths, bands))
    except UserError as error:
        raise UserError(error.what, where=error.where or paths[0], fix=error.fix) from error
