"""Supervisely: `DATASET/ann/a0.jpg.json` for `DATASET/img/a0.jpg`, with a `meta.json` of classes above.

    {"size": {"height": 80, "width": 96}, "tags": [], "objects": [
      {"classTitle": "crown", "geometryType": "rectangle", "points": {"exterior": [[10, 8], [33, 29]]}}]}

Pixels from the top left corner. A rectangle's corners are its first and its last pixel, as Supervisely counts them, so
that right and bottom end one further. Polygons are outlines; their holes are counted and filled. Bitmaps (a picture
inside the json), points, lines and graphs are counted. Each dataset of a project is a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.drawn import (
    HOLE,
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    outline,
    points_of,
    size_of,
)
from vistruct.data.formats.boxes.exports import drawn_pages
from vistruct.data.formats.boxes.outlines import upright
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

BITMAP = "bitmap left out: export it as polygons"


def is_one(file: Path) -> bool:
    """Whether a json begins as one of Supervisely's images does."""
    return json_kind(file) == "supervisely"


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What the json of one image says.

    Raises:
        UserError: not json, or not Supervisely's.
    """
    content = read_json(file)
    size, objects = (content.get("size"), content.get("objects")) if isinstance(content, dict) else (None, None)
    if not isinstance(size, dict) or not isinstance(objects, list):
        what = "an image of Supervisely has a size and objects"
        raise UserError(what, where=file, fix="leave --format out, or remove the file")
    shapes: list[Shape] = []
    for position, one in enumerate(objects):
        where = f"{file}, object {position}"
        try:
            shapes += _shapes(one, where, report)
        except UserError as error:
            stop(error)
    size_hw = size_of(size.get("height"), size.get("width"), str(file))
    names = (f"../img/{file.stem}", f"../images/{file.stem}") if file.parent.name == "ann" else (file.stem,)
    return Export(pictures=[Picture(names=names, beside=file, where=str(file), shapes=shapes, size_hw=size_hw)])


def _shapes(one: Any, where: str, report: IssueCounter) -> list[Shape]:
    if not isinstance(one, dict) or not isinstance(one.get("classTitle"), str) or not one["classTitle"]:
        raise UserError("an object has a classTitle, this has none", where=where, fix="correct this object")
    kind, points = one.get("geometryType"), one.get("points")
    if kind not in ("rectangle", "polygon"):
        report.note(BITMAP if kind in ("bitmap", "alpha_mask") else NO_SHAPE, where)
        return []
    flat = points_of(points.get("exterior") if isinstance(points, dict) else None, where)
    if isinstance(points, dict) and points.get("interior"):
        report.note(HOLE, where, "repaired")
    if kind == "polygon":
        return outline(one["classTitle"], flat, where, report)
    if len(flat) != 4:
        raise UserError("a rectangle has two corners", where=where, fix="correct this object")
    x0, y0, x1, y1 = upright(*flat)
    return [Shape(name=one["classTitle"], where=where, edges=(x0, y0, x1 + 1, y1 + 1))]


FORMAT = drawn_pages(is_one=is_one, read=read)
