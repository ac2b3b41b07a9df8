"""VOC xml: one `<object>` after the other, horizontal or oriented, one file an image.

    <annotation>
      <size> <width>500</width> <height>375</height> </size>
      <object> <name>car</name> <difficult>0</difficult>
        <bndbox> <xmin>1</xmin> <ymin>1</ymin> <xmax>500</xmax> <ymax>375</ymax> </bndbox>
      </object>
    </annotation>

**Pixels.** VOC counts pixels from 1 and a box contains its last one, so the box above is the whole image: it becomes
0, 0, 500, 375 (xmin - 1, ymin - 1, xmax, ymax). Many tools write edges that count from 0 instead; an edge at 0 shows
it, and is counted. SSDD's boxes have a `<bbox_w>` equal to xmax - xmin and are taken as they stand.

Oriented boxes are taken as they stand, in pixels from the top left corner: `<robndbox>` with eight coordinates
(DIOR-R) or cx, cy, w, h, angle (roLabelImg; radians, clockwise), `<rotated_bndbox>` with x1 ... y4 or with
rotated_bbox_cx ... _theta (SSDD; degrees, clockwise). Where any object has one, all records have quads.

Read over: `<truncated>`, `<pose>`, `<filename>`, parts and segmentations. No `<size>`, or one of 0 x 0, is no error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.formats.boxes.dota import refuse_twins, shortest
from vistruct.data.formats.boxes.objects import Edges
from vistruct.data.formats.boxes.per_image import Page, ToldShape, per_image
from vistruct.data.formats.boxes.places import Layout, first_files
from vistruct.data.formats.format import Stop, Writer
from vistruct.errors import UserError
from vistruct.files.text import write_text
from vistruct.files.xml_nodes import Node, read_xml, xml_text
from vistruct.issues import IssueCounter

LAYOUT = Layout(
    suffix=".xml",
    annotations=re.compile(r"annotations?([-_](?P<split>.+))?|xmls?|labels?", re.IGNORECASE),
    images=re.compile(r"(jpegimages|images?|imgs?)([-_](?P<split>.+))?", re.IGNORECASE),
)

FROM_ZERO = "edge at 0 taken as VOC's, which count pixels from 1 (do these count from 0?)"

_CORNER_NAMES = (
    ("x_left_top", "y_left_top"), ("x_right_top", "y_right_top"), ("x_right_bottom", "y_right_bottom"),
    ("x_left_bottom", "y_left_bottom"),
)  # fmt: skip


def looks_like(path: Path) -> bool:
    """Whether the first xml files are VOC's, and not in one of DIOR's two folders."""
    root = first_root(Path(path), LAYOUT)
    if root is None or root.path.parent.name.lower().endswith("bounding boxes"):
        return False
    return root.tag == "annotation" and root.find("objects") is None


def write(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write `out/Annotations/<image>.xml`, one a record, horizontal boxes only; reading gives them back.

    Returns:
        What was changed on the way: nothing.

    Raises:
        ValueError: a record without a size, or one that is a window.
        UserError: two records whose files would have the same name.
    """
    folder = Path(out) / "Annotations"
    folder.mkdir(parents=True, exist_ok=True)
    stems = [Path(record.id).stem for record in records]
    refuse_twins(stems, [record.id for record in records], "images", out)
    for stem, record in zip(stems, records, strict=True):
        if record.size_hw is None or record.window_xyxy is not None:
            raise ValueError(f"{record.id}: VOC files are of whole images of known size")
        height, width = record.size_hw
        lines = [
            f"<annotation>\n  <filename>{xml_text(Path(record.id).name)}</filename>\n",
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n",
        ]
        objects = record.objects
        for box, label, is_difficult in zip(objects.boxes_xyxy, objects.labels, objects.is_difficult, strict=True):
            x0, y0, x1, y1 = (Decimal(shortest(edge)) + first for edge, first in zip(box, (1, 1, 0, 0), strict=True))
            edges = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            lines.append(
                f"  <object><name>{xml_text(class_names[label])}</name><difficult>{int(is_difficult)}</difficult>"
                f"<bndbox>{edges}</bndbox></object>\n"
            )
        write_text(folder / f"{stem}.xml", [*lines, "</annotation>\n"], wait_for_disk=False)
    return IssueCounter()


