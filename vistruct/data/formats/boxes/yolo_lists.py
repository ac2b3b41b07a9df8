"""Splits of YOLO data sets that are lists of images, as darknet has them.

obj.data                        names = obj.names, train = train.txt, valid = valid.txt, ...
obj.names, train.txt, ...       the same without it
train.txt                       an image a line, its path as from this folder, or as from one above (`data/...`)
"""

from __future__ import annotations

import os
from pathlib import Path

from vistruct.data.formats.boxes.image_names import ImageFolder, is_rooted, parts_of, record_ids
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.text import read_text

_SPLITS = ("train", "val", "valid", "test")


def data_file(folder: Path) -> Path | None:
    """The darknet file of a folder that says where lists and names are; None: there is none.

    Raises:
        UserError: several.
    """
    found = [file for file in sorted(folder.glob("*.data")) if file.is_file() and _SPLITS[0] in _settings(file)]
    if len(found) > 1:
        where = f"{folder}: {', '.join(file.name for file in found)}"
        raise UserError("several darknet files describe this data set", where=where, fix=f"name one: {found[0]}")
    return found[0] if found else None


def of_data_file(file: Path) -> tuple[dict[str, tuple[Path, ...]], Path | None]:
    """The lists of images by split, and the file of class names.

    Raises:
        UserError: it cannot be read, or names no list.
    """
    said = _settings(file)
    lists = {split: (_beside(file, said[split]),) for split in _SPLITS if said.get(split)}
    own: dict[str, tuple[Path, ...]] = {}
    for split, places in lists.items():
        if places not in own.values():  # a data set without splits names one list twice, for train and valid
            own[split] = places
    if not own:
        raise UserError("no train, valid or test in this darknet file", where=file, fix="train = train.txt")
    return own, _beside(file, said["names"]) if said.get("names") else None


def of_lists(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Lists of images in a folder that are called as splits are."""
    files = {split: folder / f"{split}.txt" for split in _SPLITS}
    return {split: (file,) for split, file in files.items() if file.is_file() and _lists_images(file)}


def read_list(file: Path) -> list[tuple[str, Path]]:
    """The images of a list, each with the name of its record.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    lines = [line.strip().removeprefix("./") for line in read_text(file).splitlines() if line.strip()]
    folder = ImageFolder(file.parent, is_named=False, is_list=True)
    names = record_ids(lines) if any(map(is_rooted, lines)) else lines
    return [(name, folder.find(line) or file.parent / line) for name, line in zip(names, lines, strict=True)]


def _settings(file: Path) -> dict[str, str]:
    """Lines `key = value`; the others are read over."""
    try:
        lines = read_text(file).splitlines()
    except UserError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _beside(file: Path, name: str) -> Path:
    """A file that the darknet file names: as it says, or by its end."""
    parts = parts_of(name)
    tried = [file.parent / name, *(file.parent.joinpath(*parts[start:]) for start in range(len(parts)))]
    return next((one for one in tried if os.path.isfile(one)), tried[0])


def _lists_images(file: Path) -> bool:
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        first = next((line.strip() for line in opened if line.strip()), "")
    return Path(first.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES
