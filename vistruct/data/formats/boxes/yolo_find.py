"""Where the images, labels and class names of a YOLO data set lie.

    data.yaml                       names, and for each split a folder of images, a list of such, or a text file that
                                    lists images; all relative to its `path`, or to itself
    images/S/, labels/S/            the same without a yaml, S being a split; or S/images/, S/labels/
    images/, labels/                a single split
    a folder of images and .txt     the labels beside their images; or such a folder a split
    obj.data, or lists of images    darknet: `yolo_lists`

The labels of an image are in a text file of its name, in the folder that has `labels` where the image has `images`, or
beside the image.
Class names without a yaml: classes.txt, obj.names or any .names, one a line.
"""

from __future__ import annotations

import filecmp
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from vistruct.data.formats.boxes.yolo_lists import data_file, of_data_file, of_lists, read_list
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.text import read_text
from vistruct.read_yaml import from_yaml

SPLITS = ("train", "val", "valid", "test")  # the keys of a yaml

_NAMES = ("classes.txt", "obj.names", "labels/classes.txt")
_SAMPLED = 5  # label files looked into


@dataclass(frozen=True, kw_only=True)
class YoloLayout:
    """What a data set says of itself before any label is read."""

    splits: dict[str, tuple[Path, ...]]  # folders of images, or text files that list images
    class_names: tuple[str, ...] | None  # None: nowhere
    keypoint_shape: tuple[int, int] | None = None  # of each object how many, of 2 or 3 numbers


def find_layout(path: Path, images: Path | None = None) -> YoloLayout:
    """What a yaml or a darknet file says, or what the lists or the folders are.

    Args:
        images: the folder of the images, where they lie elsewhere.

    Raises:
        UserError: no data set of this kind, several yaml files, or one that does not say what it must.
    """
    if path.is_file():
        return _of_yaml(path) if path.suffix in (".yaml", ".yml") else _of_darknet(path)
    found = _yaml_files(path) if path.is_dir() else []
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"several yaml files describe this data set: {names}", where=path, fix="name one of them")
    if found:
        return _of_yaml(found[0])
    darknet = data_file(path) if path.is_dir() else None
    if darknet is not None:
        return _of_darknet(darknet)
    splits = _of_folders(path) if path.is_dir() else {}
    if len(splits) < 2 and path.is_dir():
        splits = of_lists(path) or splits
    if not splits and images is not None:
        splits = {path.name: (images,)}
    if not splits:
        fix = "a YOLO data set is a data.yaml, or the folders images and labels"
        raise UserError("no images with YOLO labels here", where=path, fix=fix)
    return YoloLayout(splits=splits, class_names=_listed_names(path))


def looks_like(path: Path) -> bool:
    """Whether it is a YOLO yaml, or a folder whose label files hold numbers as YOLO's do."""
    if path.is_file():
        return _is_yaml(path) or (path.suffix == ".data" and bool(_named_lists(path)))
    if not path.is_dir():
        return False
    if _yaml_files(path) or any(_named_lists(file) for file in path.glob("*.data")):
        return True
    splits = _of_folders(path)
    firsts = [folder for folders in splits.values() for folder in folders]
    return any(_has_labels(folder) for folder in firsts) or any(map(_list_has_labels, of_lists(path).values()))


def images_of(places: Sequence[Path]) -> list[tuple[str, Path]]:
    """The images of a split, each with its name below the folder (or list) that it is from.

    Raises:
        UserError: a folder or list that is not there.
    """
    found: list[tuple[str, Path]] = []
    for place in places:
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            found += [(file.relative_to(place).as_posix(), file) for file in files]
        else:
            found += read_list(place)
    return found


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder `images` on its way becomes `labels`; or else beside it.

    Raises:
        UserError: different labels in both places.
    """
    swapped, beside = swapped_file(image), image.with_suffix(".txt")
    if swapped == beside or not beside.is_file():
        return swapped
    if not swapped.is_file():
        return beside
    if not filecmp.cmp(swapped, beside, shallow=False):
        what = "an image with different labels beside it and in the folder of labels"
        raise UserError(what, where=f"{swapped}, {beside}", fix="keep one of the two files")
    return swapped


def swapped_file(image: Path) -> Path:
    """The text file of an image in the folder that has `labels` where the image has `images`."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _of_darknet(file: Path) -> YoloLayout:
    splits, names = of_data_file(file)
    listed = _listed_names(file.parent) if names is None else _names(_lines(names), None, names)
    return YoloLayout(splits=splits, class_names=listed)


def _named_lists(file: Path) -> bool:
    try:
        return any(place.is_file() for places in of_data_file(file)[0].values() for place in places)
    except UserError:
        return False


def _list_has_labels(places: tuple[Path, ...]) -> bool:
    try:
        images = [image for place in places for _, image in read_list(place)[:_SAMPLED]]
        rows = [row for image in images if (file := label_file(image)).is_file() for row in _first_row(file)]
    except UserError:
        return False
    return bool(rows) and all(map(_is_row, rows))


def _yaml_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if _is_yaml(file)]


