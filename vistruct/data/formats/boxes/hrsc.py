"""HRSC2016 xml: ships as centre, sides and angle, one file an image.

    HRSC2016/FullDataSet/Annotations/100000001.xml
    HRSC2016/FullDataSet/AllImages/100000001.bmp
    HRSC2016/ImageSets/trainval.txt, train.txt, val.txt, test.txt

    <HRSC_Image> <Img_SizeWidth>1166</Img_SizeWidth> <Img_SizeHeight>753</Img_SizeHeight>
      <HRSC_Objects> <HRSC_Object> <Class_ID>100000013</Class_ID> <difficult>0</difficult>
        <mbox_cx>582.9</mbox_cx> <mbox_cy>353.2</mbox_cy> <mbox_w>778.1</mbox_w> <mbox_h>174.2</mbox_h>
        <mbox_ang>-0.214</mbox_ang>      (radians, clockwise on screen)

Without lists, `Train` and `Test` with `Annotations` and `AllImages` in each are the splits. Every object is a "ship",
as the data set is commonly scored; with its 31 kinds of ship it is another format (see `hrsc_classes`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.boxes.per_image import Page, Shape, walk_pages
from vistruct.data.formats.boxes.places import Layout, split_lists
from vistruct.data.formats.boxes.published import HRSC
from vistruct.data.formats.boxes.voc import first_root, flag, told_size, turned
from vistruct.errors import UserError
from vistruct.files.xml_nodes import Node, read_xml
from vistruct.issues import IssueCounter

LAYOUT = Layout(
    suffix=".xml",
    annotations=re.compile(r"annotations?", re.IGNORECASE),
    images=re.compile(r"allimages|jpegimages|images?", re.IGNORECASE),
)

_FIRST_ID = 100_000_000  # Class_ID is this and the number of the class


def looks_like(path: Path) -> bool:
    """Whether the first xml file is an HRSC_Image."""
    root = first_root(Path(path), LAYOUT)
    return root is not None and root.tag == "HRSC_Image"


def walk(
    path: Path,
    images: Path | None,
    report: IssueCounter,
    stop: Stop,
    *,
    split: str | None = None,
    missing: Literal["stop", "drop"] = "stop",
    kinds: bool = False,
) -> tuple[list[Record], tuple[str, ...]]:
    """Records with quads; see `per_image.walk_pages` and `places.find_sources`.

    Args:
        kinds: the class of each object, instead of "ship" for all.
    """
    path = Path(path)
    if split_lists(path) and (path / "FullDataSet").is_dir():
        path = path / "FullDataSet"  # its parts lie a second time in Train and Test

    def read(file: Path, stop: Stop) -> Page:
        return _read(file, stop, kinds)

    published = (tuple(HRSC.values()),) if kinds else (("ship",),)
    return walk_pages(
        path, images, report, stop, layout=LAYOUT, read=read, published=published, oriented=True, split=split,
        missing=missing,
    )  # fmt: skip


def _read(path: Path, stop: Stop, kinds: bool) -> Page:
    root = read_xml(path)
    if root.tag != "HRSC_Image":
        raise UserError(
            f"HRSC's xml is an <HRSC_Image>, this is a <{root.tag}>", where=root.where, fix="name the format"
        )
    shapes = []
    objects = root.find("HRSC_Objects")
    for node in objects.all("HRSC_Object") if objects is not None else ():
        try:
            box = (node.number(f"mbox_{key}") for key in ("cx", "cy", "w", "h", "ang"))
            name, is_difficult = _kind(node) if kinds else "ship", flag(node, "difficult")
            shapes.append(Shape(name=name, line=node.line, corners=turned(*box), is_difficult=is_difficult))
        except UserError as error:
            stop(error)
    return Page(shapes=shapes, size_hw=told_size(root, "Img_SizeWidth", "Img_SizeHeight"))


def _kind(node: Node) -> str:
    number = node.number("Class_ID") - _FIRST_ID
    if number not in HRSC:
        found = node.need("Class_ID")
        fix = f"{_FIRST_ID + 1} to {_FIRST_ID + max(HRSC)}, without 21 and 23; or read all as ships"
        raise UserError(f"HRSC2016 has no class {found.text!r}", where=found.where, fix=fix)
    return HRSC[int(number)]
