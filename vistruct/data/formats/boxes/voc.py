"""VOC xml: one `<object>` after the other, horizontal or oriented, one file an image.

    <annotation>
      <size> <width>500</width> <height>375</height> </size>
      <object> <name>car</name> <difficult>0</difficult>
        <bndbox> <xmin>1</xmin> <ymin>1</ymin> <xmax>500</xmax> <ymax>375</ymax> </bndbox>
      </object>
    </annotation>

**Pixels.** VOC counts pixels from 1 and a box contains its last one, so the box above is the whole image: it becomes
0, 0, 500, 375 (xmin - 1, ymin - 1, xmax, ymax). Many tools write edges that count from 0 instead, as decimal numbers
too; an edge below 1 shows it, and is counted. As the format `voc-from-0`, which must be named since the files are the
same, all edges are taken as they stand. So are SSDD's, which have a `<bbox_w>` equal to xmax - xmin.

Oriented boxes are taken as they stand, in pixels from the top left corner: `<robndbox>` with eight coordinates
(DIOR-R) or cx, cy, w, h, angle (roLabelImg; radians, clockwise; `voc-degrees` where they are degrees),
`<rotated_bndbox>` with x1 ... y4 or with rotated_bbox_cx ... _theta (SSDD; degrees, clockwise). CVAT writes the box
before it is turned, its edges from 0, and an attribute `rotation` in degrees, clockwise about its centre. Where any
object has one of these, all records have quads.

Read over: `<truncated>`, `<pose>`, `<filename>` and parts; outlines are counted. No `<size>`, or one of 0 x 0, is no
error.
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
from vistruct.data.formats.boxes.objects import MOST_RADIANS, Edges, turned
from vistruct.data.formats.boxes.per_image import Page, ToldShape, per_image
from vistruct.data.formats.boxes.places import Layout, first_files
from vistruct.data.formats.format import Format, Stop, Writer, never
from vistruct.errors import UserError
from vistruct.files.text import write_text
from vistruct.files.xml_nodes import Node, read_xml, xml_text
from vistruct.issues import IssueCounter

LAYOUT = Layout(
    suffix=".xml",
    annotations=re.compile(r"annotations?([-_](?P<split>.+))?|xmls?|labels?", re.IGNORECASE),
    images=re.compile(r"(jpegimages|images?|imgs?)([-_](?P<split>.+))?", re.IGNORECASE),
)

FROM_ZERO = "edge below 1 put at the border: VOC counts from 1; where all edges count from 0: --format voc-from-0"
OUTLINE = "outline left out: of VOC xml the boxes are read"

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
    degrees: bool = False,
) -> Page:
    """What a VOC xml says; edges below 1 where they count from 1 are counted.

    Args:
        counts_from: 1: VOC's pixels, from 1 to the last one inclusive; 0: edges in pixels from the border.
        only: the one kind of box that there must be; None: an oriented one if there is one.
        lower: class names in small letters.
        degrees: what the angle of a `<robndbox>` is in; by default radians.

    Raises:
        UserError: no xml, or not VOC's.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(
            "VOC's xml is an <annotation>, this is another", where=f"{root.where}: <{root.tag}>", fix="name the format"
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
            shapes.append(_shape(node, name.lower() if lower else name, counts_from, only, degrees, report))
        except UserError as error:
            stop(error)
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


def _shape(
    node: Node, name: str, counts_from: Literal[0, 1], only: str | None, degrees: bool, report: IssueCounter
) -> ToldShape:
    is_difficult = flag(node, "difficult")
    if node.find("polygon") is not None or node.find("segm") is not None:
        report.note(OUTLINE, node.where, "repaired")
    corners: tuple[tuple[float, float], ...] = ()
    edges: Edges = (0.0, 0.0, 0.0, 0.0)
    if only != "bndbox" and (box := node.find("robndbox")) is not None:
        corners = _robndbox(box, degrees)
    elif only != "bndbox" and (box := node.find("rotated_bndbox")) is not None:
        corners = _rotated_bndbox(box)
    else:
        box, rotation = node.need(only or "bndbox"), _rotation(node) if only is None else None
        x0, y0, x1, y1 = edges = _edges(box, counts_from if rotation is None else 0, report)
        if rotation:
            corners = turned((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, math.radians(rotation))
    return ToldShape(name=name, line=node.line, corners=corners, edges=edges, is_difficult=is_difficult)


def _rotation(node: Node) -> float | None:
    """Degrees, clockwise: the attribute of CVAT; None: the object has no such attribute.

    Raises:
        UserError: no number; or an angle in a place for which nobody says what it is.
    """
    attributes = node.find("attributes")
    said = {one.need("name").text: one for one in attributes.all("attribute")} if attributes is not None else {}
    for tag in ("rotation", "angle", "theta"):
        other = node.find(tag) or node.find("bndbox", tag) or (said[tag].find("value") if tag in said else None)
        if tag == "rotation" and tag in said:
            return said[tag].number("value")
        if other is not None and other.text not in ("", "0", "0.0"):
            fix = "write the attribute rotation (degrees, clockwise) as CVAT does; or remove it, if boxes are upright"
            raise UserError("an angle that nothing says how to read", where=f"{other.where}: {tag}", fix=fix)
    return None


def _edges(box: Node, counts_from: Literal[0, 1], report: IssueCounter) -> Edges:
    x0, y0, x1, y1 = (box.number(tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if counts_from == 0 or box.find("bbox_w") is not None:  # SSDD's
        return x0, y0, x1, y1
    if 0 <= x0 < 1 or 0 <= y0 < 1:
        report.note(FROM_ZERO, box.where, "kept")
    return (0.0 if 0 <= x0 < 1 else x0 - 1), (0.0 if 0 <= y0 < 1 else y0 - 1), x1, y1


def _robndbox(box: Node, degrees: bool) -> tuple[tuple[float, float], ...]:
    if box.find("cx") is None:
        return tuple((box.number(x), box.number(y)) for x, y in _CORNER_NAMES)
    cx, cy, w, h, angle = (box.number(tag) for tag in ("cx", "cy", "w", "h", "angle"))
    if not degrees and MOST_RADIANS < abs(angle) < math.inf:
        fix = "if all angles are degrees: --format voc-degrees"
        raise UserError("an angle that looks like degrees where radians are read", where=box.where, fix=fix)
    return turned(cx, cy, w, h, math.radians(angle) if degrees else angle)


def _rotated_bndbox(box: Node) -> tuple[tuple[float, float], ...]:
    if box.find("x1") is not None:
        return tuple((box.number(f"x{number}"), box.number(f"y{number}")) for number in (1, 2, 3, 4))
    cx, cy, w, h, degrees = (box.number(f"rotated_bbox_{key}") for key in ("cx", "cy", "w", "h", "theta"))
    return turned(cx, cy, w, h, math.radians(degrees))


def _format(counts_from: Literal[0, 1] = 1, degrees: bool = False) -> Format:
    def read(path: Path, report: IssueCounter, stop: Stop) -> Page:
        return read_page(path, report, stop, counts_from=counts_from, degrees=degrees)

    writer = Writer(write=write, images="JPEGImages", is_difficult=True, empty_classes=False)
    is_plain = counts_from == 1 and not degrees
    return per_image(
        layout=LAYOUT, looks_like=looks_like if is_plain else never, read=read, writer=writer if is_plain else None
    )


FORMAT, FROM_0, DEGREES = _format(), _format(counts_from=0), _format(degrees=True)
