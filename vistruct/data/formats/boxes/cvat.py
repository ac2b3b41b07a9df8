"""CVAT for images 1.1: one `annotations.xml` for all images of a task or a project.

    <annotations> <version>1.1</version>
      <meta> <task> <labels> <label> <name>crown</name> ...
      <image id="0" name="a0.jpg" width="96" height="80" subset="train">
        <box label="crown" xtl="40.00" ytl="20.00" xbr="70.00" ybr="44.00" rotation="30.00" occluded="0"/>
        <polygon label="crown" points="10.00,8.00;34.00,8.00;34.00,30.00"/>
        <mask label="crown" rle="3, 5, 2" left="10" top="8" width="5" height="2"/>

Pixels from the top left corner. `rotation` is in degrees, clockwise on screen about the centre of the box as it is
written. Run lengths go row by row inside their rectangle, background first. An ellipse becomes an outline. Classes come
in the order of the labels. Occluded objects are objects; what is `outside` its image is not. Images lie in `images/`
beside the file, those of a project in a folder for each subset there.

Points, polylines, cuboids, skeletons and tags are counted. Source: docs.cvat.ai, "XML annotation format", version 1.1.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from vistruct.data.formats.boxes.drawn import (
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    head_of,
    outline,
)
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.boxes.objects import OUTSIDE, turned
from vistruct.data.formats.boxes.outlines import ELLIPSE, ellipse, runs_of, upright
from vistruct.data.formats.format import Ask, Stop
from vistruct.errors import UserError
from vistruct.files.text import decimal
from vistruct.files.xml_nodes import Node, read_xml
from vistruct.issues import IssueCounter

_BEGIN = re.compile(r"\s*(<\?xml[^>]*\?>)?\s*(<!--.*?-->\s*)*<annotations[\s>]", re.DOTALL)
_OTHERS = {"points", "polyline", "cuboid", "skeleton", "tag"}
_MOST_PIXELS = 2**28  # of an image with run lengths


def is_one(file: Path) -> bool:
    """Whether an xml begins as CVAT's do."""
    return bool(_BEGIN.match(head_of(file, 4096)))


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What an xml says.

    Raises:
        UserError: no xml, or one of a video.
    """
    root = read_xml(file)
    if root.tag != "annotations":
        raise UserError("CVAT's xml has <annotations>, this has not", where=root.where, fix="leave --format out")
    if root.find("track") is not None:
        what = "tracks of a video, whose boxes between two key frames are not in the file"
        raise UserError(what, where=root.where, fix='export the task as "CVAT for images 1.1"')
    pictures = []
    for node in root.all("image"):
        try:
            pictures.append(_picture(node, file, report, stop))
        except UserError as error:
            stop(error)
    return Export(pictures=pictures, class_names=_labels(root))


def _picture(node: Node, file: Path, report: IssueCounter, stop: Stop) -> Picture:
    name, subset = _said(node, "name"), node.attributes.get("subset", "")
    size_hw = int(_number(node, "height")), int(_number(node, "width"))
    shapes: list[Shape] = []
    for child in node.children:
        if child.attributes.get("outside") == "1":
            report.note(OUTSIDE, child.where)
            continue
        try:
            shapes += _shapes(child, size_hw, report)
        except UserError as error:
            stop(error)
    names = (name, f"{subset}/{name}") if subset else (name,)
    return Picture(names=names, beside=file, where=node.where, shapes=shapes, size_hw=size_hw, split=subset)


def _shapes(node: Node, size_hw: tuple[int, int], report: IssueCounter) -> list[Shape]:
    if node.tag in _OTHERS:
        report.note(NO_SHAPE, node.where)
        return []
    if node.tag not in ("box", "polygon", "ellipse", "mask"):
        raise UserError("a shape that CVAT did not have so far", where=f"{node.where}: <{node.tag}>", fix="remove it")
    name = _said(node, "label")
    degrees = _number(node, "rotation") if node.attributes.get("rotation") else 0.0
    if node.tag == "box":
        x0, y0, x1, y1 = edges = upright(*(_number(node, key) for key in ("xtl", "ytl", "xbr", "ybr")))
        if degrees % 360 == 0:
            return [Shape(name=name, where=node.where, edges=edges)]
        corners = turned((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, math.radians(degrees))
        return [Shape(name=name, where=node.where, corners=corners)]
    if node.tag == "mask":
        return [Shape(name=name, where=node.where, mask=_runs(node, size_hw))]
    if node.tag == "ellipse":
        report.note(ELLIPSE, node.where, "kept")
        flat = ellipse(*(_number(node, key) for key in ("cx", "cy", "rx", "ry")), math.radians(degrees))
    else:
        texts = re.split(r"[;,]", _said(node, "points"))
        flat = [decimal(text.strip(), node.where, "a point") for text in texts]
    if len(flat) % 2:
        raise UserError("a point without its y", where=node.where, fix="correct this outline")
    return outline(name, flat, node.where, report)


def _runs(node: Node, size_hw: tuple[int, int]) -> dict[str, object]:
    """COCO's run lengths of CVAT's.

    Raises:
        UserError: they do not fill their rectangle, or it does not lie in the image.
    """
    left, top, width, height = (int(_number(node, key)) for key in ("left", "top", "width", "height"))
    runs = [int(decimal(text.strip(), node.where, "a run length")) for text in _said(node, "rle").split(",")]
    is_inside = left >= 0 and top >= 0 and left + width <= size_hw[1] and top + height <= size_hw[0]
    if min(runs) < 0 or sum(runs) != width * height or not is_inside or size_hw[0] * size_hw[1] > _MOST_PIXELS:
        what = "run lengths that do not fill their rectangle, or one beyond the image"
        raise UserError(what, where=node.where, fix="correct or remove this mask")
    mask = np.zeros(size_hw, bool)
    values = np.arange(len(runs)) % 2 == 1
    mask[top : top + height, left : left + width] = np.repeat(values, runs).reshape(height, width)
    return runs_of(mask)


def _labels(root: Node) -> tuple[str, ...]:
    """The classes of a task, job or project; not the parts of skeletons."""
    for kind in ("task", "project", "job"):
        labels = root.find("meta", kind, "labels")
        if labels is not None:
            whole = [label for label in labels.all("label") if label.find("parent") is None]
            kinds = {"points", "polyline", "tag", "skeleton", "cuboid"}
            named = [one for one in whole if (one.find("type") or one).text not in kinds]
            return tuple(dict.fromkeys(name.text for one in named if (name := one.find("name")) is not None))
    return ()


def _said(node: Node, key: str) -> str:
    text = node.attributes.get(key, "").strip()
    if not text:
        raise UserError(f"a <{node.tag}> without {key}", where=node.where, fix="correct this element")
    return text


def _number(node: Node, key: str) -> float:
    value = decimal(_said(node, key), node.where, key)
    if not math.isfinite(value):
        raise UserError(f"{key} is a number, this is none", where=f"{node.where}: {value}", fix="correct this element")
    return value


FORMAT = drawn_format(is_one=is_one, read=read, suffixes=(".xml",))
