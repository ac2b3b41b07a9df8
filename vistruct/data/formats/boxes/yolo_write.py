"""Writing YOLO labels: data.yaml, and a text file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vistruct.contracts import Record
from vistruct.data.formats.boxes.coco_shapes import mask_area
from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.files.text import write_text
from vistruct.issues import IssueCounter

PARTS_LOST = "mask of several parts: the largest written, a row has room for one outline"
NO_OUTLINE = "mask of run lengths, or none: the box written as its outline"


def write(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write data.yaml and labels/; the images belong in images/. Of a mask goes the outline.

    Returns:
        What was changed on the way.

    Raises:
        UserError: two records whose files would have the same name.
        ValueError: a record without a size, or one that is a window.
    """
    report = IssueCounter()
    rows = {}
    for record in records:
        height, width = _size(record)
        lines = []
        for number, label in enumerate(record.objects.labels):
            if record.objects.masks is not None:
                outline = _outline(record, number, report)
                values = [value / (height if place % 2 else width) for place, value in enumerate(outline)]
            else:
                x0, y0, x1, y1 = (float(edge) for edge in record.objects.boxes_xyxy[number])
                values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
            lines.append(_line(int(label), values))
        rows[record.id] = lines
    _write_set(Path(out), rows, class_names)
    return report


def write_oriented(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """As `write`, with the corners of oriented boxes; horizontal ones are written by theirs."""
    rows = {}
    for record in records:
        height, width = _size(record)
        lines = []
        for quad, label in zip(record.objects.outlines.reshape(-1, 8).tolist(), record.objects.labels, strict=True):
            lines.append(_line(int(label), [c / (height if i % 2 else width) for i, c in enumerate(quad)]))
        rows[record.id] = lines
    _write_set(Path(out), rows, class_names)
    return IssueCounter()


def _size(record: Record) -> tuple[int, int]:
    if record.size_hw is None or record.window_xyxy is not None:
        raise ValueError(f"{record.id}: YOLO labels are of whole images of known size")
    return record.size_hw


def _outline(record: Record, number: int, report: IssueCounter) -> list[float]:
    """x, y, ... of a mask; of four points the first comes again, so that it is not taken for an oriented box."""
    mask: Any = record.objects.masks[number] if record.objects.masks is not None else []
    here = f"{record.id}: object {number}"
    if isinstance(mask, list) and mask:
        if len(mask) > 1:
            report.note(PARTS_LOST, here, "repaired")
        largest = max(mask, key=lambda polygon: mask_area([polygon]))
        return [float(value) for value in (largest + largest[:2] if len(largest) == 8 else largest)]
    report.note(NO_OUTLINE, here, "repaired")
    x0, y0, x1, y1 = (float(edge) for edge in record.objects.boxes_xyxy[number])
    return [x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]


def _line(label: int, values: list[float]) -> str:
    return " ".join([str(label), *(f"{value:.9f}".rstrip("0").rstrip(".") for value in values)]) + "\n"


def _write_set(out: Path, rows: dict[str, list[str]], class_names: Sequence[str]) -> None:
    files = {record_id: (out / "labels" / record_id).with_suffix(".txt") for record_id in rows}
    refuse_twins([str(file) for file in files.values()], list(files), "images", out)
    (out / "labels").mkdir(parents=True, exist_ok=True)
    for record_id, file in files.items():
        write_text(file, rows[record_id])
    content = {"train": "images", "val": "images", "names": dict(enumerate(class_names))}
    write_text(out / "data.yaml", [yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])


def join(out: Path, splits: Sequence[str], class_names: Sequence[str]) -> None:
    """One data.yaml about the folders of several splits, in the place of theirs."""
    places = {}
    for split in splits:
        (out / split / "data.yaml").unlink()
        places["val" if split.lower().startswith("val") else split] = f"{split}/images"
    content = {**places, "names": dict(enumerate(class_names))}
    write_text(out / "data.yaml", [yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])
