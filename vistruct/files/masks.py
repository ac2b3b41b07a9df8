"""COCO segmentations as pixels: polygons and run lengths, whole images or one window of them.

The rules for which pixels a polygon covers are those of the COCO tools; hotcoco has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import mask as coco_mask

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
        return _window_of_runs(segmentation, window_xyxy)
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


def shares(segmentation: Any, window_xyxy: Window) -> np.ndarray:
    """How much of each pixel an object covers, in quarters: its mask with soft edges.

    Source: ViSFT's data: polygons drawn four times as large and brought down bilinearly, which looks at the four points
        in the middle of each pixel.

    Args:
        segmentation: as of `rasterise`; run lengths know whole pixels only.
        window_xyxy: likewise.

    Returns:
        float32[h, w] of 0, 0.25, ... 1.
    """
    if isinstance(segmentation, dict):
        return rasterise(segmentation, window_xyxy).astype(np.float32)
    x0, y0, x1, y1 = (4 * edge for edge in window_xyxy)
    fine = rasterise([[4 * number for number in ring] for ring in segmentation], (x0, y0, x1, y1))
    middle = np.stack([fine[y::4, x::4] for y in (1, 2) for x in (1, 2)])
    return middle.mean(axis=0, dtype=np.float32)


def run_lengths(rle: dict[str, Any]) -> np.ndarray:
    """int64[K], outside, inside, outside, ... down the columns, of run lengths as numbers, text or bytes.

    In COCO's text a number is the difference to the one before the last, in signs of five bits, lowest first.
    """
    counts = rle["counts"]
    if isinstance(counts, list | np.ndarray):
        return np.asarray(counts, np.int64)
    signs = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if not len(signs):
        return np.zeros(0, np.int64)
    is_last = (signs & 0x20) == 0
    first = np.flatnonzero(np.r_[True, is_last[:-1]])
    place = np.arange(len(signs)) - np.repeat(first, np.diff(np.r_[first, len(signs)]))
    numbers = np.add.reduceat((signs & 0x1F) << (5 * place), first)
    ends = np.r_[first[1:], len(signs)] - 1
    numbers -= np.where(signs[ends] & 0x10, 1 << (5 * (place[ends] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def hull_of_runs(rle: dict[str, Any]) -> Window:
    """Whole pixels around a mask in run lengths, right and bottom exclusive; (0, 0, 0, 0) of an empty one."""
    height, marks = int(rle["size"][0]), np.cumsum(run_lengths(rle))
    starts, ends = marks[:-1:2], marks[1::2] - 1
    starts = starts[: len(ends)]
    keep = ends >= starts
    starts, ends = starts[keep], ends[keep]
    if not len(starts):
        return 0, 0, 0, 0
    is_within = (starts // height == ends // height).all()  # no run goes on in the next column
    y0, y1 = (int((starts % height).min()), int((ends % height).max()) + 1) if is_within else (0, height)
    return int(starts[0] // height), y0, int(ends[-1] // height) + 1, y1


def _window_of_runs(rle: dict[str, Any], window: Window) -> np.ndarray:
    """bool[h, w]; only the columns of the window in which the mask is are made."""
    x0, y0, x1, y1 = window
    pixels = np.zeros((y1 - y0, x1 - x0), bool)
    low, _, high, _ = hull_of_runs(rle)
    low, high, height = max(low, x0), min(high, x1), int(rle["size"][0])
    if low >= high:
        return pixels
    marks = np.clip(np.cumsum(run_lengths(rle)) - low * height, 0, (high - low) * height)
    counts = np.diff(marks, prepend=0)
    rest = (high - low) * height - int(marks[-1])
    columns = np.repeat(np.r_[np.arange(len(counts)) % 2 == 1, False], np.r_[counts, rest])
    pixels[:, low - x0 : high - x0] = columns.reshape(high - low, height).T[y0:y1]
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
