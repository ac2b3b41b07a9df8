"""Masks as run lengths, the way COCO writes them: down the columns of the whole image, starting with what is not mask.

A mask that fills a small part of a large image is encoded from that part; the image itself is never made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import mask as coco_mask


def patch_runs(pixels: np.ndarray, x: int, y: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Run lengths of a mask of which only a part is given, the rest being empty.

    Args:
        pixels: bool[h, w], the part.
        x: column of its top left pixel in the image; what lies outside the image is left out.
        y: its row.
        size_hw: of the image, pixels.

    Returns:
        int64[K], summing to the number of pixels of the image: outside, inside, outside, ...; the first may be 0,
        the others are not, except that an image without pixels has a single 0.
    """
    height, width = size_hw
    pixels = pixels[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    x, y = max(0, x), max(0, y)
    column, row = np.nonzero(np.diff(pixels.T.astype(np.int8), prepend=0, append=0, axis=1))  # in pairs: on, off
    edges = (column + x) * height + row + y
    starts, ends = edges[::2], edges[1::2]
    follows = starts[1:] == ends[:-1]  # one column ends at the bottom, the next begins at the top: a single run
    starts, ends = starts[np.r_[True, ~follows][: len(starts)]], ends[np.r_[~follows, True][: len(ends)]]
    marks = np.r_[0, np.stack([starts, ends], axis=1).ravel(), height * width]
    counts = np.diff(marks)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def encode_patch(pixels: np.ndarray, x: int, y: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    """As `patch_runs`, in COCO's compressed form: {"size": [height, width], "counts": bytes}."""
    height, width = size_hw
    runs = {"size": [height, width], "counts": patch_runs(pixels, x, y, size_hw).tolist()}
    return _compressed(runs)


def encode_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A COCO segmentation in compressed form: polygons (pixels, x and y in turn) or run lengths, compressed or not.

    Raises:
        ValueError: none of these, or run lengths of an image of another size.
    """
    height, width = size_hw
    if isinstance(segmentation, dict):
        if tuple(segmentation.get("size", ())) != (height, width) or "counts" not in segmentation:
            raise ValueError(f"run lengths of size {segmentation.get('size')} in an image of {[height, width]}")
        counts = segmentation["counts"]
        if isinstance(counts, list | np.ndarray):
            plain = {"size": [height, width], "counts": np.asarray(counts).tolist()}
            return _compressed(plain)
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    polygons = [np.asarray(ring, np.float64).ravel().tolist() for ring in segmentation or () if len(ring)]
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("polygons are lists of x and y in turn, of at least three corners each")
    parts: Any = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.merge(parts)


def _compressed(runs: dict[str, Any]) -> dict[str, Any]:
    compressed: Any = coco_mask.frPyObjects([runs], *runs["size"])
    return compressed[0]


def run_area(runs: dict[str, Any]) -> int:
    """Pixels inside, of a mask in compressed form."""
    area: Any = coco_mask.area([runs])
    return int(area[0])
