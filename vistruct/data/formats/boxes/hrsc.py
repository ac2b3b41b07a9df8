"""HRSC2016 xml: ships as centre, sides and angle, one file an image.

    HRSC2016/FullDataSet/Annotations/100000001.xml
    HRSC2016/FullDataSet/AllImages/100000001.bmp
    HRSC2016/ImageSets/trainval.txt, train.txt, val.txt, test.txt

    <HRSC_Image> <Img_SizeWidth>1166</Img_SizeWidth> <Img_SizeHeight>753</Img_SizeHeight>
      <HRSC_Objects> <HRSC_Object> <Class_ID>100000013</Class_ID> <difficult>0</difficult>
        <mbox_cx>582.9</mbox_cx> <mbox_cy>353.2</mbox_cy> <mbox_w>778.1</mbox_w> <mbox_h>174.2</mbox_h>
        <mbox_ang>-0.214</mbox_ang>      (radians, clockwise on screen)

Without lists, `Train` and `Test` with `Annotations` and `AllImages` in each are the splits. Every object is a "ship",
as the data set is commonly scored; with its 31 kinds of ship told apart it is the format `hrsc_classes`, which must be
named, since the files are the same.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from vistruct.data.formats.boxes.objects import MOST_RADIANS, turned
from vistruct.data.formats.boxes.per_image import Page, ToldShape, per_image
from vistruct.data.formats.boxes.places import Layout, split_lists
from vistruct.data.formats.boxes.published import HRSC
from vistruct.data.formats.boxes.voc import first_root, flag, told_size
from vistruct.data.formats.format import Format, Stop, never
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


def _format(kinds: bool) -> Format:
    def read(path: Path, report: IssueCounter, stop: Stop) -> Page:
        return _read(path, stop, kinds)

    return per_image(
        layout=LAYOUT,
        looks_like=never if kinds else looks_like,
        read=read,
        published=(tuple(HRSC.values()),) if kinds else (("ship",),),
        oriented=True,
        top=_top,
    )


def _top(path: Path) -> Path:
    """The folder of all images, where lists choose from it: its parts lie a second time in Train and Test."""
    return path / "FullDataSet" if split_lists(path) and (path / "FullDataSet").is_dir() else path


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
            box = [node.number(f"mbox_{key}") for key in ("cx", "cy", "w", "h", "ang")]
            if MOST_RADIANS < abs(box[4]) < math.inf:
                fix = "write <mbox_ang> in radians, clockwise, as HRSC2016 does"
                raise UserError("an angle that looks like degrees", where=node.need("mbox_ang").where, fix=fix)
            name, is_difficult = _kind(node) if kinds else "ship", flag(node, "difficult")
            shapes.append(ToldShape(name=name, line=node.line, corners=turned(*box), is_difficult=is_difficult))
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


SHIPS, KINDS = _format(kinds=False), _format(kinds=True)
