"""Outlines filled without a model: the area of a box, upright or turned, and the ellipse inside of it, as pixels.

A pixel is in an ellipse where its centre is; which pixels a box covers is COCO's rule (`masks.rasterise`), as it is
where boxes are painted. Shapes: N objects, H x W pixels of the image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vistruct.contracts import MaskPatch, Window
from vistruct.files.masks import rasterise

Fill = Literal["ellipse", "box"]

NOTHING = MaskPatch(pixels=np.zeros((1, 1), bool), x=0, y=0)


def filled(corners: np.ndarray, how: Fill, window_xyxy: Window) -> MaskPatch:
    """The pixels of one object.

    Args:
        corners: float[4, 2], x and y one after the other: a box, or one that is turned.
        how: all of it; or the ellipse that touches its four sides in their middles.
        window_xyxy: whole pixels, right and bottom exclusive; what lies outside is cut off.

    Returns:
        The part of the window where it is. Where it is so small that no pixel is inside of it, the pixel that holds its
        centre; NOTHING where it does not meet the window.
    """
    corners = np.asarray(corners, np.float64)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)), window_xyxy[:2]).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)), window_xyxy[2:]).astype(int)
    if x0 >= x1 or y0 >= y1:
        return NOTHING
    if how == "box":
        pixels = rasterise([corners.ravel().tolist()], (int(x0), int(y0), int(x1), int(y1)))
    else:
        pixels = _ellipse(corners, np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
    x, y = np.floor(corners.mean(axis=0)).astype(int)
    if not pixels.any() and x0 <= x < x1 and y0 <= y < y1:
        pixels[y - y0, x - x0] = True
    return patch_of(pixels, int(x0), int(y0))


def patch_of(pixels: np.ndarray, x: int, y: int) -> MaskPatch:
    """The part of bool[h, w], whose top left pixel lies at (x, y), where anything is; NOTHING where it is empty."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return NOTHING
    top, left = int(rows[0]), int(columns[0])
    return MaskPatch(pixels=pixels[top : rows[-1] + 1, left : columns[-1] + 1], x=x + left, y=y + top)


def _ellipse(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool[h, w], which of the points x[w] and y[h] lie in the image of the unit circle in the parallelogram."""
    centre = corners.mean(axis=0)
    a, b = (
        (corners[1] - corners[0] + corners[2] - corners[3]) / 4,
        (corners[3] - corners[0] + corners[2] - corners[1]) / 4,
    )
    area = a[0] * b[1] - a[1] * b[0]
    if area == 0:
        return np.zeros((len(y), len(x)), bool)
    dx, dy = (x - centre[0])[None], (y - centre[1])[:, None]
    u, v = (b[1] * dx - b[0] * dy) / area, (a[0] * dy - a[1] * dx) / area
    return u * u + v * v <= 1
