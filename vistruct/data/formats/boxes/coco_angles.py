"""Angles in a COCO json: what they turn, in which unit and direction, and where nobody can know.

    bbox [cx, cy, w, h, angle]       degrees counter-clockwise on screen, as detectron2 writes them
    attributes.rotation              degrees clockwise on screen; bbox is the rectangle before it is turned about its
                                     centre, as CVAT writes it

Angles that look like radians, and an angle under another name, are a question. The formats that answer it must be
named: `coco-degrees`, `coco-degrees-cw`, `coco-radians`, `coco-radians-cw` (counter-clockwise unless cw) for five
numbers, `coco-upright` for boxes whose angles mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from vistruct.data.formats.boxes.objects import MOST_RADIANS, Corners, turned
from vistruct.errors import UserError

Angles = Literal["auto", "degrees", "degrees-cw", "radians", "radians-cw", "upright"]

_TO_CLOCKWISE_RAD = {"degrees": -math.pi / 180, "degrees-cw": math.pi / 180, "radians": -1.0, "radians-cw": 1.0}
_OTHER_NAMES = frozenset({"angle", "theta", "rotate", "rotation", "rotation_angle"})
_SAME_PX = 1.0  # corners that differ by no more are drawn at one place


def five_numbers(box: list[float], angles: Angles) -> Corners:
    """The corners of [cx, cy, w, h, angle]."""
    cx, cy, width, height, angle = map(float, box)
    return turned(cx, cy, width, height, angle * _TO_CLOCKWISE_RAD.get(angles, _TO_CLOCKWISE_RAD["degrees"]))


def rotation(entry: dict[str, Any]) -> Any:
    """What `attributes.rotation` says, degrees clockwise; 0 where it says nothing."""
    said = entry["attributes"]["rotation"] if says_rotation(entry) else None
    if isinstance(said, str):
        try:
            return float(said)
        except ValueError:
            return said
    return said or 0


def says_rotation(entry: dict[str, Any]) -> bool:
    """Whether there is an `attributes.rotation`, be it 0."""
    return isinstance(entry.get("attributes"), dict) and "rotation" in entry["attributes"]


def rotated(entry: dict[str, Any]) -> Corners:
    """The corners of a bbox that is turned by `attributes.rotation`."""
    x, y, width, height = map(float, entry["bbox"])
    return turned(x + width / 2, y + height / 2, width, height, math.radians(rotation(entry)))


def rotation_faults(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Why the rotation of an annotation cannot be understood, if so; and the value."""
    degrees, polygons = rotation(entry), entry.get("segmentation")
    if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not math.isfinite(degrees):
        yield "attributes.rotation is a number of degrees", repr(degrees)
    elif degrees and isinstance(polygons, list) and polygons and not (is_plain_box(entry) or _is_turned_box(entry)):
        yield "attributes.rotation beside an outline that is not its turned box: one of them is wrong", f"{degrees}"


def is_plain_box(entry: dict[str, Any]) -> bool:
    """Whether the segmentation is the rectangle of bbox, before it is turned."""
    x, y, width, height = entry["bbox"]
    return _are_corners(entry, [(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def angle_question(entries: list[dict[str, Any]], is_oriented: bool, angles: Angles, where: object) -> UserError | None:
    """What must be asked about the angles of a data set before a box is read.

    Args:
        is_oriented: whether something else says how all boxes are turned.
    """
    boxes = [entry["bbox"] for entry in entries if isinstance(entry.get("bbox"), list) and len(entry["bbox"]) == 5]
    turns = [abs(box[4]) for box in boxes if isinstance(box[4], int | float)]
    if angles == "auto" and any(turns) and max(turns) <= MOST_RADIANS:
        fix = "say which: --format coco-radians, coco-radians-cw (clockwise on screen), coco-degrees or coco-degrees-cw"
        return UserError("bbox has angles that look like radians where degrees are read", where=where, fix=fix)
    for number, entry in enumerate(entries if angles != "upright" and not is_oriented else ()):
        attributes = entry.get("attributes")
        said = {name: value for name, value in entry.items() if name.lower() in _OTHER_NAMES}
        if isinstance(attributes, dict):
            said |= {f"attributes.{n}": v for n, v in attributes.items() if n.lower() in _OTHER_NAMES - {"rotation"}}
        name = next((name for name, value in said.items() if isinstance(value, int | float) and value), None)
        if name is not None:
            here = f"{where}, annotation {entry.get('id', f'number {number}')}: {name}"
            fix = "--format coco-upright, where boxes are upright; or write attributes.rotation (degrees, clockwise)"
            return UserError("an angle beside bbox that nothing says how to read", where=here, fix=fix)
    return None


def _is_turned_box(entry: dict[str, Any]) -> bool:
    return _are_corners(entry, rotated(entry))


def _are_corners(entry: dict[str, Any], corners: Corners) -> bool:
    """Whether the segmentation is one polygon with these corners and no others, from whichever on."""
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list) or len(polygons) != 1 or not isinstance(polygons[0], list):
        return False
    points = list(zip(polygons[0][0::2], polygons[0][1::2], strict=False))
    near = [any(math.dist(point, corner) <= _SAME_PX for corner in corners) for point in points]
    far = [corner for corner in corners if all(math.dist(point, corner) > _SAME_PX for point in points)]
    return bool(points) and all(near) and not far
