"""Karpathy's splits of COCO, Flickr30k and Flickr8k: one json with images, their splits and sentences.

    {"dataset": "coco", "images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
     "cocoid": 391895, "sentences": [{"raw": "A man with a red helmet.", "tokens": ["a", "man", ...]}, ...]}, ...]}

Source of the shape: `dataset_coco.json` of Karpathy and Fei-Fei, arXiv:1412.2306. What others call the training split
is `train+restval` there: 113,287 images of COCO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.data.formats.captions.said import COCO_ID, Said, records_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter
from vistruct.vlm.words import tokens_of

OTHER_TOKENS = "sentence whose tokens are not its words: its words taken"
REST = "image of split restval left out: the published training split is train+restval"


def looks_like(path: Path) -> bool:
    """Whether it is such a json, or a folder with one."""
    return bool(_files(path))


def splits(path: Path) -> tuple[str, ...]:
    """Those that the file names."""
    return tuple(dict.fromkeys(str(image.get("split", "")) for image in _images(_only(path))))


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, with its sentences as they were written."""
    annotation = _only(path)
    found, seen = [], set()
    for number, image in enumerate(_images(annotation)):
        here = f"{annotation}: image {number}"
        said = _said(image, here, report, stop)
        if said is None:
            continue
        if said.name in seen:
            stop(UserError(f"{said.name} is listed twice", where=here, fix="remove one of them"))
            continue
        seen.add(said.name)
        found.append(said)
    records = records_of(found, annotation, ask, report, stop)
    asked = (ask.split or "").split("+")
    for said in found if "train" in asked and "restval" not in asked else ():
        if said.split == "restval":
            report.note(REST, said.name)
    return Walked(records=records, annotations=(annotation,))


def _said(image: Any, here: str, report: IssueCounter, stop: Stop) -> Said | None:
    is_image = isinstance(image, dict) and isinstance(image.get("filename"), str)
    sentences = image.get("sentences") if is_image else None
    if not isinstance(sentences, list) or not all(isinstance(one, dict) for one in sentences):
        stop(UserError("an image without filename or sentences", where=here, fix="correct this entry"))
        return None
    captions = []
    for one in sentences:
        raw, tokens = one.get("raw"), one.get("tokens")
        if not isinstance(raw, str):
            if not isinstance(tokens, list):
                stop(UserError("a sentence without raw or tokens", where=here, fix="correct this entry"))
                continue
            raw = " ".join(map(str, tokens))
        if isinstance(tokens, list) and tokens_of(raw) != tokens:
            report.note(OTHER_TOKENS, f"{here}: {raw}", "kept")
        captions.append(raw)
    name = "/".join(part for part in (str(image.get("filepath") or ""), image["filename"]) if part)
    notes = {COCO_ID: str(image["cocoid"])} if "cocoid" in image else {}
    return Said(name=name, where=here, captions=captions, split=str(image.get("split", "")), notes=notes)


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    return [file for file in files if file.suffix == ".json" and json_kind(file) == "karpathy"]


def _only(path: Path) -> Path:
    """
    Raises:
        UserError: no such file in the folder, or several.
    """
    if path.is_file():
        return path
    files = _files(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        fix = f"name one: {files[0]}" if files else "name the file, dataset_coco.json"
        raise UserError(f"one json of Karpathy's is meant; here: {names}", where=path, fix=fix)
    return files[0]


def _images(annotation: Path) -> list[Any]:
    """
    Raises:
        UserError: no json, or none with a list of images.
    """
    content = read_json(annotation)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        what = "no list of images with sentences in this json"
        raise UserError(what, where=annotation, fix="dataset_coco.json has one; other json: --format coco-captions")
    return images


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=walk)
