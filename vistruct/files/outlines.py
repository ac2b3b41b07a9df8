"""Outlines of what a label map shows: rings along the edges of pixels, a few rows of the map in memory at a time.

Why not `rasterio.features.shapes`: it needs the whole map at once (it is what the tests compare with), and rasterio.

Every corner of an outline is a turn of one region: it comes in along one line of the pixel grid and goes out along
another. Sorted along its line, the first way out belongs to the first way in, and so on; that links all corners into
rings without a look at the pixels between them. Regions are joined by edges of pixels, not by their corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 2**20  # pixels
_RIGHT, _DOWN, _LEFT, _UP = range(4)
# Of the four pixels at a corner (top left, top right, bottom left, bottom right), those beside each along its edges,
# and how an outline that keeps its region on the right comes in and goes out around it.
_BESIDE = ((1, 2), (0, 3), (0, 3), (1, 2))
_ROUND_ONE = ((_DOWN, _LEFT), (_LEFT, _UP), (_RIGHT, _DOWN), (_UP, _RIGHT))
_ROUND_THREE = ((_RIGHT, _UP), (_DOWN, _RIGHT), (_UP, _LEFT), (_LEFT, _DOWN))  # the one that is not there


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A region of one value whose pixels are joined by their edges."""

    value: int
    rings: list[np.ndarray]  # float64[N, 2] each, x and y of pixel corners: around it, and around its holes
    pixels: int  # inside


def outlines(strips: Iterable[np.ndarray], width: int) -> Iterator[Outline]:
    """Every region of a label map, in the order of their first pixels, row by row.

    Args:
        strips: integer[h, width], from top to bottom; what is negative belongs to no region.

    Returns:
        Rings are clockwise on the screen, those of holes are not; the last corner is not the first again.
    """
    corners = _all_corners(strips, width)
    x, y, value = corners.T[:3]
    rings = _rings(_linked(corners), (y * (width + 1) + x).tolist())
    area = _areas(x, y, rings)
    outer = _outer(corners, rings, area)
    holes: dict[int, list[int]] = {number: [] for number in np.flatnonzero(area > 0).tolist()}
    for number in np.flatnonzero(area < 0).tolist():
        holes[int(outer[number])].append(number)
    for number, inside in holes.items():
        own = [number, *inside]
        yield Outline(
            value=int(value[rings[number][0]]),
            rings=[corners[rings[one], :2].astype(np.float64) for one in own],
            pixels=int(area[own].sum()),
        )


def _areas(x: np.ndarray, y: np.ndarray, rings: list[list[int]]) -> np.ndarray:
    """int64[R], pixels in each ring; below 0 where it is not clockwise."""
    if not rings:
        return np.zeros(0, np.int64)
    this = np.array([corner for ring in rings for corner in ring])
    following = np.array([corner for ring in rings for corner in (*ring[1:], ring[0])])
    begins = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
    return np.add.reduceat(x[this] * y[following] - x[following] * y[this], begins) // 2


def _all_corners(strips: Iterable[np.ndarray], width: int) -> np.ndarray:
    """int64[N, 6], row by row: x, y, value, where the run of the pixel above (to the right) begins, way in, way out."""
    above, y0, found = np.full((1, width), -1, np.int32), 0, []
    for strip in _with_end(strips, width):
        rows = np.concatenate([above, np.maximum(strip, -1).astype(np.int32)])
        found.append(_corners(rows, y0))
        above, y0 = rows[-1:], y0 + len(strip)
    return np.concatenate(found)


