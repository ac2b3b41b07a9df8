"""Outlines on the map to pixels: GeoJSON polygons painted on the grid of a raster, by rasterio (extra `geo`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Window
from vistruct.errors import UserError
from vistruct.files.raster_headers import opened_raster, rasterio_


def paint_outlines(
    path: Path, shapes: Sequence[Mapping[str, Any]], crs: str | None, window_xyxy: Window | None = None
) -> np.ndarray:
    """The pixels of a raster, or of a window of it, whose centres are in any of some outlines.

    Args:
        shapes: GeoJSON polygons.
        crs: what their coordinates are in, as GeoJSON names it; None: longitude and latitude, or the raster's own
            where they can be no degrees.

    Returns:
        uint8[H, W], 1 inside.

    Raises:
        UserError: a coordinate system that nobody knows, or one that the raster does not have.
    """
    rasterio = rasterio_()
    with opened_raster(path) as file:
        x0, y0, x1, y1 = window_xyxy or (0, 0, file.width, file.height)
        own = file.crs
        a, b, c, d, e, f = file.transform[:6]
    transform = rasterio.Affine(a, b, a * x0 + b * y0 + c, d, e, d * x0 + e * y0 + f)  # of the window
    if not shapes:
        return np.zeros((y1 - y0, x1 - x0), np.uint8)
    try:
        if crs is None:
            edges = np.array([rasterio.features.bounds(shape) for shape in shapes])
            is_degrees = np.abs(edges[:, [0, 2]]).max() <= 180 and np.abs(edges[:, [1, 3]]).max() <= 90
            crs = "OGC:CRS84" if is_degrees else None
        theirs = own if crs is None else rasterio.crs.CRS.from_user_input(crs)
        if own is not None and theirs is not None and own != theirs:
            shapes = [rasterio.warp.transform_geom(theirs, own, shape) for shape in shapes]
    except (rasterio.errors.CRSError, ValueError) as error:
        raise UserError(f"coordinates in {crs}: {error}", where=path, fix="correct crs in the GeoJSON") from error
    drawn = rasterio.features.rasterize(shapes, out_shape=(y1 - y0, x1 - x0), transform=transform, dtype=np.uint8)
    return np.asarray(drawn)
