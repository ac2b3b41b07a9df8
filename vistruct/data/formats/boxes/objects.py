"""The objects of one image while a format is read: what is usable is kept, what is not is counted by its reason.

Every box format puts what it finds through here, so that the same fault has the same name and the same outcome
everywhere. Horizontal boxes are clipped to their image. Oriented ones are kept as they were drawn: an object that the
image border cuts has no honest smaller oriented box; one that lies outside altogether is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Objects, Record
from vistruct.issues import IssueCounter

# What is counted rather than stopped at; the wording says what happens to it.
NOT_FINITE = "box left out: NaN or infinite"
FAR = "box left out: an edge is more than ten million pixels away"
NO_AREA = "box left out: no area"
OUTSIDE = "box left out: outside its image"
CLIPPED = "box clipped to its image"
DUPLICATE = "box left out: duplicate"
CROSSED = "oriented box whose sides crossed: corners put in order"
AS_WRITTEN = "box that training would mend or leave out: measured as it is written"
MISSING_IMAGE = "image left out: file missing"

# The way out where images are not on disk:
WHERE_IMAGES = "--images FOLDER names the folder that they are in; --missing drop leaves them out"

_FINE = 0.1  # pixels; float32 tells edges apart that differ by more, in images of up to a million pixels a side
ROUNDING_PX = 1e-3  # an edge that is less than this outside is rounding of x + width, and no news

MOST_RADIANS = 2 * math.pi + 0.01  # an angle beyond a whole turn is in degrees

_FAR_PX = 1e7  # no image is as large: the number is a mistake, and what it would be clipped to is a guess
_MOST = float(np.finfo(np.float32).max)  # more is infinite in a record

Edges = tuple[float, float, float, float]
Corners = Sequence[Sequence[float]]  # four of (x, y), one after the other


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a format says of an object beside its place and its class."""

    is_crowd: bool = False
    is_difficult: bool = False
    mask: Any = ()  # COCO's segmentation, pixels
    keypoints: Sequence[float] = ()  # x, y, visibility, x, ...
    extra: Mapping[str, Any] = field(default_factory=dict)  # whatever else, by the name of its column


PLAIN = Told()


@dataclass(frozen=True, kw_only=True)
class Row:
    """An object that is usable."""

    box: Edges
    quad: Corners
    label: int
    told: Told


