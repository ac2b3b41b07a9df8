"""Which detections and objects of the same image and class overlap, and by how much, over a whole data set at once.

Pairs come from one sorted list: objects by group and left edge, so that each detection looks at a slice of it. Only
pairs whose hulls touch are clipped against each other, many images in one call.

Annotators' quads need not be convex. Seen from a detection that lies straight, what a polygon and a rectangle share is
the integral along the polygon of its height, cut to the rectangle's, and that holds for every polygon: where it winds
around a part the other way, that part counts as negative, as in the shoelace formula and in the DOTA devkit.
Shapes: N detections, M objects, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PAIRS = 1 << 18  # looked at in one go, so that memory does not grow with the data


def touching_pairs(
    hulls: np.ndarray, groups: np.ndarray, object_hulls: np.ndarray, object_groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a detection and an object of the same group whose hulls share some area or an edge.

    Args:
        hulls: float64[N, 4], xyxy; those that are not finite touch nothing.
        groups: int64[N], the same number for the same image and class.
        object_hulls: float64[M, 4], xyxy.
        object_groups: int64[M].

    Returns:
        int64[P] detections and int64[P] objects.
    """
    objects = np.flatnonzero(np.isfinite(object_hulls).all(axis=1))
    asked = np.flatnonzero(np.isfinite(hulls).all(axis=1))
    if not len(objects) or not len(asked):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # One number that sorts by group and then by left edge; groups are further apart than anything is wide.
    numbers, number_of = np.unique(object_groups[objects], return_inverse=True)
    widest = np.zeros(len(numbers))
    np.maximum.at(widest, number_of, object_hulls[objects, 2] - object_hulls[objects, 0])
    at = np.searchsorted(numbers, groups[asked]).clip(max=len(numbers) - 1)
    is_known = numbers[at] == groups[asked]
    asked, at = asked[is_known], at[is_known]
    if not len(asked):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    left = min(object_hulls[objects, 0].min(), hulls[asked, 0].min())
    right = max(object_hulls[objects, 2].max(), hulls[asked, 2].max())
    apart = right - left + widest.max() + 4.0
    key = number_of * apart + (object_hulls[objects, 0] - left)
    order = np.argsort(key, kind="stable")
    objects, key = objects[order], key[order]
    # A pixel more on both sides than needed: in a large data set the key is rounded.
    first = np.searchsorted(key, at * apart + (hulls[asked, 0] - left) - widest[at] - 1.0, side="left")
    last = np.searchsorted(key, at * apart + (hulls[asked, 2] - left) + 1.0, side="right")
    pairs = [np.zeros((2, 0), np.int64)]
    for rows, columns in _slices(asked, objects, first, last):
        touch = _touch(hulls[rows], object_hulls[columns])
        pairs.append(np.stack([rows[touch], columns[touch]]))
    every = np.concatenate(pairs, axis=1)
    return every[0], every[1]


def shared_area(boxes: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Area that each oriented box shares with the quad in the same row.

    Args:
        boxes: float64[P, 5], cxcywha, with w, h >= 0.
        quads: float64[P, 4, 2], corners one after the other, in either direction; convex or not.

    Returns:
        float64[P], px^2; below 0 where most of it lies in a part that the quad winds around against its own sense.
    """
    cos, sin = np.cos(boxes[:, 4:5]), np.sin(boxes[:, 4:5])  # [P, 1]
    right, down = boxes[:, 2:3] / 2, boxes[:, 3:4] / 2
    dx, dy = quads[:, :, 0] - boxes[:, 0:1], quads[:, :, 1] - boxes[:, 1:2]  # [P, 4]
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    width, rise = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    inside = np.clip(x, -right, right)  # [P, 4]: where an edge begins and ends within the box's width
    inside_end = np.roll(inside, -1, axis=1)
    safe = np.where(width == 0, 1.0, width)  # an upright edge has nothing below it
    begin = y + rise * np.clip((inside - x) / safe, 0, 1)
    end = y + rise * np.clip((inside_end - x) / safe, 0, 1)
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    cut_low, cut_high = np.clip(low, -down, down), np.clip(high, -down, down)
    below = np.maximum(np.minimum(high, -down) - low, 0)
    above = np.maximum(high - np.maximum(low, down), 0)
    length = high - low
    mean = ((above - below) * down + (cut_high - cut_low) * (cut_low + cut_high) / 2) / np.where(length > 0, length, 1)
    mean = np.where(length > 0, mean, cut_low)  # [P, 4]: of an edge's height, cut to the box's
    sense = np.where(_signed_area(quads) < 0, 1.0, -1.0)  # above: the integral of a quad is minus its signed area
    return sense * ((inside_end - inside) * mean).sum(axis=1)


def quad_area(quads: np.ndarray) -> np.ndarray:
    """float64[M, 4, 2] -> float64[M], px^2, by the shoelace formula."""
    return np.abs(_signed_area(quads))


def _signed_area(quads: np.ndarray) -> np.ndarray:
    x, y = quads[:, :, 0] - quads[:, :1, 0], quads[:, :, 1] - quads[:, :1, 1]
    return (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1) / 2


def quad_hulls(quads: np.ndarray) -> np.ndarray:
    """float64[M, 4, 2] -> float64[M, 4], xyxy."""
    return np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)


def _slices(
    asked: np.ndarray, objects: np.ndarray, first: np.ndarray, last: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `asked` with objects[first:last] of its own, about `PAIRS` pairs at a time."""
    lengths = np.maximum(last - first, 0)
    ends = np.cumsum(lengths)
    start = 0
    while start < len(asked):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
        length = lengths[start:stop]
        rows = np.repeat(asked[start:stop], length)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(length) - length, length)
        yield rows, objects[np.repeat(first[start:stop], length) + within]
        start = stop


def _touch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool[P], whether hulls float64[P, 4] share a point."""
    return (a[:, 0] <= b[:, 2]) & (b[:, 0] <= a[:, 2]) & (a[:, 1] <= b[:, 3]) & (b[:, 1] <= a[:, 3])
