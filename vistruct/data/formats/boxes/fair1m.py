"""FAIR1M xml: oriented boxes as closed rings of five points, one file an image; read, written, and written to submit.

    FAIR1M/train/part1/images/0.tif, FAIR1M/train/part1/labelXml/0.xml, FAIR1M/validation/...

    <annotation> <source> <filename>0.tif</filename> <origin>GF2/GF3</origin> </source> <research> ... </research>
      <size> <width>1000</width> <height>1000</height> <depth>3</depth> </size>
      <objects> <object> <coordinate>pixel</coordinate> <type>rectangle</type> <description>None</description>
        <possibleresult> <name>Small Car</name> </possibleresult>
        <points> <point>10.0,20.0</point> ... the first once more at the end ... </points>

A submission has one such file for each test image, also for those in which nothing was found, and a `<probability>`
beside each name. Class names are the official ones, with spaces; "other-airplane", "other-ship" and "other-vehicle"
have a hyphen. Models trained on DOTA-style copies, where "Small Car" became "Small-Car", get the official names back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vistruct.contracts import BoxPrediction, Record
from vistruct.data.formats.boxes.dota import refuse_twins, shortest
from vistruct.data.formats.boxes.per_image import Page, ToldShape, per_image
from vistruct.data.formats.boxes.places import Layout
from vistruct.data.formats.boxes.published import FAIR1M
from vistruct.data.formats.boxes.voc import first_root, told_size
from vistruct.data.formats.format import Stop, Writer
from vistruct.errors import UserError, closest
from vistruct.files.text import decimal, write_text
from vistruct.files.xml_nodes import Node, read_xml, xml_text
from vistruct.issues import IssueCounter
from vistruct.ops.oriented import cxcywha_to_quads

LAYOUT = Layout(
    suffix=".xml",
    annotations=re.compile(r"label_?xmls?|annotations?|labels?", re.IGNORECASE),
    images=re.compile(r"images?|imgs?|jpegimages", re.IGNORECASE),
)

_Row = tuple[str, np.ndarray, str]  # class name, float[4, 2] corners, probability ("": a truth)


def looks_like(path: Path) -> bool:
    """Whether the first xml file is an annotation with <objects> in it."""
    root = first_root(Path(path), LAYOUT)
    return root is not None and root.tag == "annotation" and root.find("objects") is not None


def write(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write `out/labelXml/<image>.xml`, one a record; reading gives the same float32 corners back.

    Returns:
        What was changed on the way: nothing.

    Raises:
        ValueError: a record without a size, or one that is a window.
        UserError: two records whose files would have the same name.
    """
    stems = [Path(record.id).stem for record in records]
    refuse_twins(stems, [record.id for record in records], "images", out)
    folder = Path(out) / "labelXml"
    folder.mkdir(parents=True, exist_ok=True)
    for stem, record in zip(stems, records, strict=True):
        if record.size_hw is None or record.window_xyxy is not None:
            raise ValueError(f"{record.id}: FAIR1M files are of whole images of known size")
        objects = zip(record.objects.outlines, record.objects.labels, strict=True)
        rows = ((class_names[label], quad, "") for quad, label in objects)
        head = _head(Path(record.id).name, record.size_hw, origin=record.notes.get("origin", ""))
        write_text(folder / f"{stem}.xml", _document(head, rows), wait_for_disk=False)
    return IssueCounter()


def write_predictions(
    out: Path,
    predictions: Iterable[BoxPrediction],
    sizes_hw: Mapping[str, tuple[int, int]],
    *,
    version: str = "1.0",
    team: str = "",
    author: str = "",
    time: str = "",
) -> list[Path]:
    """Write what the FAIR1M server takes: `out/<image>.xml` for every test image.

    Args:
        out: the folder to put into the zip, usually called `test`.
        predictions: in pixels of the whole image; windows of one image must have been merged. Horizontal ones are
            written by their corners.
        sizes_hw: (height, width) in pixels of every test image by its id; one without a prediction gets a file
            without objects.
        version, team, author, time: for the `<research>` block.

    Returns:
        The files, in the order of `sizes_hw`.

    Raises:
        UserError: a prediction for an image that is not in `sizes_hw`, two for one image, a class that is not one of
            the 37, two images whose files would have the same name.
    """
    stems = {image_id: Path(image_id).stem for image_id in sizes_hw}
    refuse_twins(list(stems.values()), list(stems), "images", out)
    rows_of: dict[str, list[_Row]] = {}
    for prediction in predictions:
        image_id = prediction.image_id
        if image_id not in sizes_hw:
            raise UserError(
                f"a prediction for {image_id!r}, which is no test image", where=out, fix=closest(image_id, sizes_hw)
            )
        if image_id in rows_of:
            raise UserError(f"two predictions for {image_id!r}", where=out, fix="merge the windows of an image first")
        names = [official_name(name) for name in prediction.class_names]
        scores, labels = prediction.objects.scores.tolist(), prediction.objects.labels.tolist()
        quads = _quads(prediction)
        rows_of[image_id] = [
            (names[label], quad, f"{score:.6f}") for quad, score, label in zip(quads, scores, labels, strict=True)
        ]
    Path(out).mkdir(parents=True, exist_ok=True)
    files = []
    for image_id, size_hw in sizes_hw.items():
        head = _head(Path(image_id).name, size_hw, version=version, team=team, author=author, time=time)
        files.append(Path(out) / f"{stems[image_id]}.xml")
        write_text(files[-1], _document(head, rows_of.get(image_id, [])), wait_for_disk=False)
    return files


