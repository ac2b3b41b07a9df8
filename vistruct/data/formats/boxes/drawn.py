"""Shapes on images, as annotation tools export them: what a reader of such a file gives (`exports` takes it on)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.coco_shapes import POLYGON_SHORT
from vistruct.data.formats.boxes.image_names import is_foreign
from vistruct.data.formats.boxes.objects import Corners, Edges
from vistruct.data.formats.boxes.outlines import pairs
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

NO_SHAPE = "shape left out: points, lines and the like are no objects with an area"
HOLE = "hole of an outline: filled"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One object: an upright box, a turned one, or an outline."""

    name: str  # of its class
    where: str
    edges: Edges | None = None  # x0, y0, x1, y1, pixels
    corners: Corners = ()  # four of (x, y), one after the other
    mask: Any = ()  # polygons or run lengths, as COCO has them
    is_difficult: bool = False
    is_crowd: bool = False

    @property
    def quad(self) -> Corners | None:
        """The corners of an outline that has four."""
        is_one = self.edges is None and not self.corners and not isinstance(self.mask, dict) and len(self.mask) == 1
        return pairs(self.mask[0]) if is_one and len(self.mask[0]) == 8 else None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as an export names it."""

    names: tuple[str, ...]  # what its file may be called, the likeliest first
    beside: Path  # the file whose folder the names start from
    where: str
    shapes: Sequence[Shape] = ()
    size_hw: tuple[int, int] | None = None  # pixels; None: not told
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What one file says, or all that belong together."""

    pictures: Sequence[Picture]
    class_names: tuple[str, ...] = ()  # in the order of the tool; those that it does not name follow
    others: tuple[str, ...] = ()  # names of images that were left out, and counted


def number(value: Any, where: str, what: str = "a coordinate") -> float:
    """A number of json.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # whole numbers of json have any length
            pass
    raise UserError(f"{what} is a number, this is none", where=f"{where}: {value!r:.40}", fix="correct this object")


def pixels(value: float, where: str, what: str = "a side of the image") -> int:
    """A whole number of pixels, of one that was read.

    Raises:
        UserError: it is not finite, or below 0.
    """
    if not 0 <= value < math.inf:
        raise UserError(f"{what} is a number of pixels", where=f"{where}: {value}", fix="correct it, or leave it out")
    return int(value)


def size_of(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(height, width) of json, pixels; see `pixels`."""
    return pixels(number(height, where, "a height"), where), pixels(number(width, where, "a width"), where)


def points_of(values: Any, where: str) -> list[float]:
    """x, y, x, y, ... of a list of pairs, or of such a flat list.

    Raises:
        UserError: it is neither.
    """
    if isinstance(values, list) and all(isinstance(one, list) and len(one) >= 2 for one in values):
        values = [value for one in values for value in one[:2]]
    if not isinstance(values, list) or len(values) % 2:
        what = "an outline is a list of points x, y, this is not"
        raise UserError(what, where=f"{where}: {values!r:.40}", fix="correct this object")
    return [number(value, where) for value in values]


def outline(name: str, flat: Sequence[float], where: str, report: IssueCounter, **more: Any) -> list[Shape]:
    """A shape of one polygon; none, and counted, where it has no area at all."""
    if len(flat) < 6:
        report.note(POLYGON_SHORT, where)
        return []
    return [Shape(name=name, where=where, mask=[list(flat)], **more)]


def head_of(file: Path, size: int = 64 * 1024) -> str:
    """The beginning of a text file; "" where it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return opened.read(size).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def tails(name: str) -> tuple[str, ...]:
    """A name, and its last part where it is a path that was true on another machine."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return (name, last) if last and last != name and is_foreign(name) else (name,)


def joined_groups(shapes: Sequence[tuple[Shape, Any]]) -> list[Shape]:
    """Objects, of which outlines of one class and one group (None: of none) are parts of one."""
    found: list[Shape] = []
    first: dict[tuple[str, str], int] = {}
    for shape, group in shapes:
        is_part = group is not None and isinstance(shape.mask, list)
        key = shape.name, repr(group)
        if is_part and key in first:
            whole = found[first[key]]
            found[first[key]] = replace(whole, mask=[*whole.mask, *shape.mask])
            continue
        if is_part:
            first[key] = len(found)
        found.append(shape)
    return found