@dataclass
class ImageObjects:
    """One image with the objects found for it so far."""

    record_id: str
    path: Path
    size_hw: tuple[int, int]  # pixels
    notes: Mapping[str, str] = field(default_factory=dict)
    as_written: bool = False  # nothing is clipped, mended or left out that a number can be made of; see `Ask`
    rows: list[Row] = field(default_factory=list)
    seen: dict[tuple[object, ...], list[Any]] = field(default_factory=dict)  # by label and outline: the masks

    def add_box(self, edges: Edges, label: int, here: str, report: IssueCounter, told: Told = PLAIN) -> bool:
        """Take a horizontal box, clipped to the image.

        Args:
            edges: x0, y0, x1, y1 in pixels, as annotated.
            here: where it is written, for the report.

        Returns:
            Whether it is usable; if not, the report says why.
        """
        if not all(map(math.isfinite, edges)):
            return _left_out(NOT_FINITE, here, report)
        x0, y0, x1, y1 = edges
        if self.as_written:
            is_fine = x1 > x0 and y1 > y0 and self._is_new((label, told.is_crowd, edges), told.mask)
            if not is_fine or _clip(edges, self.size_hw) != edges:
                report.note(AS_WRITTEN, here, "kept")
            self.rows.append(Row(box=edges, quad=_corners(edges), label=label, told=told))
            return True
        if max(map(abs, edges)) > _FAR_PX:
            return _left_out(FAR, here, report)
        if x1 <= x0 or y1 <= y0:
            return _left_out(NO_AREA, here, report)
        if not self._is_new((label, told.is_crowd, edges), told.mask):
            return _left_out(DUPLICATE, here, report)
        box = _clip(edges, self.size_hw)
        if box[2] <= box[0] or box[3] <= box[1]:
            return _left_out(OUTSIDE if _is_away(edges, self.size_hw) else NO_AREA, here, report)
        if max(abs(a - b) for a, b in zip(box, edges, strict=True)) > ROUNDING_PX:
            report.note(CLIPPED, here, "repaired")
        self.rows.append(Row(box=box, quad=_corners(box), label=label, told=told))
        return True

    def add_quad(self, corners: Corners, label: int, here: str, report: IssueCounter, told: Told = PLAIN) -> bool:
        """Take an oriented box by its four corners (x, y), one after the other; else as `add_box`."""
        flat = [float(value) for corner in corners for value in corner]
        if not all(abs(value) <= _MOST for value in flat):  # also false of NaN
            return _left_out(NOT_FINITE, here, report)
        quad = [(flat[0], flat[1]), (flat[2], flat[3]), (flat[4], flat[5]), (flat[6], flat[7])]
        if self.as_written:
            hull = (min(flat[0::2]), min(flat[1::2]), max(flat[0::2]), max(flat[1::2]))
            is_fine = self._is_new((label, told.is_crowd, *flat), told.mask) and not crosses(quad)
            if not is_fine or _is_away(hull, self.size_hw) or area(quad) <= ROUNDING_PX:
                report.note(AS_WRITTEN, here, "kept")
            self.rows.append(Row(box=hull, quad=quad, label=label, told=told))
            return True
        if max(map(abs, flat)) > _FAR_PX:
            return _left_out(FAR, here, report)
        if not self._is_new((label, told.is_crowd, *flat), told.mask):
            return _left_out(DUPLICATE, here, report)
        is_crossed = crosses(quad)
        quad = _in_order(quad) if is_crossed else quad
        longest = max(math.dist(one, other) for one in quad for other in quad)
        if area(quad) <= ROUNDING_PX * longest:  # thinner than a thousandth of a pixel
            return _left_out(NO_AREA, here, report)
        xs, ys = flat[0::2], flat[1::2]
        hull = (min(xs), min(ys), max(xs), max(ys))
        if _is_away(hull, self.size_hw):
            return _left_out(OUTSIDE, here, report)
        if is_crossed:
            report.note(CROSSED, here, "repaired")
        self.rows.append(Row(box=hull, quad=quad, label=label, told=told))
        return True

    def record(self, *, is_oriented: bool = False, has_masks: bool = False, num_keypoints: int = 0) -> Record:
        """What was found; horizontal boxes of an oriented data set are quads too.

        Args:
            num_keypoints: of each object; those that have fewer get ones that are not annotated. 0: none at all.
        """
        told = [row.told for row in self.rows]
        keypoints = np.zeros((len(told), num_keypoints, 3), np.float32)
        for row, given in zip(keypoints, told, strict=True) if num_keypoints else ():
            row[: len(given.keypoints) // 3] = np.asarray(given.keypoints, np.float32).reshape(-1, 3)
        names = sorted({name for one in told for name in one.extra})
        objects = Objects(
            boxes_xyxy=np.asarray([row.box for row in self.rows], np.float32).reshape(-1, 4),
            labels=np.asarray([row.label for row in self.rows], np.int64),
            is_crowd=np.asarray([one.is_crowd for one in told], bool),
            is_difficult=np.asarray([one.is_difficult for one in told], bool),
            quads=np.asarray([row.quad for row in self.rows], np.float32).reshape(-1, 4, 2) if is_oriented else None,
            masks=tuple(one.mask if one.mask != () else [] for one in told) if has_masks else None,
            keypoints=keypoints if num_keypoints else None,
            extra={name: tuple(one.extra.get(name) for one in told) for name in names},
        )
        notes = dict(self.notes)
        return Record(id=self.record_id, images=(self.path,), size_hw=self.size_hw, objects=objects, notes=notes)

    def _is_new(self, key: tuple[object, ...], mask: Any) -> bool:
        """Whether nothing like it is there yet; two masks may have one hull."""
        masks = self.seen.setdefault(key, [])
        if mask in masks:
            return False
        masks.append(mask)
        return True


def turned(cx: float, cy: float, w: float, h: float, angle_rad: float) -> tuple[tuple[float, float], ...]:
    """The corners of a box turned clockwise on screen about its centre, from (-w/2, -h/2) on."""
    cos, sin = (math.cos(angle_rad), math.sin(angle_rad)) if math.isfinite(angle_rad) else (math.nan, math.nan)
    offsets = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    return tuple((cx + cos * x - sin * y, cy + sin * x + cos * y) for x, y in offsets)


def _corners(edges: Edges) -> Corners:
    return [(edges[0], edges[1]), (edges[2], edges[1]), (edges[2], edges[3]), (edges[0], edges[3])]


def area(corners: Corners) -> float:
    """Pixels inside a polygon whose sides do not cross."""
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in _sides(_moved(corners)))) / 2


def crosses(corners: Corners) -> bool:
    """Whether two opposite sides of a quadrilateral cross; touching is no crossing."""
    a, b, c, d = corners
    return _cut(a, b, c, d) or _cut(b, c, d, a)


def _moved(corners: Corners) -> list[tuple[float, float]]:
    """Relative to the first corner: products of large coordinates would eat a small area."""
    x0, y0 = corners[0]
    return [(x - x0, y - y0) for x, y in corners]


def _sides(corners: Sequence[tuple[float, float]]) -> Any:
    return zip(corners, [*corners[1:], corners[0]], strict=True)


def _cut(a: Sequence[float], b: Sequence[float], c: Sequence[float], d: Sequence[float]) -> bool:
    """Whether the inner parts of a-b and c-d share a point."""
    return _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    """The sign says on which side of a-b the point c lies; 0 on it."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _in_order(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Around their middle, clockwise on screen, from the corner that came first."""
    mid_x, mid_y = sum(x for x, _ in corners) / 4, sum(y for _, y in corners) / 4
    turned = sorted(corners, key=lambda corner: math.atan2(corner[1] - mid_y, corner[0] - mid_x))
    first = turned.index(corners[0])
    return turned[first:] + turned[:first]


def _is_away(edges: Edges, size_hw: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = edges
    return x0 >= size_hw[1] or y0 >= size_hw[0] or x1 <= 0 or y1 <= 0


def _clip(edges: Edges, size_hw: tuple[int, int]) -> Edges:
    """Clip to the image; a box that is thinner than float32 can say has no area."""
    height, width = size_hw
    x0, y0, x1, y1 = max(edges[0], 0.0), max(edges[1], 0.0), min(edges[2], width), min(edges[3], height)
    if x1 - x0 < _FINE or y1 - y0 < _FINE:
        x0, y0, x1, y1 = (float(np.float32(edge)) for edge in (x0, y0, x1, y1))
    return x0, y0, x1, y1


def _left_out(reason: str, here: str, report: IssueCounter) -> bool:
    report.note(reason, here)
    return False
