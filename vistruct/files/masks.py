"""COCO segmentations as pixels: polygons and run lengths, whole images or one window of them.

The rules for which pixels a polygon covers are those of the COCO tools; faster-coco-eval has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

Window = tuple[int, int, int, int]


def rasterise(segmentation: Any, window_xyxy: Window) -> np.ndarray:
    """The pixels of one object inside a window.

    Args:
        segmentation: COCO's: polygons list[list[float]] (x, y, x, y, ...), or run lengths {size, counts}, compressed
            or not; pixels of the whole image.
        window_xyxy: in whole pixels, right and bottom exclusive; for run lengths inside their image.

    Returns:
        bool[h, w].
    """
    x0, y0, x1, y1 = window_xyxy
    if isinstance(segmentation, dict):
        return decode_rle(segmentation)[y0:y1, x0:x1].astype(bool)
    pixels = np.zeros((y1 - y0, x1 - x0), bool)
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in segmentation if len(ring)]
    if not rings:
        return pixels
    # Drawn whole on a sheet of its own size and then cut: an edge that the window cuts would turn out otherwise.
    points = np.concatenate(rings)
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
    # Rounded, because the tools round to fifths of a pixel and 4.1 - 4 must not fall below a tenth.
    moved = [np.round(ring - low, 6).ravel().tolist() for ring in rings]
    width, height = (int(side) for side in high - low)
    drawn = coco_mask.decode(_merged(moved, height, width)).astype(bool)
    left, top = max(x0, low[0]), max(y0, low[1])
    right, bottom = max(left, min(x1, high[0])), max(top, min(y1, high[1]))
    inside = drawn[top - low[1] : bottom - low[1], left - low[0] : right - low[0]]
    pixels[top - y0 : bottom - y0, left - x0 : right - x0] = inside
    return pixels


def _merged(polygons: list[list[float]], height: int, width: int) -> dict[str, Any]:
    parts: Any = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.merge(parts)


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """uint8[H, W] of run lengths; COCO writes them as numbers, as text or as bytes."""
    counts = rle["counts"]
    if isinstance(counts, list):
        height, width = rle["size"]
        return coco_mask.decode(coco_mask.frPyObjects(rle, height, width))
    counts = counts.encode() if isinstance(counts, str) else counts
    return coco_mask.decode({"size": list(rle["size"]), "counts": counts})
