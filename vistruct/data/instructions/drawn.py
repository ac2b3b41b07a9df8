"""Points and scribbles as a hand would draw them on an object: inside its mask, else inside its box.

They are rows of their own behind the picture's objects, so that they move with the picture: a point is a key point of
its row, a scribble is its row's mask, made of one thick stroke after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

from vistruct.contracts import Objects, Prompt, Region
from vistruct.files.masks import rasterise

Place = tuple[float, float]

CELLS = 48  # of the grid that a mask is looked at on, longer side
MIDDLE = 0.5  # of the depth of a mask's deepest place: a point is at least so deep
LENGTH = (0.4, 0.9)  # of an object's longer side, of a scribble
WOBBLE = 0.12  # of an object's shorter side, how far a scribble strays at once
STROKES = 8
WIDTH_PX, WIDTH_OF_PICTURE, WIDTH_OF_LINE = 2.0, 0.02, 0.15  # of a scribble: at least; of the shorter side, and at most


def point_on(objects: Objects[np.ndarray], row: int, size_hw: tuple[int, int], rng: np.random.Generator) -> Region:
    """A place on an object, away from its border."""
    grid = _grid(objects, row, size_hw)
    if grid is None:
        return Region(kind="point", xy=(_at(objects, row, *(0.5 + 0.5 * MIDDLE * (rng.random(2) - 0.5) * 2)),))
    pixels, (x0, y0), step = grid
    depth = ndimage.distance_transform_cdt(np.pad(pixels, 1), "chessboard")[1:-1, 1:-1]
    ys, xs = np.nonzero(depth >= max(1, MIDDLE * depth.max()))
    one = int(rng.integers(len(xs)))
    return Region(kind="point", xy=((float(x0 + xs[one] * step) + 0.5, float(y0 + ys[one] * step) + 0.5),))


def scribble_on(objects: Objects[np.ndarray], row: int, size_hw: tuple[int, int], rng: np.random.Generator) -> Region:
    """A wobbly line along an object."""
    grid = _grid(objects, row, size_hw)
    length = rng.uniform(*LENGTH)
    start = rng.uniform(0, 1 - length)
    if grid is None:
        along = start + length * np.linspace(0, 1, STROKES + 1)
        across = 0.5 + np.clip(np.cumsum(rng.normal(0, WOBBLE, STROKES + 1)), -0.35, 0.35)
        is_wide = _is_wide(objects, row)
        line = [_at(objects, row, *((a, c) if is_wide else (c, a))) for a, c in zip(along, across, strict=True)]
        return Region(kind="scribble", xy=tuple(line))
    pixels, (x0, y0), step = grid
    is_tall = pixels.shape[0] > pixels.shape[1]
    cells = _walk(pixels if is_tall else pixels.T, start, length, rng)
    places = [(across, along) if is_tall else (along, across) for along, across in cells]
    return Region(kind="scribble", xy=tuple((x0 + x * step + 0.5, y0 + y * step + 0.5) for x, y in places))


def _walk(pixels: np.ndarray, start: float, length: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """(row, column) of a line down the rows that never leaves the pixels; at least one place."""
    filled = np.flatnonzero(pixels.any(axis=1))
    first = int(filled[int(start * len(filled))])
    last = min(len(pixels) - 1, first + max(1, round(length * len(filled))))
    left, right = _run_at(pixels[first], None, rng)
    column = (left + right) / 2
    line = [(float(first), column)]
    for at in range(first + 1, last + 1):
        found = _run_at(pixels[at], (left, right), rng)
        if found is None:
            break
        low, high = max(left, found[0]), min(right, found[1])  # cells that both rows have: the line may turn there
        left, right = found
        middle, wide = (left + right) / 2, right - left
        column = float(np.clip(0.7 * column + 0.3 * middle + rng.normal(0, WOBBLE) * wide, low, high))
        line.append((float(at), column))
    every = max(1, len(line) // STROKES)
    return line if every == 1 else [*line[:-1:every], line[-1]]


def _run_at(cells: np.ndarray, beside: tuple[int, int] | None, rng: np.random.Generator) -> Any:
    """First and last cell of a run of a row, the longest that touches the one before; None: there is none."""
    edges = np.flatnonzero(np.diff(np.r_[False, cells, False].astype(np.int8)))
    runs = [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if beside is not None:
        runs = [(a, b) for a, b in runs if a <= beside[1] and b >= beside[0]]
    return max(runs, key=lambda run: run[1] - run[0], default=None)


def _grid(
    objects: Objects[np.ndarray], row: int, size_hw: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int], int] | None:
    """bool[h, w] of every step-th pixel of an object's mask, the first one's place (x, y), the step; None: no mask."""
    if objects.masks is None or not objects.masks[row]:
        return None
    box = objects.boxes_xyxy[row].astype(np.float64)
    x0, y0 = (max(0, int(v)) for v in np.floor(box[:2]))
    x1, y1 = (min(side, int(v)) for v, side in zip(np.ceil(box[2:]), size_hw[::-1], strict=True))
    if x1 <= x0 or y1 <= y0:
        return None
    pixels = rasterise(objects.masks[row], (x0, y0, x1, y1))
    step = max(1, -(-max(pixels.shape) // CELLS))
    some = pixels[step // 2 :: step, step // 2 :: step]
    return (some, (x0 + step // 2, y0 + step // 2), step) if some.any() else None


def _at(objects: Objects[np.ndarray], row: int, along: float, down: float) -> Place:
    """The place at shares of an object's quad, or of its box."""
    a, b, c, d = objects.outlines[row].astype(np.float64)
    x, y = (1 - down) * ((1 - along) * a + along * b) + down * ((1 - along) * d + along * c)
    return float(x), float(y)