def _with_end(strips: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """The strips, in small parts, and a row of nothing below them."""
    rows = max(1, _AT_ONCE // max(1, width))
    for strip in strips:
        yield from (strip[y : y + rows] for y in range(0, len(strip), rows))
    yield np.full((1, width), -1, np.int32)


def _corners(rows: np.ndarray, y0: int) -> np.ndarray:
    """Those between these rows, of which the first lies above line `y0`."""
    padded = np.pad(rows, ((0, 0), (1, 1)), constant_values=-1)
    four = (padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:])
    is_plain = ((four[0] == four[1]) & (four[2] == four[3])) | ((four[0] == four[2]) & (four[1] == four[3]))
    y, x = np.nonzero(~is_plain)
    starts = np.where(np.diff(padded[:-1], axis=1) != 0, np.arange(padded.shape[1] - 1), 0)
    start = np.maximum.accumulate(starts, axis=1)[y, x]
    here = [one[y, x] for one in four]
    found = []
    for number in range(4):
        others = [here[other] for other in range(4) if other != number]
        alone = np.logical_and.reduce([here[other] != here[number] for other in _BESIDE[number]]) & (here[number] >= 0)
        three = (others[0] == others[1]) & (others[1] == others[2]) & (others[0] != here[number]) & (others[0] >= 0)
        for is_one, of, (come, go) in (
            (alone, here[number], _ROUND_ONE[number]),
            (three, others[0], _ROUND_THREE[number]),
        ):
            ways = np.broadcast_to(np.array([come, go]), (int(is_one.sum()), 2))
            columns = [one[is_one] for one in (x, y + y0, of, start)]
            found.append(np.column_stack([*columns, ways]))
    every = np.concatenate(found).astype(np.int64)
    return every[np.lexsort((every[:, 0], every[:, 1]))]


def _linked(corners: np.ndarray) -> list[int]:
    """For each corner the one that follows."""
    x, y, _, _, come, go = corners.T
    following = np.empty(len(x), np.int64)
    for way, line, along in ((_RIGHT, y, x), (_LEFT, y, -x), (_DOWN, x, y), (_UP, x, -y)):
        outs, ins = np.flatnonzero(go == way), np.flatnonzero(come == way)
        outs, ins = (some[np.lexsort((along[some], line[some]))] for some in (outs, ins))
        following[outs] = ins
    return following.tolist()


def _rings(following: list[int], places: list[int]) -> list[list[int]]:
    """The corners of each ring, from the topmost and of these the leftmost on, in the order of those.

    A ring that comes to a place again is two that touch there: no ring of a valid polygon touches itself.
    """
    rings, is_done = [], bytearray(len(following))
    for first in range(len(following)):
        ring: list[int] = []
        open_at: dict[int, int] = {}
        at = first
        while not is_done[at]:
            is_done[at] = 1
            seen = open_at.get(places[at])
            if seen is not None:
                rings.append(ring[seen:])
                for corner in ring[seen:]:
                    del open_at[places[corner]]
                del ring[seen:]
            open_at[places[at]] = len(ring)
            ring.append(at)
            at = following[at]
        if ring:
            rings.append(ring)
    begins = [ring.index(min(ring)) for ring in rings]
    return sorted((ring[at:] + ring[:at] for ring, at in zip(rings, begins, strict=True)), key=lambda ring: ring[0])


def _outer(corners: np.ndarray, rings: list[list[int]], area: np.ndarray) -> np.ndarray:
    """int64[R], for each ring the outer one of its region.

    Left of the pixel above the first corner of a hole the region ends at an edge of a ring that begins higher: the
    outer one, or another hole's, of which that is known by then.
    """
    x, y, _, start, _, go = corners.T
    ring_of = np.empty(len(x), np.int64)
    for number, ring in enumerate(rings):
        ring_of[ring] = number
    ups = np.flatnonzero(go == _UP)  # where edges begin that have their region on the right
    ups = ups[np.lexsort((y[ups], x[ups]))]
    lines = int(y.max(initial=0)) + 2
    keys, outer = x[ups] * lines + y[ups], np.arange(len(rings))
    for number in np.flatnonzero(area < 0).tolist():
        first = rings[number][0]
        outer[number] = outer[ring_of[ups[np.searchsorted(keys, start[first] * lines + y[first])]]]
    return outer
