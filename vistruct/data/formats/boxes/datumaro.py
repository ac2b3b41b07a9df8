"""Datumaro: a json for each subset below `annotations/`, its images below `images/` (or in `images/SUBSET/`).

    {"info": {}, "categories": {"label": {"labels": [{"name": "crown", "parent": ""}]}},
     "items": [{"id": "a0", "image": {"path": "a0.jpg", "size": [80, 96]}, "annotations": [
       {"type": "bbox", "label_id": 0, "group": 0, "bbox": [10, 8, 24, 22], "attributes": {"rotation": 30}}]}]}

Pixels from the top left corner; `bbox` is x, y, width, height, and turned clockwise about its centre by an attribute
`rotation` in degrees, as CVAT writes it there; `rotated_bbox` is cx, cy, width, height and degrees, clockwise. Polygons
of one group (but 0) and label are parts of one object. Masks are COCO's run lengths. An ellipse is given by the box
around it, and becomes an outline. Points, polylines, labels of whole images and captions are counted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.coco_shapes import segmentation_faults
from vistruct.data.formats.boxes.drawn import (
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    joined_groups,
    number,
    outline,
    points_of,
    size_of,
    tails,
)
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.boxes.objects import turned
from vistruct.data.formats.boxes.outlines import ELLIPSE, ellipse, upright
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

_OTHERS = {"points", "polyline", "label", "caption", "cuboid_3d", "cuboid_2d", "skeleton", "tabular", "hash_key"}


def is_one(file: Path) -> bool:
    """Whether a json begins as Datumaro's do."""
    return json_kind(file) == "datumaro"


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What the json of a subset says.

    Raises:
        UserError: not json, or not Datumaro's.
    """
    content = read_json(file)
    try:
        labels = [label["name"] for label in content["categories"]["label"]["labels"]]
        items = list(content["items"])
    except (KeyError, TypeError) as error:
        what = "Datumaro's json has categories with labels, and items"
        raise UserError(what, where=f"{file}: {error}", fix="export it again; or leave --format out") from error
    if not all(isinstance(name, str) for name in labels):
        raise UserError("a label without a name", where=file, fix="name it, and export again")
    pictures = []
    for position, item in enumerate(items):
        where = f"{file}, item {item.get('id', position) if isinstance(item, dict) else position}"
        try:
            pictures.append(_picture(item, labels, file, where, report, stop))
        except UserError as error:
            stop(error)
    return Export(pictures=pictures, class_names=tuple(labels))


def _picture(item: Any, labels: list[str], file: Path, where: str, report: IssueCounter, stop: Stop) -> Picture:
    image = (item.get("image") or item.get("media")) if isinstance(item, dict) else None
    if not isinstance(image, dict) or not isinstance(item.get("annotations"), list):
        what = "an item has an image and annotations, this has not"
        raise UserError(what, where=where, fix="correct this item")
    path = image.get("path") or f"{item.get('id')}.jpg"
    if not isinstance(path, str):
        raise UserError("the path of an image is a text", where=where, fix="correct this item")
    size = image.get("size")
    told = size_of(size[0], size[1], where) if isinstance(size, list) and len(size) == 2 else None
    shapes: list[tuple[Shape, Any]] = []
    for position, one in enumerate(item["annotations"]):
        here = f"{where}: annotation {position}"
        try:
            found = _shapes(one, labels, told, here, report)
            shapes += [(shape, one.get("group") or None) for shape in found]
        except UserError as error:
            stop(error)
    inner = f"{file.stem}/{path}"  # the folder of a subset
    names = tuple(dict.fromkeys([*tails(path), *(() if path.startswith(f"{file.stem}/") else (inner,))]))
    return Picture(names=names, beside=file, where=where, shapes=joined_groups(shapes), size_hw=told)


def _shapes(
    one: Any, labels: list[str], size_hw: tuple[int, int] | None, here: str, report: IssueCounter
) -> list[Shape]:
    kind = str(one.get("type")) if isinstance(one, dict) else ""
    if kind in _OTHERS:
        report.note(NO_SHAPE, here)
        return []
    if kind not in ("bbox", "rotated_bbox", "polygon", "mask", "ellipse"):
        what = "an annotation that Datumaro did not have so far"
        raise UserError(what, where=f"{here}: {kind!r:.40}", fix="remove it")
    label = one.get("label_id")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(labels):
        raise UserError("no label has this label_id", where=f"{here}: {label!r:.40}", fix="correct this annotation")
    name, attributes = labels[label], one.get("attributes") or {}
    more: dict[str, Any] = {
        "is_crowd": bool(attributes.get("is_crowd")),
        "is_difficult": bool(attributes.get("difficult")),
    }
    if kind == "mask":
        mask = one.get("rle")
        fault = next(iter(segmentation_faults(mask, size_hw)), None) if isinstance(mask, dict) else ("no rle", here)
        if fault is not None:
            raise UserError(fault[0], where=f"{here}: {fault[1]}", fix="correct this annotation")
        return [Shape(name=name, where=here, mask={"size": mask["size"], "counts": mask["counts"]}, **more)]
    if kind == "polygon":
        return outline(name, points_of(one.get("points"), here), here, report, **more)
    key = {"bbox": "bbox", "rotated_bbox": "rotated_bbox", "ellipse": "points"}[kind]
    values = one.get(key) if one.get(key) is not None else one.get("points")
    if not isinstance(values, list) or len(values) != (5 if kind == "rotated_bbox" else 4):
        raise UserError(f"{key} has other numbers", where=f"{here}: {values!r:.40}", fix="correct this annotation")
    a, b, c, d = (number(value, here) for value in values[:4])
    if kind == "ellipse":
        report.note(ELLIPSE, here, "kept")
        return outline(name, ellipse((a + c) / 2, (b + d) / 2, abs(c - a) / 2, abs(d - b) / 2), here, report, **more)
    if kind == "rotated_bbox":
        corners = turned(a, b, c, d, math.radians(number(values[4], here, "an angle")))
        return [Shape(name=name, where=here, corners=corners, **more)]
    degrees = number(attributes.get("rotation") or 0, here, "rotation")
    if degrees % 360 == 0:
        return [Shape(name=name, where=here, edges=upright(a, b, a + c, b + d), **more)]
    corners = turned(a + c / 2, b + d / 2, c, d, math.radians(degrees))
    return [Shape(name=name, where=here, corners=corners, **more)]


FORMAT = drawn_format(is_one=is_one, read=read)
