"""Coordinates of the map to pixels of a georeferenced raster, and polygons of GeoJSON, by rasterio (extra `geo`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.errors import UserError
from vistruct.files.raster_files import opened_raster, rasterio_

DEGREES = "OGC:CRS84"  # what a GeoJSON is in that names nothing: longitude, latitude

Ring = np.ndarray  # float64[N, 2], not closed


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the pixels of a raster lie."""

    path: Path
    size_hw: tuple[int, int]
    crs: Any  # rasterio's; None: not known
    transform: Any  # rasterio's: pixels to coordinates

    def pixels(self, points: np.ndarray, crs: str | None) -> np.ndarray:
        """float64[N, 2] in pixels from the top left corner, of coordinates in a system; None: in the raster's own.

        Raises:
            UserError: a coordinate system that nobody knows.
        """
        rasterio = rasterio_()
        xs, ys = points[:, 0], points[:, 1]
        try:
            theirs = None if crs is None else rasterio.crs.CRS.from_user_input(crs)
            if theirs is not None and self.crs is not None and theirs != self.crs and len(points):
                xs, ys = rasterio.warp.transform(theirs, self.crs, xs.tolist(), ys.tolist())
        except (rasterio.errors.CRSError, rasterio.errors.RasterioError, ValueError) as error:
            what = f"coordinates in {crs}: {str(error).splitlines()[0]}"
            raise UserError(what, where=self.path, fix="export the layer in a known coordinate system") from error
        a, b, c, d, e, f = (~self.transform)[:6]
        x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def grid_of(path: Path) -> Grid | None:
    """Where a raster lies; None where it does not say.

    Raises:
        UnreadableImage: no such file, or damaged.
        UserError: no rasterio.
    """
    rasterio = rasterio_()
    with opened_raster(path) as file:
        is_nowhere = file.transform == rasterio.Affine.identity()
        grid = Grid(path=path, size_hw=(file.height, file.width), crs=file.crs, transform=file.transform)
    return None if is_nowhere else grid


def polygons_of(geometry: Any) -> list[list[Ring]] | None:
    """The polygons of a GeoJSON geometry, each with its outer ring first and then its holes; None: it has no area.

    Raises:
        ValueError: it is none.
    """
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        parts = [polygons_of(one) for one in geometry["geometries"]]
        return [polygon for part in parts if part is not None for polygon in part] or None
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError("no geometry of GeoJSON")
    polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    return [[_ring(ring) for ring in polygon] for polygon in polygons if polygon]


def _ring(points: Sequence[Any]) -> Ring:
    ring = np.array([[float(one[0]), float(one[1])] for one in points], np.float64).reshape(-1, 2)
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring
