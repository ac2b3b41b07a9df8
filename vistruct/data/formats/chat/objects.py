"""What a conversation points at: `objects` of a line, and `points` of its turns.

    {"image": "a.jpg",
     "objects": {"boxes": [[10, 20, 50, 60], [70, 20, 90, 60]], "phrases": ["the red roof", "a tree"]},
     "conversations": [{"from": "human", "value": "<image>\\nWhat is beside <region>?", "points": [[0]]},
                       {"from": "gpt", "value": "A tree <object>.", "points": [[1]]}]}

Beside `points` a question may have `prompts`, how it shows each region (box, point, scribble, mask; one word for all),
and an answer `units`, what is to be drawn of each mark's objects (box, mask, keypoint, point, depth; one word for all).

Every list of `objects` has one entry an object, in pixels of the image: `boxes` (x0, y0, x1, y1), `quads` (four
corners), `keypoints` (x, y, COCO's visibility, ...; a place that was clicked is one of them), `masks` (COCO's polygons
or run lengths; or a depth map, see `files.depth`, whose path starts where the images' do), `labels` (words), `scores`,
and of several images `images`, the number of each object's, from 0. Where there are no boxes, they are the hulls of
what there is. Any other list is kept under its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from vistruct.contracts import NO_OBJECTS, POINT_MARKS, Column, Objects, Prompt, Turn
from vistruct.data.formats.boxes import coco_shapes
from vistruct.data.formats.chat.shapes import Said
from vistruct.data.formats.chat.turns import OBJECTS, POINTS, Defect
from vistruct.files.depth import depth_faults, is_depth, placed_depth

NAMES = "names"  # the column of `labels`: words, which no list of classes numbers
_KEYS = {"boxes_xyxy": "boxes", NAMES: "labels"}  # of a column that has another name in the file
_FLAGS = ("is_crowd", "is_difficult", "is_ignored")
_TAKEN = ("boxes_xyxy", "boxes_cxcywha", NAMES)  # columns that no list is called by
_OPEN = ("keypoints", "masks")  # any number of points
_FIX = "one entry an object in every list of `objects`"


def parse_objects(value: object, num_images: int) -> Objects[np.ndarray]:
    """The table of a line's `objects`.

    Raises:
        Defect: lists of different lengths, or what is no box, quad, mask, ...; objects that are nowhere.
    """
    if value is None:
        return NO_OBJECTS
    if not isinstance(value, dict) or not all(isinstance(rows, list) for rows in value.values()):
        raise Defect(OBJECTS, f"objects is a set of lists (boxes, masks, labels, ...), this is {value!r:.60}", _FIX)
    lengths = {key: len(rows) for key, rows in value.items()}
    if len({*lengths.values()}) > 1:
        raise Defect(OBJECTS, f"lists of different lengths: {lengths}", _FIX)
    if not any(lengths.values()):
        return NO_OBJECTS
    num = next(iter(lengths.values()))
    columns: dict[str, Column] = {"labels": np.full(num, -1)}  # of no list of classes
    for key, rows in value.items():
        columns |= _column(key, rows, num_images)
    if num_images > 1 and "images" not in columns:
        raise Defect(OBJECTS, f"objects in one of {num_images} images", "say in `images` which one each is in, from 0")
    if num_images > 1 and "masks" in columns:
        raise Defect(OBJECTS, f"masks of objects in {num_images} images", "masks go with a single image")
    return Objects.of({"boxes_xyxy": _hulls(columns), **columns})


def pointed(turns: Sequence[Turn], said: Sequence[Said], num_objects: int | None) -> list[Turn]:
    """The turns with what the marks in them stand for.

    Args:
        said: each turn as it is written.
        num_objects: on the line; None: it has none, and marks are words.

    Raises:
        Defect: an object that does not exist, or as many marks as `points` not; an unknown prompt.
    """
    out = []
    for number, (turn, own) in enumerate(zip(turns, said, strict=True), start=1):
        points: Any = [] if own.points is None else own.points
        if not isinstance(points, list) or not all(isinstance(one, list) and _are_whole(one) and one for one in points):
            what = f"turn {number}: points is a list of lists of object numbers, this is {points!r:.60}"
            raise Defect(POINTS, what, "[[0], [1, 2]]: what each mark stands for")
        for at in (at for one in points for at in one):
            if not 0 <= at < (num_objects or 0):
                what = f"turn {number} points at object {at}, and there are {num_objects or 0} (numbers count from 0)"
                raise Defect(POINTS, what)
        if twice := next((one for one in points if len(set(one)) < len(one)), None):
            raise Defect(
                POINTS, f"turn {number}: a mark stands for an object twice: {twice!r:.60}", "each once in a mark"
            )
        mark = POINT_MARKS.get(turn.role)
        marks = turn.text.count(mark) if mark is not None and num_objects is not None else 0
        if marks != len(points):
            what = f"turn {number}: {marks} x {mark} in the text, but points has {len(points)} entries"
            raise Defect(POINTS, what, f"write {mark} once for each entry of points")
        units = _of_marks("units", own.units if turn.role == "assistant" else None, number, len(points))
        prompts: Any = _of_marks("prompts", own.prompts if turn.role == "user" else None, number, len(points))
        if unknown := set(prompts) - set(get_args(Prompt)):
            known = ", ".join(get_args(Prompt))
            raise Defect(POINTS, f"turn {number}: no way to show a region is {min(unknown)!r:.40}", f"known: {known}")
        if not isinstance(own.task, str | None):
            raise Defect(POINTS, f"turn {number}: task is a word, this is {own.task!r:.40}")
        out.append(
            replace(turn, points=tuple(map(tuple, points)), units=units, prompts=prompts, task=own.task or turn.task)
        )
    return out


def _of_marks(name: str, value: object, number: int, marks: int) -> tuple[str, ...]:
    """A word for each mark of a turn, written as a list or once for all.

    Raises:
        Defect: no words, or as many as marks not.
    """
    if value is None:
        return ()
    words = [value] * marks if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise Defect(POINTS, f"turn {number}: {name} is a word, or one for each mark; this is {value!r:.60}")
    if len(words) != marks:
        raise Defect(POINTS, f"turn {number}: {len(words)} {name} for {marks} marks", "a word for each, or one for all")
    return tuple(words)


def placed(objects: Objects[np.ndarray], place: Callable[[str], str]) -> Objects[np.ndarray]:
    """The same with other paths of its depth maps."""
    if objects.masks is None or not any(map(is_depth, objects.masks)):
        return objects
    return replace(objects, masks=tuple(placed_depth(one, place) if is_depth(one) else one for one in objects.masks))


def written(objects: Objects[np.ndarray]) -> dict[str, Any]:
    """The `objects` of a line; nothing where there are none.

    Raises:
        ValueError: labels that count in a list of classes, which a line does not have.
    """
    if not len(objects):
        return {}
    if (objects.labels >= 0).any():
        raise ValueError(f"conversations call objects by words, in the column {NAMES!r}")
    usual = Objects(labels=objects.labels).columns()
    usual.pop("boxes_xyxy")
    rows = {}
    for name, column in objects.columns().items():
        if name in usual and np.array_equal(np.asarray(column), np.asarray(usual[name])):
            continue  # as it will be when it is read again
        rows[_KEYS.get(name, name)] = list(column) if isinstance(column, tuple) else _flat(column)
    return {"objects": rows}


def _flat(column: Any) -> list[Any]:
    return column.reshape(len(column), -1).tolist() if column.ndim > 1 else column.tolist()


def _column(key: str, rows: list[Any], num_images: int) -> dict[str, Column]:
    """One list as a column, checked."""
    if key == "boxes":
        boxes = _numbers(key, rows, 4, "x0, y0, x1, y1")
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise Defect(OBJECTS, f"a box without an area: {rows[int((boxes[:, 2:] <= boxes[:, :2]).any(1).argmax())]}")
        return {"boxes_xyxy": boxes}
    if key == "quads":
        return {key: _numbers(key, rows, 8, "the x and y of four corners").reshape(-1, 4, 2)}
    if key == "keypoints":
        points = _numbers(key, rows, 3, "x, y, visibility of each")
        return {key: points.reshape(len(rows), points.shape[1] // 3, 3)}
    if key == "scores":
        return {key: _numbers(key, [[row] for row in rows], 1, "one number")[:, 0]}
    if key in _FLAGS:
        if not all(row in (0, 1) for row in rows):
            raise Defect(OBJECTS, f"{key} is true or false of each, these are {rows!r:.60}")
        return {key: np.array(rows, bool)}
    if key in _TAKEN:
        raise Defect(OBJECTS, f"{key} is no list that can be read", "boxes, quads, labels, or a name of your own")
    if key == "images" and (not _are_whole(rows) or not all(0 <= row < num_images for row in rows)):
        raise Defect(OBJECTS, f"images has numbers of the {num_images} images, from 0; these are {rows!r:.60}")
    if key == "labels" and not all(isinstance(row, str) for row in rows):
        raise Defect(OBJECTS, f"labels are words, these are {rows!r:.60}")
    for what, told in (fault for row in rows for fault in _mask_faults(row) if key == "masks"):
        raise Defect(OBJECTS, f"{what}: {told}")
    if key == "masks":
        rows = [[] if row is None else row for row in rows]  # as an object without one is written
    return {NAMES if key == "labels" else key: tuple(rows)}


def _numbers(key: str, rows: list[Any], width: int, meaning: str) -> np.ndarray:
    """float32[N, W] with W = `width`, of key points and polygons a multiple of it; rows may be nested once."""
    flat = [[v for part in row for v in part] if _is_nested(row) else row for row in rows]
    if all(coco_shapes.are_numbers(row) for row in flat) and len({*map(len, flat)}) == 1:
        size = len(flat[0])
        with contextlib.suppress(OverflowError), np.errstate(over="ignore"):
            found = np.array(flat, np.float64).astype(np.float32)
            if np.isfinite(found).all() and (size == width or (key in _OPEN and size % width == 0)):
                return found
    raise Defect(OBJECTS, f"{key}: an entry is {meaning}, in pixels; these are {rows!r:.60}")


def _is_nested(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and all(isinstance(part, list) for part in row)


def _are_whole(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _hulls(columns: Mapping[str, Any]) -> np.ndarray:
    """float32[N, 4] around what is known of each object."""
    if "boxes_xyxy" in columns:
        return columns["boxes_xyxy"]
    if "quads" in columns:
        return np.concatenate([columns["quads"].min(axis=1), columns["quads"].max(axis=1)], axis=1)
    if "masks" in columns:
        return np.array([_mask_hull(mask) for mask in columns["masks"]], np.float32)
    if "keypoints" in columns:
        places, seen = columns["keypoints"][..., :2], columns["keypoints"][..., 2:] > 0
        if seen.any(axis=1).all():
            low, high = np.where(seen, places, np.inf).min(axis=1), np.where(seen, places, -np.inf).max(axis=1)
            return np.concatenate([low, high], axis=1)
    raise Defect(OBJECTS, "objects that are nowhere", "give them boxes, quads, masks or keypoints")


def _mask_faults(mask: Any) -> Iterator[tuple[str, str]]:
    return depth_faults(mask) if is_depth(mask) else coco_shapes.segmentation_faults(mask, None)


def _mask_hull(mask: Any) -> tuple[float, float, float, float]:
    if is_depth(mask):
        raise Defect(OBJECTS, "a depth map without a box", "boxes: [0, 0, WIDTH, HEIGHT] of its image")
    if isinstance(mask, dict):
        from vistruct.files.masks import decode_rle

        rows, columns = decode_rle(mask).nonzero()
        points = np.stack([columns, rows], axis=1)
        far = 1  # a pixel goes on to the next
    else:
        flat = [value for polygon in mask or () for value in polygon]
        points = _numbers("masks", [flat], 2, "polygons").reshape(-1, 2)
        far = 0
    if not len(points):
        raise Defect(OBJECTS, "a mask without a pixel", "give the object a box, or leave it out")
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1 + far, y1 + far
