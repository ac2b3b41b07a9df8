"""The rows of YOLO label files: what each says, and of which kind a data set is."""

from __future__ import annotations

import math
from collections.abc import Callable
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
_SAME_PX, _SAME_SHARE = 2.0, 0.05  # of a diagonal: what may be amiss in a rectangle
Kind = Literal["box", "oriented box", "mask", "key points"]
Four = Literal["auto", "oriented", "masks"]  # what rows of four corners are; auto: oriented boxes, unless masks

NO_RECTANGLE = "row of four corners that is no rectangle: taken as an oriented box; outlines are --format yolo-masks"


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


def read_rows(file: Path, layout: YoloLayout, stop: Stop, *, has_scores: bool = False) -> list[YoloRow]:
    """The rows of a file that can be understood; the others go to `stop`. A file that is not there has none.

    Args:
        has_scores: the last number of a row is that of a detector, and is not read.
    """
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
                words = line.split()
                words = words[:-1] if has_scores else words
                rows.append(_row(words, number, f"{file}, line {number}", layout))
            except UserError as error:
                stop(error)
    return rows


def _row(words: list[str], number: int, where: str, layout: YoloLayout) -> YoloRow:
    values = [decimal(word, where, "every field of a row") for word in words]
    if not math.isfinite(values[0]) or values[0] != int(values[0]) or values[0] < 0:
        raise UserError("the class is a whole number from 0", where=f"{where}: {words[0]!r}", fix="correct this line")
    label = int(values[0])
    if layout.class_names is not None and label >= len(layout.class_names):
        told = f"{where}: class {label}, names are of 0 to {len(layout.class_names) - 1}"
        raise UserError("a class that has no name", where=told, fix="correct this line, or add the name")
    if layout.keypoint_shape is not None:
        count, size = layout.keypoint_shape
        if len(values) != 5 + count * size:
            right = 5 + count * size
            told = f"{where}: {len(values)} fields; a class, a box and {count} key points of {size} numbers are {right}"
            fix = "correct this line, or kpt_shape in the yaml"
            raise UserError("a row of another length than kpt_shape says", where=told, fix=fix)
        if size == 3 and not all(value in (0, 1, 2) for value in values[7::3]):
            raise UserError("the visibility of a key point is 0, 1 or 2", where=where, fix="correct this line")
    elif len(values) == 6:
        fix = "take the labels that were drawn, or --format yolo-conf"
        raise UserError("six fields: these are a detector's findings with their scores", where=where, fix=fix)
    elif len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        what = "behind its class a row has four numbers (box), eight (corners) or pairs of at least three points"
        raise UserError(what, where=f"{where}: {len(values)} fields", fix="correct this line")
    is_large = [math.isfinite(value) and abs(value) > _LARGEST for value in values[1:]]
    if any(is_large):
        told = f"{where}: {words[1 + is_large.index(True)]}"
        fix = "divide x by the image's width and y by its height"
        raise UserError("coordinates are shares of the image, from 0 to 1", where=told, fix=fix)
    return YoloRow(number, label, values[1:])


def kind_of(files: list[Labels], layout: YoloLayout, four: Four, masks: bool, stop: Stop) -> Kind:
    """What the rows of a data set are; rows that cannot be among them are said, and left out.

    Args:
        four: what rows of four corners are.
        masks: whether masks of all objects are wanted.
    """
    if layout.keypoint_shape is not None:
        return "key points"
    lengths = {len(row.values) for one in files for row in one.rows}
    has_outlines = bool(lengths - {4, 8})
    is_mask = has_outlines or (8 in lengths and (four == "masks" or (masks and four != "oriented")))
    if four == "oriented" and has_outlines:
        fix = "--format yolo-masks, where rows of four corners are outlines too"
        _leave_out(files, lambda size: size not in (4, 8), "an outline among oriented boxes", fix, stop)
        return "oriented box"
    if is_mask:
        if masks:
            fix = "--head faster_rcnn learns from boxes; or draw its outline"
            _leave_out(files, lambda size: size == 4, "a box without an outline, where masks are wanted", fix, stop)
        return "mask"
    if {4, 8} <= lengths and four == "auto":
        is_first_box = len(next(row for one in files for row in one.rows).values) == 4
        what = "rows of boxes and of four corners: are these oriented boxes, or outlines?"
        fix = "--format yolo-obb (then the boxes are upright), or --format yolo-masks"
        _leave_out(files, lambda size: (size == 4) != is_first_box, what, fix, stop)
        return "box" if is_first_box else "oriented box"
    return "oriented box" if 8 in lengths else "box"


def _leave_out(files: list[Labels], is_odd: Callable[[int], bool], what: str, fix: str, stop: Stop) -> None:
    odd = [f"{one.file}, line {row.number}" for one in files for row in one.rows if is_odd(len(row.values))]
    for place in odd:
        more = f": the first of {len(odd)} rows" if place == odd[0] and len(odd) > 1 else ""
        stop(UserError(what, where=f"{place}{more}", fix=fix))
    for one in files:
        one.rows = [row for row in one.rows if not is_odd(len(row.values))]


def add(one: Labels, row: YoloRow, kind: Kind, layout: YoloLayout, report: IssueCounter) -> None:
    """Take the object of a row, in pixels, among those of its image."""
    height, width = one.objects.size_hw
    here = f"{one.file}, line {row.number}"
    if len(row.values) == 4 or kind == "key points":
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
        corners = [flat[i : i + 2] for i in (0, 2, 4, 6)]
        if not _is_rectangle(corners):
            report.note(NO_RECTANGLE, here, "kept")
        one.objects.add_quad(corners, row.label, here, report)
        return
    if len(flat) > 6 and flat[:2] == flat[-2:]:
        flat = flat[:-2]  # closed
    if not all(map(math.isfinite, flat)):
        report.note(NOT_FINITE, here)
        return
    xs, ys = flat[0::2], flat[1::2]
    one.objects.add_box((min(xs), min(ys), max(xs), max(ys)), row.label, here, report, Told(mask=[flat]))


def _is_rectangle(corners: list[list[float]]) -> bool:
    """Whether both diagonals are as long, and have one middle; drawn to a pixel or two."""
    if not all(map(math.isfinite, [value for corner in corners for value in corner])):
        return True  # said elsewhere
    a, b, c, d = corners
    middles = math.dist([(a[0] + c[0]) / 2, (a[1] + c[1]) / 2], [(b[0] + d[0]) / 2, (b[1] + d[1]) / 2])
    first, second = math.dist(a, c), math.dist(b, d)
    return max(middles, abs(first - second)) <= max(_SAME_PX, _SAME_SHARE * max(first, second))


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
