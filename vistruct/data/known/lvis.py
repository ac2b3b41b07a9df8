"""LVIS v1: COCO's images with objects of 1,203 categories, of which each image was searched for some.

    lvis_v1_train.json    COCO json; images have `coco_url` in the place of a name, `neg_category_ids` (looked for and
                          absent) and `not_exhaustive_category_ids` (some objects of them are missing)
    train2017/000000391895.jpg

"All" and "none" are asked where every category that an image has was searched to the end; of absent categories, only
those that the image was searched for. Read whole, as COCO json is; the COCO reader trains detectors on it, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.coco_walk import document, usual, walk
from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.annotated import Annotated
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import Source
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

NOT_ALL = "image whose objects are not all annotated: nothing is asked about all of them"


def looks_like(path: Path) -> bool:
    """Whether it is a json whose images say which categories they were searched for."""
    return path.suffix == ".json" and path.is_file() and '"not_exhaustive_category_ids"' in "".join(ends_of(path))


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other, in the order of the file.

    Raises:
        UserError: as of every COCO json.
    """
    content = usual(document(path))
    found = walk(path, replace(ask, split=None, masks=True), report, _raise, content=content)
    class_names = tuple(name.replace("_", " ") for name in found.class_names)
    data = Annotated(kind="boxes", records=found.records, class_names=class_names)
    names = {one["id"]: one["name"].replace("_", " ") for one in content["categories"]}
    images = {one["file_name"]: one for one in content["images"]}
    for record in found.records:
        known, image = data.known(record), images[record.id]
        absent = _names(image, "neg_category_ids", names)
        partly = set(_names(image, "not_exhaustive_category_ids", names))
        there = dict.fromkeys(known.objects.extra["names"])
        if partly & set(there):
            report.note(NOT_ALL, record.id, "kept")
        yield replace(known, is_complete=not partly & set(there), class_names=tuple(dict.fromkeys([*there, *absent])))


def _names(image: dict[str, Any], key: str, names: dict[Any, str]) -> list[str]:
    return [names[one] for one in image.get(key) or () if one in names]


def _raise(error: UserError) -> None:
    raise error


SOURCE = Source(read=read, looks_like=looks_like)