def read_page(
    path: Path,
    report: IssueCounter,
    stop: Stop,
    *,
    counts_from: Literal[0, 1] = 1,
    only: Literal["bndbox", "robndbox"] | None = None,
    lower: bool = False,
) -> Page:
    """What a VOC xml says; edges at 0 where they count from 1 are counted.

    Args:
        counts_from: 1: VOC's pixels, from 1 to the last one inclusive; 0: edges in pixels from the border.
        only: the one kind of box that there must be; None: an oriented one if there is one.
        lower: class names in small letters.

    Raises:
        UserError: no xml, or not VOC's.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(
            f"VOC's xml is an <annotation>, this is a <{root.tag}>", where=root.where, fix="name the format"
        )
    others = root.find("objects")
    if others is not None:
        raise UserError(
            "VOC's xml has no <objects>, this is FAIR1M's", where=others.where, fix="name the format: fair1m"
        )
    shapes = []
    for node in root.all("object"):
        try:
            name = node.need("name").text
            if not name:
                raise UserError("an object without the name of a class", where=node.where, fix="name it")
            shape = _shape(node, name.lower() if lower else name, counts_from, only)
        except UserError as error:
            stop(error)
            continue
        if not shape.corners and counts_from == 1 and -1.0 in shape.edges[:2]:
            report.note(FROM_ZERO, f"{path}, line {node.line}", "kept")
        shapes.append(shape)
    return Page(shapes=shapes, size_hw=told_size(root.find("size"), "width", "height"))


def first_root(path: Path, layout: Layout) -> Node | None:
    """The first of a few xml files at a path that can be read; None: there is none."""
    for file in first_files(path, layout, most=5):
        try:
            return read_xml(file)
        except UserError:
            continue
    return None


def told_size(node: Node | None, width: str, height: str) -> tuple[int, int] | None:
    """(height, width) in pixels; None where nothing or nothing sensible is told.

    Raises:
        UserError: something that is no number.
    """
    if node is None or node.find(width) is None or node.find(height) is None:
        return None
    if not node.need(width).text or not node.need(height).text:
        return None
    size = node.number(height), node.number(width)
    return (int(size[0]), int(size[1])) if all(math.isfinite(side) and side >= 1 for side in size) else None


def flag(node: Node, tag: str) -> bool:
    """A 0 or 1; nothing is 0.

    Raises:
        UserError: neither.
    """
    found = node.find(tag)
    if found is None or found.text in ("", "0", "1"):
        return found is not None and found.text == "1"
    if found.text.lower() in ("true", "false", "unspecified"):
        return found.text.lower() == "true"
    raise UserError(f"<{tag}> is 0 or 1, this is {found.text!r}", where=found.where, fix="correct it")


def turned(cx: float, cy: float, w: float, h: float, angle_rad: float) -> tuple[tuple[float, float], ...]:
    """The corners of a box turned clockwise on screen about its centre, from (-w/2, -h/2) on."""
    cos, sin = (math.cos(angle_rad), math.sin(angle_rad)) if math.isfinite(angle_rad) else (math.nan, math.nan)
    offsets = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    return tuple((cx + cos * x - sin * y, cy + sin * x + cos * y) for x, y in offsets)


def _shape(node: Node, name: str, counts_from: Literal[0, 1], only: str | None) -> ToldShape:
    is_difficult = flag(node, "difficult")
    if only != "bndbox":
        for tag, corners in (("robndbox", _robndbox), ("rotated_bndbox", _rotated_bndbox)):
            box = node.find(tag)
            if box is not None:
                return ToldShape(name=name, line=node.line, corners=corners(box), is_difficult=is_difficult)
    box = node.need(only or "bndbox")
    return ToldShape(name=name, line=node.line, edges=_edges(box, counts_from), is_difficult=is_difficult)


def _edges(box: Node, counts_from: Literal[0, 1]) -> Edges:
    x0, y0, x1, y1 = (box.number(tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    is_ssdd = box.find("bbox_w") is not None
    return (x0, y0, x1, y1) if is_ssdd else (x0 - counts_from, y0 - counts_from, x1, y1)


def _robndbox(box: Node) -> tuple[tuple[float, float], ...]:
    if box.find("cx") is not None:
        return turned(*(box.number(tag) for tag in ("cx", "cy", "w", "h", "angle")))
    return tuple((box.number(x), box.number(y)) for x, y in _CORNER_NAMES)


def _rotated_bndbox(box: Node) -> tuple[tuple[float, float], ...]:
    if box.find("x1") is not None:
        return tuple((box.number(f"x{number}"), box.number(f"y{number}")) for number in (1, 2, 3, 4))
    cx, cy, w, h, degrees = (box.number(f"rotated_bbox_{key}") for key in ("cx", "cy", "w", "h", "theta"))
    return turned(cx, cy, w, h, math.radians(degrees))


FORMAT = per_image(
    layout=LAYOUT,
    looks_like=looks_like,
    read=read_page,
    writer=Writer(write=write, images="JPEGImages", is_difficult=True, empty_classes=False),
)
