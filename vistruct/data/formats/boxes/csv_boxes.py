"""Tables of boxes: one box a line, with or without a line of names above.

    image_path,xmin,ymin,xmax,ymax,label                          DeepForest
    filename,width,height,class,xmin,ymin,xmax,ymax               Roboflow (`_annotations.csv`), TensorFlow
    images/a0.jpg,10,8,34,30,crown                                keras-retinanet, with `classes.csv` (crown,0) beside
    image,x1,y1,x2,y2,x3,y3,x4,y4,class                           corners of oriented boxes

Edges are x0, y0, x1, y1 in pixels from the top left corner, as they stand. They may be called xmin, x_min, x1, x0, left
or xtl, and so on; left, top, width, height and a centre (cx, cy or x_center, y_center) with a size are understood too.
`x, y, width, height`, or four numbers in one column `bbox`, have several readings: `csv-xywh` takes x, y for the top
left corner, `csv-cxcywh` for the centre, `csv-xyxy` takes four edges.

The class is in a column that is called so (`--class-field` names another). `width` and `height` beside edges are those
of the image, unless they are the box's. A column `split` says which split a line is of, or each has a table. A line
without a box, or with zeros only, names an image without objects. keras-retinanet's `classes.csv` orders the classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from vistruct.data.formats.boxes.class_fields import class_field, class_of, plain
from vistruct.data.formats.boxes.drawn import Export, Picture, Shape, pixels, tails
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.boxes.objects import Edges
from vistruct.data.formats.boxes.outlines import pairs
from vistruct.data.formats.format import Ask, Format, Stop
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.text import decimal, read_text
from vistruct.issues import IssueCounter

Means = Literal["ask", "xyxy", "xywh", "cxcywh"]

_IMAGE = (
    "imagepath",
    "filename",
    "imagename",
    "image",
    "imagefile",
    "imageid",
    "imgpath",
    "imgname",
    "img",
    "filepath",
)
_IMAGE += ("file", "path", "frame", "imagefilename", "id")
_CORNERS = tuple(f"{axis}{number}" for number in (1, 2, 3, 4) for axis in "xy")
_EDGES: tuple[tuple[tuple[str, str, str, str], Means], ...] = (
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("x0", "y0", "x1", "y1"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("xtl", "ytl", "xbr", "ybr"), "xyxy"),
    (("minx", "miny", "maxx", "maxy"), "xyxy"),
    (("left", "top", "width", "height"), "xywh"),
    (("xmin", "ymin", "width", "height"), "xywh"),
    (("cx", "cy", "w", "h"), "cxcywh"),
    (("cx", "cy", "width", "height"), "cxcywh"),
    (("xcenter", "ycenter", "width", "height"), "cxcywh"),
    (("xcentre", "ycentre", "width", "height"), "cxcywh"),
    (("x", "y", "w", "h"), "ask"),
    (("x", "y", "width", "height"), "ask"),
)
_BOX = ("bbox", "box", "boundingbox")  # four numbers in one cell
_SPLIT = ("split", "subset", "set", "partition")
_HEADLESS = ("imagepath", "xmin", "ymin", "xmax", "ymax", "class")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table are, by their names as they are compared."""

    image: str
    box: tuple[str, ...]  # eight corners, four edges, or the one cell that has them
    means: Means | Literal["corners"]
    split: str | None
    size: tuple[str, str] | None  # columns width and height that the box does not need


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table."""

    where: str
    cells: Mapping[str, str]  # by the names of the columns as they are compared
    said: Mapping[str, str]  # by their names as they are written, without the place of the box


def is_one(file: Path) -> bool:
    """Whether it is a table with a column of images and one or more of boxes."""
    try:
        rows = _rows(file, most=5)
    except UserError:
        return False
    return bool(rows) and (columns_of(rows[0][1]) is not None or _is_headless([cells for _, cells in rows]))


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop, means: Means = "ask") -> Export:
    """What a table says.

    Raises:
        UserError: no table of boxes, columns with two readings, or no column of classes.
    """
    rows = _rows(file)
    is_headless = bool(rows) and columns_of(rows[0][1]) is None and _is_headless([cells for _, cells in rows[:5]])
    header = list(_HEADLESS) if is_headless else rows[0][1] if rows else []
    columns = columns_of(header)
    if columns is None:
        what = f"columns {', '.join(header[:8])}: no image, or no box"
        raise UserError(what, where=file, fix="call them image, xmin, ymin, xmax, ymax and class")
    columns = replace(columns, means=_meaning(columns, means, file))
    lines = list(_lines(rows if is_headless else rows[1:], header, columns, file, stop))
    field = class_field([line.said for line in lines], ask, file, report, takes_only=True)
    size = columns.size if _are_of_images(lines, columns) else None
    shapes: dict[str, list[Shape]] = {}
    first: dict[str, Line] = {}
    for line in lines:
        name = line.cells[columns.image].replace("\\", "/")
        first.setdefault(name, line)
        try:
            shapes.setdefault(name, []).extend(_shapes(line, columns, field))
        except UserError as error:
            stop(error)
    pictures = []
    for name, line in first.items():
        told = None
        if size is not None:
            width, height = (pixels(decimal(line.cells[key], line.where, key), line.where, key) for key in size)
            told = height, width
        split = line.cells[columns.split] if columns.split is not None else ""
        pictures.append(
            Picture(names=_names(name), beside=file, where=line.where, shapes=shapes[name], size_hw=told, split=split)
        )
    return Export(pictures=pictures, class_names=_class_order(file))


def columns_of(header: Sequence[str]) -> Columns | None:
    """What the columns are; None: no image or no box is among them."""
    known = [re.sub(r"^(bbox|box)(?=.)", "", name) if name not in _BOX else name for name in map(plain, header)]
    image = next((name for name in _IMAGE if name in known), None)
    if image is None or "regionshapeattributes" in known:
        return None
    split = next((name for name in _SPLIT if name in known), None)
    found: tuple[tuple[str, ...], Means | Literal["corners"]] | None = None
    if set(_CORNERS) <= set(known):
        found = _CORNERS, "corners"
    found = found or next(((box, means) for box, means in _EDGES if set(box) <= set(known)), None)
    found = found or next((((name,), "ask") for name in _BOX if name in known), None)
    if found is None:
        return None
    size = ("width", "height") if {"width", "height"} <= set(known) - set(found[0]) else None
    return Columns(image=image, box=found[0], means=found[1], split=split, size=size)


def _meaning(columns: Columns, means: Means, file: Path) -> Means | Literal["corners"]:
    """
    Raises:
        UserError: several readings, and no word of which.
    """
    if columns.means != "ask" or means != "ask":
        return means if columns.means == "ask" else columns.means
    words = ", ".join(columns.box)
    fix = "--format csv-xywh: x, y are the top left corner; --format csv-cxcywh: they are the centre"
    if len(columns.box) == 1:
        fix = f"{fix}; --format csv-xyxy: four edges"
    raise UserError(f"columns with several readings: {words}", where=file, fix=fix)


def _lines(
    rows: Sequence[tuple[int, list[str]]], header: Sequence[str], columns: Columns, file: Path, stop: Stop
) -> list[Line]:
    known = [re.sub(r"^(bbox|box)(?=.)", "", name) if name not in _BOX else name for name in map(plain, header)]
    about = {columns.image, *columns.box, *(columns.size or ()), *([columns.split] if columns.split else [])}
    lines = []
    for number, cells in rows:
        where = f"{file}, line {number}"
        if len(cells) != len(header):
            stop(UserError(f"{len(cells)} columns where there are {len(header)}", where=where, fix="quote commas"))
            continue
        said = {name: cell for name, key, cell in zip(header, known, cells, strict=True) if key not in about}
        line = Line(where=where, cells=dict(zip(known, cells, strict=True)), said=said)
        if not line.cells[columns.image]:
            stop(UserError("a line without an image", where=where, fix="correct this line"))
            continue
        lines.append(line)
    return lines


def _shapes(line: Line, columns: Columns, field: str | None) -> list[Shape]:
    texts = [line.cells[key] for key in columns.box]
    if len(columns.box) == 1:
        texts = [text for text in re.split(r"[\s,;]+", texts[0].strip("[](){} ")) if text]
        if len(texts) not in (0, 4):
            what = "a box has four numbers"
            raise UserError(what, where=f"{line.where}: {line.cells[columns.box[0]]:.40}", fix="correct this line")
    if not any(texts):
        return []
    values = [decimal(text, line.where, key) for text, key in zip(texts, [*columns.box, *"yyy"], strict=False)]
    if not any(values):  # as DeepForest names an image without objects
        return []
    name = class_of(line.said, field, line.where)
    if columns.means == "corners":
        return [Shape(name=name, where=line.where, corners=pairs(values))]
    a, b, c, d = values
    edges: Edges = (a, b, c, d)
    if columns.means == "xywh":
        edges = (a, b, a + c, b + d)
    if columns.means == "cxcywh":
        edges = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    return [Shape(name=name, where=line.where, edges=edges)]


def _are_of_images(lines: Sequence[Line], columns: Columns) -> bool:
    """Whether columns width and height are not those of the boxes."""
    if columns.size is None or columns.means != "xyxy" or len(columns.box) != 4:
        return False
    for line in lines:
        try:
            x0, y0, x1, y1 = (float(line.cells[key] or 0) for key in columns.box)
            width, height = (float(line.cells[key]) for key in columns.size)
        except ValueError:
            continue
        if abs(x1 - x0 - width) > 1 or abs(y1 - y0 - height) > 1:
            return True
    return False


def _names(name: str) -> tuple[str, ...]:
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return tails(name)
    return (name, *(f"{name}{end}" for end in (".jpg", ".jpeg", ".png", ".tif", ".tiff")))


def _is_headless(rows: Sequence[Sequence[str]]) -> bool:
    """Whether lines are image, x0, y0, x1, y1, class, the last five perhaps empty."""
    return bool(rows) and all(_is_box_line(cells) for cells in rows)


def _is_box_line(cells: Sequence[str]) -> bool:
    if len(cells) != 6 or Path(cells[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return not any(cells[1:]) or all(re.fullmatch(r"-?\d+(\.\d*)?", cell) for cell in cells[1:5])


def _rows(file: Path, most: int | None = None) -> list[tuple[int, list[str]]]:
    """The rows with the numbers of their lines.

    Raises:
        UserError: it cannot be read, or is no table.
    """
    text = read_text(file)
    first = text.lstrip().split("\n", 1)[0]
    separator = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    if most is not None:
        text = "\n".join(text.split("\n", most)[:most])
    lines = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        return [(lines.line_num, row) for cells in lines if any(row := [cell.strip() for cell in cells])]
    except csv.Error as error:
        raise UserError(f"no csv: {error}", where=f"{file}, line {lines.line_num}", fix="export it again") from error


def _class_order(file: Path) -> tuple[str, ...]:
    """The classes of keras-retinanet's table of names and numbers; () where there is none."""
    table = file.parent / "classes.csv"
    if not table.is_file() or table == file:
        return ()
    rows = [cells for _, cells in _rows(table)]
    if not all(len(cells) == 2 and cells[1].isdecimal() for cells in rows):
        return ()
    return tuple(name for name, _ in sorted(rows, key=lambda cells: int(cells[1])))


def _format(means: Means = "ask") -> Format:
    suffixes, is_guessed = (".csv", ".tsv"), means == "ask"
    return drawn_format(is_one=is_one, read=partial(read, means=means), suffixes=suffixes, is_guessed=is_guessed)


FORMAT, CORNER, CENTRE, EDGES = _format(), _format("xywh"), _format("cxcywh"), _format("xyxy")
