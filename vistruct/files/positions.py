"""Whether two rasters of one place lie on the same pixels, where both say where they lie (extra `geo`)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vistruct.files.geo import GeoProfile, geo_profile

TOLERANCE = 0.5  # pixels at the corners

_ON_MAP = (".tif", ".tiff", ".jp2", ".img")


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How far one raster lies from another."""

    pixels: float  # of the first, at the corner that lies furthest; infinite: no way leads from one to the other
    other_crs: str = ""  # names of both coordinate systems, where they differ

    def __str__(self) -> str:
        """In words."""
        far = "nowhere near" if np.isinf(self.pixels) else f"{self.pixels:,.1f} pixels away"
        return f"{far}{f', in {self.other_crs}' if self.other_crs else ''}"


def position(path: Path) -> GeoProfile | None:
    """Where a raster lies; None where it does not say, or nothing is there to read it with."""
    if path.suffix.lower() not in _ON_MAP or importlib.util.find_spec("rasterio") is None:
        return None
    return geo_profile(path)


def apart(one: GeoProfile | None, other: GeoProfile | None, size_hw: tuple[int, int]) -> Apart | None:
    """How far the second lies from the first, of the same size in pixels; None: not more than TOLERANCE, or unknown."""
    if one is None or other is None or one == other:
        return None
    from rasterio import crs, errors, warp

    height, width = size_hw
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float).T
    x, y = _matrix(other)[:, :2] @ corners + _matrix(other)[:, 2:]
    named = ""
    if one.crs and other.crs and one.crs != other.crs:
        mine, its = crs.CRS.from_wkt(one.crs), crs.CRS.from_wkt(other.crs)
        if mine != its:
            named = f"{its.to_string()[:40]} and not {mine.to_string()[:40]}"
            try:
                x, y = (np.array(axis) for axis in warp.transform(its, mine, x.tolist(), y.tolist()))
            except errors.RasterioError:
                return Apart(pixels=np.inf, other_crs=named)
    places = np.linalg.solve(_matrix(one)[:, :2], np.stack([x, y]) - _matrix(one)[:, 2:])
    distance = np.hypot(*(places - corners))
    pixels = float(distance.max()) if np.isfinite(distance).all() else np.inf
    return Apart(pixels=pixels, other_crs=named) if pixels > TOLERANCE else None


def _matrix(profile: GeoProfile) -> np.ndarray:
    """float64[2, 3], pixels to places."""
    return np.array(profile.transform, np.float64).reshape(2, 3)
