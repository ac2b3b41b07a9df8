"""COCO captions json, and NoCaps, which is the same with the domain of each image:

    {"images": [{"id": 1, "file_name": "000000000001.jpg", "domain": "near-domain"}, ...],
     "annotations": [{"image_id": 1, "id": 7, "caption": "A cat on a mat."}, ...]}

Files and images lie as those of COCO's boxes do (`boxes/coco_find.py`): `annotations/captions_val2017.json` with
`val2017/` beside `annotations`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vistruct.contracts import Record
from vistruct.data.formats.boxes.coco_find import find_json, json_files
from vistruct.data.formats.captions.said import COCO_ID, Said, records_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

UNLISTED = "caption left out: its image is not in the list of images"


def looks_like(path: Path) -> bool:
    """Whether it is such a json, or a folder with one in a known place."""
    if path.is_file():
        return json_kind(path) == "captions" and _is_object(path)
    return path.is_dir() and any(map(_is_object, json_files(path, "captions").values()))


def splits(path: Path) -> tuple[str, ...]:
    """The names of the json files of a folder; none of a file."""
    return tuple(json_files(path, "captions")) if path.is_dir() else ()


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, in the order of the list."""
    records: list[Record] = []
    files: list[Path] = []
    for part in (ask.split or "").split("+"):
        annotation = find_json(path, part or None, "captions")
        records += records_of(_said(annotation, report, stop), annotation, replace(ask, split=None), report, stop)
        files.append(annotation)
    twice = len(records) - len({record.id for record in records})
    if twice:
        stop(UserError(f"{twice} images are in two splits", where=path, fix="read the splits one by one"))
    return Walked(records=records, annotations=tuple(files))


def _said(annotation: Path, report: IssueCounter, stop: Stop) -> list[Said]:
    content = read_json(annotation)
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(one, list) for one in lists):
        what = "COCO captions are an object with images and annotations"
        raise UserError(what, where=annotation, fix="rows of image and caption go into a .csv or a .jsonl")
    found: dict[Any, Said] = {}
    names: set[str] = set()
    for number, image in enumerate(content["images"]):
        here = f"{annotation}: image {number}"
        if not (isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image):
            stop(UserError("an image without id or file_name", where=here, fix="correct this entry"))
            continue
        if image["id"] in found or image["file_name"] in names:
            stop(UserError(f"{image['file_name']} is listed twice", where=here, fix="remove one of them"))
            continue
        names.add(image["file_name"])
        notes = {COCO_ID: str(image["id"])} | ({"domain": str(image["domain"])} if "domain" in image else {})
        found[image["id"]] = Said(name=image["file_name"], where=here, notes=notes)
    for number, one in enumerate(content["annotations"]):
        here = f"{annotation}: annotation {number}"
        if not isinstance(one, dict) or not isinstance(one.get("caption"), str):
            stop(UserError("an annotation without a caption", where=here, fix="correct this entry"))
        elif one.get("image_id") not in found:
            report.note(UNLISTED, f"{here}: image {one.get('image_id')}")
        else:
            found[one["image_id"]].captions.append(one["caption"])
    return list(found.values())


def _is_object(path: Path) -> bool:
    with open(path, "rb") as opened:
        return opened.read(64).decode("utf-8-sig", errors="replace").lstrip().startswith("{") and path.suffix == ".json"


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=walk)