def official_name(name: str) -> str:
    """The official name of a class that may be written with hyphens or underscores, or with other capitals.

    Raises:
        UserError: it is none of the 37.
    """
    if _plain(name) not in _OFFICIAL:
        raise UserError(f"FAIR1M has no class {name!r}", fix=closest(name, FAIR1M))
    return _OFFICIAL[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]+", "", name).lower()


_OFFICIAL = {_plain(name): name for name in FAIR1M}


def _read(path: Path, report: IssueCounter, stop: Stop) -> Page:
    """`source` and `origin` become notes."""
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(f"FAIR1M's xml is an <annotation>, not <{root.tag}>", where=root.where, fix="name the format")
    shapes = []
    for node in root.need("objects").all("object"):
        try:
            name = node.need("possibleresult", "name").text
            if not name:
                raise UserError("an object without the name of a class", where=node.where, fix="name it")
            shapes.append(ToldShape(name=name, line=node.line, corners=_corners(node)))
        except UserError as error:
            stop(error)
    notes = {tag: found.text for tag in ("origin",) if (found := root.find("source", tag)) is not None and found.text}
    return Page(shapes=shapes, size_hw=told_size(root.find("size"), "width", "height"), notes=notes)


def _corners(node: Node) -> tuple[tuple[float, float], ...]:
    points = []
    for point in node.need("points").all("point"):
        values = point.text.split(",")
        if len(values) != 2:
            raise UserError(f"a point is x,y, this is {point.text!r}", where=point.where, fix="correct it")
        x, y = (decimal(value.strip(), point.where, "a coordinate") for value in values)
        points.append((x, y))
    if len(points) == 5 and points[0] == points[4]:
        points.pop()
    if len(points) != 4:
        what = f"an object has four corners and the first again, this has {len(points)} points"
        raise UserError(what, where=node.where, fix="correct or remove this object")
    return tuple(points)


def _quads(prediction: BoxPrediction) -> np.ndarray:
    """float[N, 4, 2], pixels."""
    if prediction.objects.boxes_cxcywha is not None:
        return cxcywha_to_quads(prediction.objects.boxes_cxcywha.double()).cpu().numpy()
    x0, y0, x1, y1 = prediction.objects.boxes_xyxy.cpu().numpy().T
    return np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=1).reshape(-1, 4, 2)


def _head(
    file_name: str,
    size_hw: tuple[int, int],
    *,
    origin: str = "",
    version: str = "1.0",
    team: str = "",
    author: str = "",
    time: str = "",
) -> str:
    height, width = size_hw
    research = {
        "version": version, "provider": team, "author": author, "pluginname": "FAIR1M",
        "pluginclass": "object detection", "time": time,
    }  # fmt: skip
    told = "".join(f"    <{tag}>{xml_text(value)}</{tag}>\n" for tag, value in research.items())
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n'
        f"  <source>\n    <filename>{xml_text(file_name)}</filename>\n"
        f"    <origin>{xml_text(origin or 'GF2/GF3')}</origin>\n  </source>\n"
        f"  <research>\n{told}  </research>\n"
        f"  <size>\n    <width>{width}</width>\n    <height>{height}</height>\n    <depth>3</depth>\n  </size>\n"
        "  <objects>\n"
    )


def _document(head: str, rows: Iterable[_Row]) -> Iterable[str]:
    yield head
    for name, quad, probability in rows:
        told = f"        <probability>{probability}</probability>\n" if probability else ""
        ring = [*quad, quad[0]]
        points = "".join(f"        <point>{_value(x)},{_value(y)}</point>\n" for x, y in ring)
        yield (
            "    <object>\n      <coordinate>pixel</coordinate>\n      <type>rectangle</type>\n"
            "      <description>None</description>\n"
            f"      <possibleresult>\n        <name>{xml_text(name)}</name>\n{told}      </possibleresult>\n"
            f"      <points>\n{points}      </points>\n    </object>\n"
        )
    yield "  </objects>\n</annotation>\n"


def _value(value: np.floating) -> str:
    return shortest(value) if value.dtype == np.float32 else f"{value:.6f}"


FORMAT = per_image(
    layout=LAYOUT,
    looks_like=looks_like,
    read=_read,
    published=(FAIR1M,),
    oriented=True,
    size_may_be_turned=True,
    writer=Writer(write=write, quads=True, empty_classes=False),
)
