"""VGG Image Annotator 2 (and 1): a json of images with their regions, a project of it, or a csv of regions.

    {"a0.jpg4096": {"filename": "a0.jpg", "size": 4096, "file_attributes": {}, "regions": [
       {"shape_attributes": {"name": "rect", "x": 10, "y": 8, "width": 24, "height": 22},
        "region_attributes": {"class": "crown"}}]}}

    filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes

A project has the same below `_via_img_metadata`. Pixels from the top left corner. Rectangles are boxes, polygons
outlines, circles and ellipses become outlines (an ellipse's `theta` is in radians, clockwise); points and polylines are
counted. The class is the one region attribute that has the name of a class, or the only one that there is; two of them
are a question for `--class-field`. An image without regions is one without objects.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.class_fields import class_field, class_of
from vistruct.data.formats.boxes.drawn import (
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    head_of,
    number,
    outline,
    tails,
)
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.boxes.outlines import ELLIPSE, ellipse, upright
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

Region = tuple[Any, Any]  # of a region its shape and its attributes


def is_one(file: Path) -> bool:
    """Whether it is one of VIA's json or csv files."""
    if file.suffix.lower() != ".csv":
        return json_kind(file) == "via"
    first = head_of(file, 4096).split("\n", 1)[0]
    return "region_shape_attributes" in first and "filename" in first


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What a file says.

    Raises:
        UserError: not json, or not VIA's; several attributes may be the class.
    """
    images: dict[str, list[tuple[str, Region]]] = {}
    for name, where, regions in _csv(file, stop) if file.suffix.lower() == ".csv" else _json(file, stop):
        images.setdefault(name, []).extend((f"{where}{at}", region) for at, region in regions)
    attributes = [region[1] for regions in images.values() for _, region in regions]
    field = class_field([one for one in attributes if isinstance(one, dict)], ask, file, report, takes_only=True)
    pictures = []
    for name, regions in images.items():
        shapes: list[Shape] = []
        for where, (shape, said) in regions:
            try:
                shapes += _shapes(shape, class_of(said, field, where), where, report)
            except UserError as error:
                stop(error)
        pictures.append(Picture(names=tails(name), beside=file, where=f"{file}: {name}", shapes=shapes))
    return Export(pictures=pictures)


def _json(file: Path, stop: Stop) -> Iterator[tuple[str, str, list[tuple[str, Region]]]]:
    content = read_json(file)
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise UserError("VIA's json has an entry for each image", where=file, fix="leave --format out")
    for key, image in images.items():
        name = image.get("filename") if isinstance(image, dict) else None
        regions = image.get("regions") if isinstance(image, dict) else None
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(name, str) or not name or not isinstance(regions, list):
            what = "an image has a filename and regions, this has not"
            stop(UserError(what, where=f"{file}: {key}", fix="correct this entry"))
            continue
        whole = [one if isinstance(one, dict) else {} for one in regions]
        told = [(one.get("shape_attributes"), one.get("region_attributes")) for one in whole]
        yield name, f"{file}: {name}: region ", [(str(place), one) for place, one in enumerate(told)]


def _csv(file: Path, stop: Stop) -> Iterator[tuple[str, str, list[tuple[str, Region]]]]:
    rows = csv.reader(io.StringIO(read_text(file)))
    try:
        header = [name.lstrip("#").strip() for name in next(rows)]
        for cells in rows:
            where = f"{file}, line {rows.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                stop(UserError(f"{len(cells)} columns where there are {len(header)}", where=where, fix="quote commas"))
                continue
            row = dict(zip(header, cells, strict=True))
            shape, said = (_object(row.get(key, ""), where) for key in ("region_shape_attributes", "region_attributes"))
            yield row["filename"], where, [("", (shape, said))] if shape else []
    except csv.Error as error:
        raise UserError(f"no csv: {error}", where=f"{file}, line {rows.line_num}", fix="export it again") from error


def _object(text: str, where: str) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError("a cell that is no json", where=f"{where}: {text:.40}", fix="export it again") from error


def _shapes(shape: Any, name: str, where: str, report: IssueCounter) -> list[Shape]:
    if not isinstance(shape, dict):
        raise UserError("a region has shape_attributes, this has none", where=where, fix="correct this region")
    kind = shape.get("name")

    def numbers(*keys: str) -> list[float]:
        return [number(shape.get(key), where, key) for key in keys]

    if kind == "rect":
        x, y, w, h = numbers("x", "y", "width", "height")
        return [Shape(name=name, where=where, edges=upright(x, y, x + w, y + h))]
    if kind in ("polygon", "polyline", "point"):
        if kind != "polygon":
            report.note(NO_SHAPE, where)
            return []
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            what = "a polygon has as many all_points_x as all_points_y"
            raise UserError(what, where=where, fix="correct this region")
        flat = [number(value, where) for pair in zip(xs, ys, strict=True) for value in pair]
        return outline(name, flat, where, report)
    if kind not in ("circle", "ellipse"):
        raise UserError("a shape that VIA did not have so far", where=f"{where}: {kind!r:.40}", fix="remove it")
    cx, cy, rx = numbers("cx", "cy", "r" if kind == "circle" else "rx")
    (ry,) = numbers("ry") if kind == "ellipse" else (rx,)
    report.note(ELLIPSE, where, "kept")
    angle = number(shape.get("theta") or 0, where, "theta")
    return outline(name, ellipse(cx, cy, rx, ry, angle), where, report)


FORMAT = drawn_format(is_one=is_one, read=read, suffixes=(".json", ".csv"))
