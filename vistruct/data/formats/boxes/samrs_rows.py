"""The objects of one image of SAMRS: pickled instances, lines of text, DIOR's xml; and oriented boxes for instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from vistruct.contracts import Record
from vistruct.data.formats.boxes.coco_shapes import Fault, mask_area, segmentation_faults
from vistruct.data.formats.boxes.coco_walk import NO_MASK
from vistruct.data.formats.boxes.objects import Corners, Edges, ImageObjects, Told
from vistruct.data.formats.boxes.samrs_ids import LabelIds
from vistruct.data.formats.boxes.voc import read_page
from vistruct.data.formats.format import Stop
from vistruct.errors import UserError
from vistruct.files.plain_pickle import read_plain_pickle
from vistruct.files.text import decimal, read_text
from vistruct.issues import IssueCounter

TENTH_COLUMN = "tenth column of the texts read as the number of the class, and not as difficult"
NO_BOX = "instance without an oriented box: its upright one is taken"
NO_INSTANCE = "oriented box without an instance: an object without a mask"

_SAME = 0.2  # overlap (IoU of hulls) from which a box is that of an instance; those of one object differ by its mask
_FIX = "correct it, or write the file again"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One object as a file has it."""

    label: int | None  # number of its class; None: the name alone is told
    name: str | None
    here: str
    edges: Edges = (0.0, 0.0, 0.0, 0.0)  # where there are no corners
    corners: Corners = ()
    mask: Any = ()  # COCO's run lengths


def read_instances(file: Path, ids: LabelIds, stop: Stop) -> list[Drawn]:
    """Those of a pickle; a fault of one goes to `stop`, one of the file is raised."""
    rows = read_plain_pickle(file)
    if not isinstance(rows, list):
        what = f"instances are a list of dicts, this is a {type(rows).__name__}"
        raise UserError(what, where=file, fix="copy ins/ again")
    found = []
    for number, row in enumerate(rows):
        here = f"{file}, instance {number}"
        fault = next(_faults(row), None)
        if fault is not None:
            stop(UserError(fault[0], where=f"{here}: {fault[1]}", fix=_FIX))
            continue
        name, label = row.get("category"), row.get("label")
        if not isinstance(name, str):  # early pickles
            name, label = (label if isinstance(label, str) else None), name
        ids.add(int(label), name, here, stop)
        mask = row["mask"]
        mask = {"size": [int(side) for side in mask["size"]], "counts": _text(mask["counts"])}
        box = row.get("bbox", row.get("rhbox"))
        x0, y0, x1, y1 = np.zeros(4) if box is None else np.asarray(box, np.float64).ravel()
        edges = (float(x0), float(y0), float(x1), float(y1))
        corners = np.asarray(row.get("rbox", ()), np.float64).reshape(-1, 2).tolist()
        found.append(Drawn(label=int(label), name=name, here=here, edges=edges, corners=corners, mask=mask))
    return found


