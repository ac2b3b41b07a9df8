"""labelme: a json for each image, beside it or in a folder of its own.

    {"version": "5.2.1", "flags": {}, "imagePath": "a0.jpg", "imageData": null, "imageHeight": 80, "imageWidth": 96,
     "shapes": [{"label": "crown", "points": [[10, 8], [34, 30]], "shape_type": "rectangle", "flags": {},
                 "group_id": null}]}

Pixels from the top left corner. A rectangle has two opposite corners (or, from some tools, all four), a polygon its
points, a circle its centre and a point on it; a `rotation` (X-AnyLabeling) or `oriented_rectangle` four corners. A mask
is a picture inside the json, at the place of its rectangle. Shapes of one `group_id` and label are parts of one object
where they are polygons. Points, lines and strips are counted; `imageData` and flags are read over. `difficult` is read.

The image is the file that `imagePath` names, from the folder of the json, or the one that is called as the json is.
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vistruct.data.formats.boxes.drawn import (
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    joined_groups,
    outline,
    points_of,
    size_of,
    tails,
)
from vistruct.data.formats.boxes.exports import drawn_pages
from vistruct.data.formats.boxes.outlines import ELLIPSE, ellipse, pairs, runs_of, upright
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

_OTHERS = {"point", "points", "line", "linestrip", "cuboid"}
_MOST_PIXELS = 2**28  # of a mask


def is_one(file: Path) -> bool:
    """Whether a json begins as labelme's do."""
    return json_kind(file) == "labelme"


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What the json of one image says.

    Raises:
        UserError: not json, or not labelme's.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError("labelme's json has a list of shapes", where=file, fix="leave --format out, or remove the file")
    size_hw = None
    if content.get("imageHeight") and content.get("imageWidth"):
        size_hw = size_of(content["imageHeight"], content["imageWidth"], str(file))
    shapes: list[tuple[Shape, Any]] = []
    for position, said in enumerate(content["shapes"]):
        where = f"{file}, shape {position}"
        try:
            if not isinstance(said, dict) or not isinstance(said.get("label"), str) or not said["label"]:
                raise UserError("a shape has a label, this has none", where=where, fix="correct this shape")
            shapes += [(shape, said.get("group_id")) for shape in _shapes(said, size_hw, where, report)]
        except UserError as error:
            stop(error)
    path = content.get("imagePath")
    told = path if isinstance(path, str) and path else ""
    own = file.stem + Path(told.replace("\\", "/")).suffix if told else f"{file.stem}.jpg"
    names = tuple(dict.fromkeys([*(tails(told) if told else ()), own]))
    picture = Picture(names=names, beside=file, where=str(file), shapes=joined_groups(shapes), size_hw=size_hw)
    return Export(pictures=[picture])


def _shapes(said: dict[str, Any], size_hw: tuple[int, int] | None, where: str, report: IssueCounter) -> list[Shape]:
    kind, name = said.get("shape_type") or "polygon", said["label"]
    if not isinstance(kind, str):
        raise UserError("shape_type is a word", where=where, fix="correct this shape")
    more: dict[str, Any] = {"is_difficult": said.get("difficult") is True}
    if kind in _OTHERS:
        report.note(NO_SHAPE, where)
        return []
    flat = points_of(said.get("points"), where)
    if kind == "mask":
        return [Shape(name=name, where=where, mask=_runs(said.get("mask"), flat, size_hw, where), **more)]
    if kind == "rectangle" and len(flat) == 8:  # some tools write all four corners
        kind = "rotation"
    if kind in ("rotation", "oriented_rectangle"):
        if len(flat) != 8:
            raise UserError("a turned box has four corners", where=where, fix="correct this shape")
        return [Shape(name=name, where=where, corners=pairs(flat), **more)]
    if kind in ("rectangle", "circle"):
        if len(flat) != 4:
            raise UserError(f"a {kind} has two points", where=where, fix="correct this shape")
        x0, y0, x1, y1 = flat
        if kind == "rectangle":
            return [Shape(name=name, where=where, edges=upright(x0, y0, x1, y1), **more)]
        report.note(ELLIPSE, where, "kept")
        radius = math.hypot(x1 - x0, y1 - y0)
        return outline(name, ellipse(x0, y0, radius, radius), where, report, **more)
    if kind != "polygon":
        raise UserError("a shape that labelme did not have so far", where=f"{where}: {kind}", fix="remove it")
    return outline(name, flat, where, report, **more)


def _runs(text: Any, flat: list[float], size_hw: tuple[int, int] | None, where: str) -> dict[str, Any]:
    """The mask of an object, as a picture at the place of its rectangle.

    Raises:
        UserError: no picture, or it does not lie in the image.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            is_large = image.width * image.height > _MOST_PIXELS
            part = np.zeros((0, 0), bool) if is_large else np.asarray(image.convert("L")) > 0
    except (TypeError, ValueError, OSError) as error:
        what = "the picture of a mask cannot be read"
        raise UserError(what, where=where, fix="draw it again, or remove it") from error
    left, top = (math.floor(value) for value in flat[:2]) if len(flat) >= 4 else (-1, -1)
    height, width = size_hw or (0, 0)
    fits = min(left, top) >= 0 and left + part.shape[1] <= width and top + part.shape[0] <= height
    if not fits or not part.size or height * width > _MOST_PIXELS:
        raise UserError("a mask that does not lie in its image", where=where, fix="draw it again, or remove it")
    mask = np.zeros((height, width), bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return runs_of(mask)


FORMAT = drawn_pages(is_one=is_one, read=read)