def _is_yaml(file: Path) -> bool:
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return False
    try:
        content = from_yaml(read_text(file))
    except (yaml.YAMLError, UserError):
        return False
    return isinstance(content, dict) and "names" in content and any(split in content for split in SPLITS)


def _of_yaml(file: Path) -> YoloLayout:
    try:
        content = from_yaml(read_text(file))
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f"{file}, line {mark.line + 1}" if mark else file
        raise UserError("not valid yaml", where=where, fix="correct this line") from error
    if not isinstance(content, dict) or "names" not in content:
        raise UserError("no `names` in this yaml", where=file, fix="a YOLO data.yaml has names, train and val")
    splits = {
        split: tuple(_resolved(file, content.get("path"), place) for place in _several(content[split]))
        for split in SPLITS
        if content.get(split)
    }
    if not splits:
        raise UserError("no train, val or test in this yaml", where=file, fix="say where the images are")
    own: dict[str, tuple[Path, ...]] = {}
    for split, places in splits.items():
        if places not in own.values():  # a data set without splits names one folder twice, for train and val
            own[split] = places
    return YoloLayout(
        splits=own,
        class_names=_names(content["names"], content.get("nc"), file),
        keypoint_shape=_keypoint_shape(content.get("kpt_shape"), file),
    )


def _several(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _resolved(file: Path, root: Any, place: str) -> Path:
    """A place of a yaml on this disk; yaml files move, so the folders above are tried one after the other."""
    base = file.parent if root in (None, "") else file.parent / str(root)
    down = [part for part in Path(place).parts if part != ".."]  # exports say ../train/images where it is beside them
    told = [one for one in (base / place, file.parent / place) if one.exists()]
    home = file.parent.joinpath(*down)
    if not home.exists():
        return told[0] if told else base / place
    if told and not told[0].samefile(home):
        fix = f"write the one that is meant into the yaml, from its folder on: {home.relative_to(file.parent)}"
        raise UserError("two folders could be meant", where=f"{file}, {place}: {told[0]}, {home}", fix=fix)
    return told[0] if told else home


def _names(value: Any, count: Any, file: Path) -> tuple[str, ...]:
    if isinstance(value, dict) and sorted(value) == list(range(len(value))):
        names = tuple(str(value[number]) for number in range(len(value)))
    elif isinstance(value, list):
        names = tuple(str(name) for name in value)
    else:
        fix = "for example names: {0: ship, 1: car}"
        raise UserError("names are a list, or numbered from 0 without gaps", where=file, fix=fix)
    if not names or len(set(names)) < len(names):
        raise UserError("names are empty or one comes twice", where=file, fix="give each class its own name")
    if isinstance(count, int) and count != len(names):
        raise UserError(f"nc is {count}, but there are {len(names)} names", where=file, fix="correct one of them")
    return names


def _keypoint_shape(value: Any, file: Path) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, int) for one in value):
        count, size = value
        if count > 0 and size in (2, 3):
            return count, size
    what = f"kpt_shape is [number of points, 2 or 3], this is {value!r}"
    raise UserError(what, where=file, fix="for example kpt_shape: [17, 3]")


def _of_folders(path: Path) -> dict[str, tuple[Path, ...]]:
    images, labels = path / "images", path / "labels"
    if images.is_dir() and labels.is_dir():
        inner = [one for one in sorted(images.iterdir()) if one.is_dir() and (labels / one.name).is_dir()]
        if inner and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in images.iterdir()):
            return {one.name: (one,) for one in inner}
        return {path.name: (images,)}
    pairs = [one for one in sorted(path.iterdir()) if (one / "images").is_dir() and (one / "labels").is_dir()]
    if pairs:
        return {one.name: (one / "images",) for one in pairs}
    if _has_both(path):
        return {path.name: (path,)}
    return {one.name: (one,) for one in sorted(path.iterdir()) if one.is_dir() and _has_both(one)}


def _has_both(folder: Path) -> bool:
    """Whether an image has its labels beside it."""
    return any(
        file.suffix.lower() in IMAGE_SUFFIXES and file.with_suffix(".txt").is_file() for file in folder.iterdir()
    )


def _listed_names(path: Path) -> tuple[str, ...] | None:
    files = [path / name for name in _NAMES] + sorted(path.glob("*.names"))
    for file in files:
        if file.is_file():
            return _names(_lines(file), None, file)
    return None


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _has_labels(folder: Path) -> bool:
    """Whether the first label files have rows of numbers; none with a row at all is no contradiction beside
    `images`."""
    found = swapped_file(folder / "x.jpg").parent.rglob("*.txt")
    files = list(islice((file for file in found if file.name != "classes.txt" and file.is_file()), _SAMPLED))
    rows = [row for file in files for row in _first_row(file)]
    return all(_is_row(row) for row in rows) and bool(rows or (files and folder.name == "images"))


def _first_row(file: Path) -> list[list[str]]:
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        line = next((line for line in opened if line.strip()), None)
    return [] if line is None else [line.split()]


def _is_row(row: list[str]) -> bool:
    try:
        numbers = [float(word) for word in row]
    except ValueError:
        return False
    return len(numbers) >= 5 and math.isfinite(numbers[0]) and numbers[0] == int(numbers[0])
