"""The rows of YOLO label files: what each says, and of which kind a data set is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vistruct.data.formats.boxes.coco_shapes import key_points
from vistruct.data.formats.boxes.objects import NOT_FINITE, ImageObjects, Told
from vistruct.data.formats.boxes.yolo_find import YoloLayout
from vistruct.data.formats.format import Stop
from vistruct.errors import UserError
from vistruct.files.text import decimal, read_text
from vistruct.issues import IssueCounter

_LARGEST = 10.0  # a share beyond this is a pixel
Kind = Literal["box", "oriented box", "mask", "key points"]


@dataclass
class YoloRow:
    """One line of a label file."""

    number: int  # of the line
    label: int
    values: list[float]  # shares of the image


@dataclass
class Labels:
    """The label file of an image."""

    objects: ImageObjects
    file: Path
    rows: list[YoloRow] = field(default_factory=list)


def read_rows(file: Path, layout: YoloLayout, stop: Stop) -> list[YoloRow]:
    """The rows of a file that can be understood; the others go to `stop`. A file that is not there has none."""
    if not file.is_file():
        return []
    try:
        lines = read_text(file, may_be_empty=True).splitlines()
    except UserError as error:
        stop(error)
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(_row(line.split(), number, f"{file}, line {number}", layout))
            except UserError as error:
                stop(error)
    return rows


def _row(words: list[str], number: int, where: str, layout: YoloLayout) -> YoloRow:
    values = [decimal(word, where, "every field of a row") for word in words]
    if not math.isfinite(values[0]) or values[0] != int(values[0]) or values[0] < 0:
        what = f"the class is a whole number from 0, this is {words[0]!r}"
        raise UserError(what, where=where, fix="correct this line")
    label = int(values[0])
    if layout.class_names is not None and label >= len(layout.class_names):
        most = len(layout.class_names) - 1
        what = f"class {label}, but the classes that have names are 0 to {most}"
        raise UserError(what, where=where, fix="correct this line, or add the name")
    if layout.keypoint_shape is not None:
        count, size = layout.keypoint_shape
        if len(values) != 5 + count * size:
            right = 5 + count * size
            what = f"{len(values)} fields; a class, a box and {count} key points of {size} numbers are {right}"
            raise UserError(what, where=where, fix="correct this line, or kpt_shape in the yaml")
        if size == 3 and not all(value in (0, 1, 2) for value in values[7::3]):
            raise UserError("the visibility of a key point is 0, 1 or 2", where=where, fix="correct this line")
    elif len(values) == 6:
        fix = "take the labels that were drawn"
        raise UserError("6 fields: these are a detector's findings with their scores", where=where, fix=fix)
    elif len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        what = f"{len(values)} fields; a class has 4 numbers (box), 8 (corners) or pairs of at least three points"
        raise UserError(what, where=where, fix="correct this line")
    is_large = [math.isfinite(value) and abs(value) > _LARGEST for value in values[1:]]
    if any(is_large):
        what = f"coordinates are shares of the image, from 0 to 1; this is {words[1 + is_large.index(True)]}"
        raise UserError(what, where=where, fix="divide x by the image's width and y by its height")
    return YoloRow(number, label, values[1:])


def kind_of(files: list[Labels], layout: YoloLayout, stop: Stop) -> Kind:
    """What the rows of a data set are; rows of another kind are said, and left out."""
    if layout.keypoint_shape is not None:
        return "key points"
    lengths = {len(row.values) for one in files for row in one.rows}
    shapes = lengths - {4}
    kind: Kind = "mask" if shapes - {8} else "oriented box" if shapes else "box"
    if not shapes or lengths == shapes:
        return kind
    is_first_box = len(next(row for one in files for row in one.rows).values) == 4
    shape = f"an {kind}" if kind == "oriented box" else f"a {kind}"
    is_this, is_that = (shape, "a box") if is_first_box else ("a box", shape)
    for one in files:
        for row in one.rows:
            if (len(row.values) == 4) != is_first_box:
                what = f"this row is {is_this}, the first of the data set is {is_that}"
                stop(UserError(what, where=f"{one.file}, line {row.number}", fix="keep rows of one kind in a data set"))
        one.rows = [row for row in one.rows if (len(row.values) == 4) == is_first_box]
    return "box" if is_first_box else kind


def add(one: Labels, row: YoloRow, kind: Kind, layout: YoloLayout, report: IssueCounter) -> None:
    """Take the object of a row, in pixels, among those of its image."""
    height, width = one.objects.size_hw
    here = f"{one.file}, line {row.number}"
    if kind in ("box", "key points"):
        cx, cy, w, h = (
            value * side for value, side in zip(row.values[:4], (width, height, width, height), strict=True)
        )
        points = _key_points(row, layout.keypoint_shape, one.objects.size_hw)
        kept = key_points({"keypoints": points}, here, report)
        one.objects.add_box(
            (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), row.label, here, report, Told(keypoints=kept)
        )
        return
    flat = [value * (height if place % 2 else width) for place, value in enumerate(row.values)]
    if kind == "oriented box":
        one.objects.add_quad([flat[i : i + 2] for i in (0, 2, 4, 6)], row.label, here, report)
        return
    if len(flat) > 6 and flat[:2] == flat[-2:]:
        flat = flat[:-2]  # closed
    if not all(map(math.isfinite, flat)):
        report.note(NOT_FINITE, here)
        return
    xs, ys = flat[0::2], flat[1::2]
    one.objects.add_box((min(xs), min(ys), max(xs), max(ys)), row.label, here, report, Told(mask=[flat]))


def _key_points(row: YoloRow, shape: tuple[int, int] | None, size_hw: tuple[int, int]) -> list[float]:
    """x, y in pixels and visibility of each; 2 where the data set has none."""
    if shape is None:
        return []
    height, width = size_hw
    points: list[float] = []
    for start in range(4, len(row.values), shape[1]):
        x, y, *seen = row.values[start : start + shape[1]]
        points += [x * width, y * height, *(seen or [2.0])]
    return points