def _faults(row: Any) -> Iterator[Fault]:
    """Why an instance cannot be understood, if so."""
    if not isinstance(row, dict):
        yield "an instance is a dict, this is not", f"{row!r:.60}"
        return
    name, label = row.get("category"), row.get("label")
    numbers = [one for one in (name, label) if _is_number(one)]
    if not numbers or len(set(numbers)) > 1 or not 0 <= numbers[0] < 255:
        yield "an instance has a category and a label from 0 to 254, this has not", f"{name!r:.40}, {label!r:.40}"
        return
    if not all(_is_number(one) or isinstance(one, str) or one is None for one in (name, label)):
        yield "a category is a name", f"{name!r:.40}, {label!r:.40}"
    for key, size in (("bbox", 4), ("rhbox", 4), ("rbox", 8)):
        if key in row and not (isinstance(row[key], np.ndarray | list | tuple) and _are_numbers(row[key], size)):
            yield f"{key} has {size} numbers, this has others", f"{row[key]!r:.60}"
    if not {"bbox", "rhbox", "rbox"} & row.keys():
        yield "an instance has a bbox or an rbox, this has neither", ", ".join(map(str, row))[:60]
    mask = row.get("mask")
    if not (isinstance(mask, dict) and isinstance(mask.get("counts"), str | bytes | list)):
        yield "a mask has size and counts, this has others", f"{mask!r:.60}"
        return
    size = mask.get("size")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_number, size))):
        yield "the size of a mask is [height, width], this is another", f"{size!r:.60}"
        return
    yield from segmentation_faults({"size": [int(one) for one in size], "counts": _text(mask["counts"])}, None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(value: Any, size: int) -> bool:
    try:
        return np.asarray(value, np.float64).size == size
    except (TypeError, ValueError):
        return False


def _text(counts: Any) -> Any:
    return counts.decode("latin-1") if isinstance(counts, bytes) else counts


def read_lines(file: Path, ids: LabelIds, report: IssueCounter, stop: Stop) -> list[Drawn]:
    """Oriented boxes of a text: eight coordinates, the name of a class, and where it is there its number."""
    found = []
    for number, line in enumerate(read_text(file, may_be_empty=True).splitlines(), 1):
        fields, here = line.split(), f"{file}, line {number}"
        if not fields or (not found and ":" in fields[0]):  # DOTA's headers
            continue
        try:
            if len(fields) not in (9, 10):
                what = f"a line is x1 y1 x2 y2 x3 y3 x4 y4 class number, this has {len(fields)} fields"
                raise UserError(what, where=here, fix="write class names with hyphens instead of spaces")
            values = [decimal(one, here, "a corner's coordinate") for one in fields[:8]]
            label = None
            if len(fields) == 10:
                if not fields[9].isdecimal() or len(fields[9]) > 3:
                    what = f"the tenth column is the number of the class, this is {fields[9]!r:.40}"
                    raise UserError(what, where=here, fix="write that number, or leave the column out")
                label = int(fields[9])
                ids.add(label, fields[8], here, stop)
        except UserError as error:
            stop(error)
            continue
        corners = tuple(zip(values[0::2], values[1::2], strict=True))
        found.append(Drawn(label=label, name=fields[8], here=here, corners=corners))
    if any(one.label is not None for one in found):
        report.note(TENTH_COLUMN, str(file), "kept")
    return found


def read_xml_boxes(file: Path, report: IssueCounter, stop: Stop) -> list[Drawn]:
    """Oriented boxes of DIOR's xml."""
    page = read_page(file, report, stop, counts_from=0, only="robndbox", lower=True)
    return [
        Drawn(label=None, name=one.name, here=f"{file}, line {one.line}", corners=one.corners) for one in page.shapes
    ]


def add_instances(image: ImageObjects, rows: Sequence[Drawn], report: IssueCounter, stop: Stop) -> None:
    """Put objects into an image; `stop` is told of masks of another size."""
    for one in rows:
        if one.mask and tuple(one.mask["size"]) != image.size_hw:
            height, width = one.mask["size"]
            what = f"a mask of {width} x {height} pixels for an image of {image.size_hw[1]} x {image.size_hw[0]}"
            stop(UserError(what, where=one.here, fix="use the image that was annotated"))
            continue
        mask = one.mask if one.mask and mask_area(one.mask) > 0 else ()
        if one.mask and not mask:
            report.note(NO_MASK, one.here, "kept")
        assert one.label is not None
        if one.corners:
            image.add_quad(one.corners, one.label, one.here, report, Told(mask=mask))
        else:
            image.add_box(one.edges, one.label, one.here, report, Told(mask=mask))


def with_boxes(
    record: Record, boxes: Sequence[Drawn], report: IssueCounter, stop: Stop, *, as_written: bool = False
) -> Record:
    """A record whose objects have those of these oriented boxes that are theirs: of their class, and where they are.

    The pairs are those whose hulls overlap most, all together. What is left on either side stays as it is, counted.
    """
    objects, pairs = record.objects, {}
    hulls = np.array([_hull(one.corners) for one in boxes], np.float32).reshape(-1, 4)
    numbers = np.array([-1 if one.label is None else one.label for one in boxes], np.int64)
    if len(objects) and len(boxes):
        overlap = box_iou(torch.from_numpy(objects.boxes_xyxy), torch.from_numpy(hulls)).nan_to_num().numpy()
        overlap = np.where(objects.labels[:, None] == numbers, overlap, 0)
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        pairs = {int(row): int(one) for row, one in zip(rows, columns, strict=True) if overlap[row, one] >= _SAME}
    assert record.size_hw is not None
    image = ImageObjects(record.id, record.images[0], record.size_hw, record.notes, as_written=as_written)
    masks = objects.masks if objects.masks is not None else ((),) * len(objects)
    for row, (outline, label, mask) in enumerate(zip(objects.outlines, objects.labels, masks, strict=True)):
        here = f"{record.id}: object {row}"
        told = Told(mask=mask or (), is_crowd=bool(objects.is_crowd[row]), is_difficult=bool(objects.is_difficult[row]))
        if row in pairs:
            image.add_quad(boxes[pairs[row]].corners, int(label), boxes[pairs[row]].here, report, told)
        else:
            report.note(NO_BOX, here, "repaired")
            image.add_quad(outline.tolist(), int(label), here, report, told)
    for column in sorted(set(range(len(boxes))) - set(pairs.values())):
        report.note(NO_INSTANCE, boxes[column].here, "kept")
        add_instances(image, [boxes[column]], report, stop)
    return replace(record, objects=image.record(is_oriented=True, has_masks=objects.masks is not None).objects)


def _hull(corners: Corners) -> Edges:
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