def _is_wide(objects: Objects[np.ndarray], row: int) -> bool:
    a, b, c, _ = objects.outlines[row].astype(np.float64)
    return bool(np.linalg.norm(b - a) >= np.linalg.norm(c - b))


def stroke_width(line: Sequence[Place], size_hw: tuple[int, int]) -> float:
    """Pixels, of a hand that draws on the whole picture, and finer on what is small."""
    extent = float(np.ptp(np.asarray(line), axis=0).max())
    return max(WIDTH_PX, min(WIDTH_OF_PICTURE * min(size_hw), WIDTH_OF_LINE * extent))


def strokes(line: Sequence[Place], width: float) -> list[list[float]]:
    """A line as polygons that cover it: a rectangle around each of its parts, half a width longer on both ends."""
    places = np.asarray(line, np.float64)
    if len(places) == 1:
        places = np.repeat(places, 2, axis=0)
    out = []
    for a, b in pairwise(places):
        far = np.linalg.norm(b - a)
        ahead = (b - a) / far if far > 0 else np.array([1.0, 0.0])
        side = np.array([-ahead[1], ahead[0]]) * width / 2
        a, b = a - ahead * width / 2, b + ahead * width / 2
        out.append(np.round([a + side, b + side, b - side, a - side], 2).ravel().tolist())
    return out


def with_regions(
    objects: Objects[np.ndarray], regions: Sequence[Region], size_hw: tuple[int, int]
) -> Objects[np.ndarray]:
    """The objects, and behind them a row for each region that was drawn by hand."""
    if not regions:
        return objects
    num, more = len(objects), len(regions)
    height, width = size_hw
    hulls, masks = [], []
    clicks = np.zeros((more, 1, 3), np.float32)
    for number, region in enumerate(regions):
        if region.kind == "point":
            clicks[number, 0] = (*region.xy[0], 2)
            masks.append([])
            places = np.array(region.xy) + np.array([[-0.5], [0.5]])
        elif region.kind == "box":
            masks.append([])
            places = np.array(region.xy)
        elif region.kind == "mask":
            masks.append([np.round(region.xy, 2).ravel().tolist()])
            places = np.array(region.xy)
        else:
            masks.append(strokes(region.xy, stroke_width(region.xy, size_hw)))
            places = np.array(masks[-1]).reshape(-1, 2)
        hulls.append(np.clip([*places.min(axis=0), *places.max(axis=0)], 0, [width, height] * 2))
    columns: dict[str, Any] = {name: _longer(column, more) for name, column in objects.columns().items()}
    columns |= {"labels": np.r_[objects.labels, np.full(more, -1)], "scores": np.r_[objects.scores, np.ones(more)]}
    columns["boxes_xyxy"] = np.concatenate([objects.boxes_xyxy, np.array(hulls)]).astype(np.float32)
    if any(masks) or objects.masks is not None:
        columns["masks"] = (*(objects.masks or ([],) * num), *masks)
    if clicks[:, :, 2].any() or objects.keypoints is not None:
        known = np.zeros((num, 1, 3), np.float32) if objects.keypoints is None else objects.keypoints
        columns["keypoints"] = np.concatenate([known, np.pad(clicks, ((0, 0), (0, known.shape[1] - 1), (0, 0)))])
    made = Objects.of(columns)
    return made if objects.quads is None else replace(made, quads=_quads(made, num))


def _quads(objects: Objects[np.ndarray], num: int) -> np.ndarray:
    """float32[N, 4, 2], from row `num` on the corners of the boxes."""
    assert objects.quads is not None
    return np.concatenate([objects.quads[:num], replace(objects, quads=None).outlines[num:]]).astype(np.float32)


def _longer(column: Any, more: int) -> Any:
    """With so many rows of nothing behind."""
    if isinstance(column, tuple):
        return (*column, *([] if column and not isinstance(column[0], str) else "" for _ in range(more)))
    return np.concatenate([column, np.zeros((more, *column.shape[1:]), column.dtype)])


def on_background(box_xyxy: np.ndarray, prompt: Prompt, rng: np.random.Generator) -> Region:
    """What a hand would draw of a thing in a box, where there is none."""
    place = Objects(labels=np.full(1, -1), boxes_xyxy=np.asarray(box_xyxy, np.float32)[None])
    if prompt == "point":
        return point_on(place, 0, (0, 0), rng)
    if prompt == "scribble":
        return scribble_on(place, 0, (0, 0), rng)
    x0, y0, x1, y1 = np.asarray(box_xyxy, np.float64).tolist()
    if prompt == "box":
        return Region(kind="box", xy=((x0, y0), (x1, y1)))
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    x, y = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angles), (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angles)
    return Region(kind="mask", xy=tuple(zip(x.tolist(), y.tolist(), strict=True)))
