"""Outlines of objects: polygons and run lengths as COCO has them, their hulls and smallest rectangles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from vistruct.data.formats.boxes.objects import ROUNDING_PX, Corners, Edges
from vistruct.files.masks import decode_rle

ELLIPSE = "ellipse: taken as an outline of straight lines"

_SIDES = 64  # of an ellipse


def ellipse(cx: float, cy: float, rx: float, ry: float, angle_rad: float = 0.0) -> list[float]:
    """x, y, x, y, ... around an ellipse turned clockwise on screen."""
    turns = [2 * math.pi * side / _SIDES for side in range(_SIDES)]
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    at = [(rx * math.cos(turn), ry * math.sin(turn)) for turn in turns]
    return [value for x, y in at for value in (cx + cos * x - sin * y, cy + sin * x + cos * y)]


def upright(x0: float, y0: float, x1: float, y1: float) -> Edges:
    """The edges of a box of two opposite corners, in whatever order they were drawn."""
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def pairs(flat: Sequence[float]) -> list[tuple[float, float]]:
    """x, y, x, y, ... as points."""
    return list(zip(flat[0::2], flat[1::2], strict=True))


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths, column by column from background on, of bool[H, W]."""
    flat = np.concatenate(([0], mask.T.reshape(-1).astype(np.int8)))
    ends = np.flatnonzero(np.diff(flat)) if flat.size > 1 else np.zeros(0, np.int64)
    counts = np.diff(np.concatenate(([0], ends, [mask.size])))
    return {"size": [int(side) for side in mask.shape], "counts": counts.astype(int).tolist()}


def outline_points(mask: Any) -> np.ndarray:
    """float64[N, 2], the corners of a mask: of its polygons, or of the pixels that its runs begin and end at."""
    if not isinstance(mask, dict):
        return np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in mask])
    rows, columns = np.nonzero(decode_rle(mask))
    if not rows.size:
        return np.zeros((1, 2))
    return np.concatenate([np.stack([columns + dx, rows + dy], 1) for dx in (0, 1) for dy in (0, 1)]).astype(np.float64)


def hull_of(mask: Any) -> Edges:
    """The edges around a mask."""
    points = outline_points(mask)
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1


def is_upright(corners: Corners) -> bool:
    """Whether all sides are horizontal or vertical."""
    ends = zip(corners, [*corners[1:], corners[0]], strict=True)
    return all(min(abs(x1 - x0), abs(y1 - y0)) <= ROUNDING_PX for (x0, y0), (x1, y1) in ends)


def smallest_rectangle(points: np.ndarray) -> Corners:
    """The four corners of the smallest rectangle around float64[N, 2]; one of its sides lies on the convex hull."""
    if not np.isfinite(points).all():
        return [(math.nan, math.nan)] * 4
    try:
        hull = points[ConvexHull(points).vertices]
    except QhullError:  # all in a line: no area, as the reader will count
        return [tuple(points[at].tolist()) for at in (0, 0, -1, -1)]
    sides = np.roll(hull, -1, axis=0) - hull
    best: tuple[float, np.ndarray] | None = None
    for angle in np.arctan2(sides[:, 1], sides[:, 0]):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        flat = hull @ turn  # in the frame of this side
        (x0, y0), (x1, y1) = flat.min(axis=0), flat.max(axis=0)
        if best is None or (x1 - x0) * (y1 - y0) < best[0]:
            best = float((x1 - x0) * (y1 - y0)), np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ turn.T
    assert best is not None
    return [tuple(corner) for corner in best[1].tolist()]
