"""Captions in COCO's results format, `[{"image_id": 391895, "caption": "a man on a moped"}]`, whoever made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vistruct.contracts import CaptionPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.captions.said import COCO_ID, end_numbers
from vistruct.data.predicted.images import TruthImages, numbered
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

NOT_DESCRIBED = "image of the truth that no caption is about: not measured"


def predicted_captions(path: Path, dataset: RecordDataset, report: IssueCounter) -> Iterator[CaptionPrediction]:
    """The captions of the images of a truth: told by COCO's number, by the number that a name ends in, or by name.

    Raises:
        UserError: no such json; two captions of one image; none of an image of the truth.
    """
    file = path / "captions.json" if path.is_dir() else path
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        what = "captions are a json list of objects with image_id and caption"
        raise UserError(what, where=file, fix="vistruct predict RUN IMAGES --out OUT writes one")
    images = TruthImages(dataset.records, report)
    by_number = {record.notes[COCO_ID]: record for record in dataset.records if COCO_ID in record.notes}
    ends = end_numbers([record.id for record in dataset.records])
    own = dict(zip(ends, dataset.records, strict=True)) if ends else numbered(dataset.records)
    by_number = by_number or {str(number): record for number, record in own.items()}
    seen: dict[str, int] = {}
    found: list[CaptionPrediction] = []
    for number, one in enumerate(entries):
        here, name, caption = f"{file}: entry {number}", str(one.get("image_id", "")), one.get("caption")
        if not name or not isinstance(caption, str):
            raise UserError("no image_id with a caption", where=here, fix='{"image_id": 1, "caption": "a cat"}')
        place = None if name in by_number else images.find(name, here)
        record = by_number.get(name) or (None if place is None else place.record)
        if record is None:
            continue
        if record.id in seen:
            what = f"two captions of {record.id}, the first in entry {seen[record.id]}"
            raise UserError(what, where=here, fix="keep one of them")
        seen[record.id] = number
        found.append(CaptionPrediction(id=record.id, image_id=record.image_id, caption=caption))
    if not found:
        images.check(file)
        raise UserError("no captions here", where=file, fix="name the file of results")
    for record in dataset.records:
        if record.id not in seen:
            report.note(NOT_DESCRIBED, record.id)
    return iter(found)
