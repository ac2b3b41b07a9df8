"""Where the json files and images of a COCO data set lie.

Known layouts, S being a split:

    S.json                          images beside it, in images/ or in S/
    annotations/instances_S.json    images in S/, images/S/ or images/ beside `annotations` (COCO, SARDet-100K, SSDD)
    S/_annotations.coco.json        images beside it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vistruct.data.formats.boxes.image_names import ImageFolder, same_file
from vistruct.data.formats.json_kind import JsonKind, json_kind
from vistruct.errors import UserError

_FOLDERS = ("annotations", "Annotations", "annotation")
_NAMELESS = {"annotations", "_annotations", "_annotations.coco", "coco", "labels", "instances", "annotations_coco"}
_BESIDE = {*_FOLDERS, "Main", "labels", "label", "json", "jsons", "labelme", "ann"}  # folders beside those of images
_TRIED = 20  # images looked for in each folder


def json_files(folder: Path, kind: JsonKind = "coco") -> dict[str, Path]:
    """The COCO json files of boxes, or of captions, by the name of their split, from the first place that has any."""
    named = [folder / name for name in _FOLDERS]
    below = [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and inner not in named]
    for places in ([folder], named, below):
        files = [
            file
            for place in places
            if place.is_dir()
            for file in sorted(place.glob("*.json"))
            if file.is_file() and json_kind(file) == kind
        ]
        if files:
            names = [_split_name(file) for file in files]
            same = len(set(names)) < len(names)
            return {(file.stem if same else name): file for name, file in zip(names, files, strict=True)}
    return {}


def find_json(path: Path, split: str | None, kind: JsonKind = "coco") -> Path:
    """The one json file that is meant.

    Args:
        split: as in the file's name: all of it, or one of its words (`val` for instances_val2017.json).

    Raises:
        UserError: nothing there, none of that split, or several.
    """
    if path.is_file():
        if split is not None and split.lower() not in _words(path.stem):
            raise UserError(f"this one file is not split {split!r}", where=path, fix="name the folder, or no split")
        return path
    if not path.is_dir():
        raise UserError("no such annotation file", where=path, fix="check the path")
    files = json_files(path, kind)
    if not files:
        raise UserError("no COCO json here", where=path, fix="name the file")
    found = files if split is None else _of_split(files, split)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        what = f"no split {split!r}; there are: {', '.join(files)}"
        raise UserError(what, where=path, fix=f"for example --split {next(iter(files))}")
    what = f"several annotation files are meant: {', '.join(str(file.relative_to(path)) for file in found.values())}"
    raise UserError(what, where=path, fix=f"say which: --split {next(iter(found))}, or name the file")


def find_images(annotation: Path, names: Sequence[str]) -> Path:
    """The folder that the names of images start from: beside the json where all are, else of all that a layout knows.

    Raises:
        UserError: different files of the same names in two folders.
    """
    base = annotation.parent
    words = _words(annotation.stem)
    tops = [base, base.parent] if base.name in _BESIDE else [base]
    tops += [base.parent.parent] if base.name == "Main" else []  # ImageSets/Main
    places = [base]
    for top in tops:
        holders = [top / "images", top / "JPEGImages", top / "Images"]
        for place in [top, *holders]:
            inner = sorted(one for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
            places += [one for one in inner if _words(one.name) & words]
        places += [*holders, top]
    tried = names[:: max(1, len(names) // _TRIED)][:_TRIED]
    found = {place: _found(place, tried) for place in dict.fromkeys(places)}
    best = max(found, key=lambda place: len(found[place]))  # of equals the first
    if len(found[base]) == len(tried):
        return base
    for files in found.values():
        other = next((name for name, file in files.items() if not same_file(file, found[best].get(name, file))), None)
        if other is not None:
            where = f"{annotation}: {found[best][other]}, {files[other]}"
            fix = f"name the folder that is meant: --images {best}"
            raise UserError("images of the same names in two folders", where=where, fix=fix)
    return best


def _found(place: Path, names: Sequence[str]) -> dict[str, Path]:
    folder = ImageFolder(place, is_named=False)
    return {name: file for name in names if (file := folder.find(name)) is not None}


def _split_name(file: Path) -> str:
    return (
        file.parent.name if file.stem in _NAMELESS else file.stem.removeprefix("instances_").removeprefix("captions_")
    )


def _of_split(files: dict[str, Path], split: str) -> dict[str, Path]:
    if split in files:
        return {split: files[split]}
    found = {name: file for name, file in files.items() if split.lower() in _words(name) | _words(file.stem)}
    instances = {name: file for name, file in found.items() if file.stem.startswith("instances_")}
    return instances or found


def _words(name: str) -> set[str]:
    """`instances_val2017` -> instances, val, val2017."""
    parts = re.split(r"[_\-.\s]+", name.lower())
    return {part for part in parts if part} | {part.rstrip("0123456789") for part in parts} - {""}
