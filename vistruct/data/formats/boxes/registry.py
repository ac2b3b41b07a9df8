"""Which box format lies at a path, and the one way to read or write any of them.

A format is a module here with

    looks_like(path) -> bool        # cheap; of a file or a folder
    walk(path, images, report, stop, *, split, missing) -> (records, class_names)
    write(out, records, class_names) -> IssueCounter      # where people exchange the format

A new one is one line in FORMATS, and one in WRITERS if it can be written.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.places import find_places, split_lists
from vistruct.errors import UserError, closest
from vistruct.issues import IssueCounter

# Imported only when asked for. The order is that of the messages.
FORMATS = {
    "coco": "vistruct.data.formats.boxes.coco",
    "dota": "vistruct.data.formats.boxes.dota",
    "voc": "vistruct.data.formats.boxes.voc",
    "dior": "vistruct.data.formats.boxes.dior",
    "dior_r": "vistruct.data.formats.boxes.dior_r",
    "fair1m": "vistruct.data.formats.boxes.fair1m",
    "hrsc": "vistruct.data.formats.boxes.hrsc",
    "hrsc_classes": "vistruct.data.formats.boxes.hrsc_classes",
    "yolo": "vistruct.data.formats.boxes.yolo",
    "xview": "vistruct.data.formats.boxes.xview",
}
_BY_ENDING = {".json": "coco", ".jsonl": "coco", ".geojson": "xview", ".xml": "voc", ".yaml": "yolo", ".yml": "yolo"}


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a format is written, where its images lie, and what it has room for."""

    module: str
    images: str  # folder of the images, beside the annotations
    layout: str  # in words, for `--help`
    function: str = "write"
    quads: bool = False
    masks: bool = False
    keypoints: bool = False
    is_crowd: bool = False
    is_difficult: bool = False
    notes: bool = False
    empty_classes: bool = True  # whether a class without objects, and the order of the classes, can be told


WRITERS = {
    "coco": Writer(
        module=FORMATS["coco"],
        images="images",
        layout="annotations.json, images/",
        quads=True,
        masks=True,
        keypoints=True,
        is_crowd=True,
        is_difficult=True,
    ),
    "dota": Writer(
        module=FORMATS["dota"],
        images="images",
        layout="labelTxt/*.txt, images/",
        quads=True,
        is_difficult=True,
        notes=True,
        empty_classes=False,
    ),
    "voc": Writer(
        module=FORMATS["voc"],
        images="JPEGImages",
        layout="Annotations/*.xml, JPEGImages/",
        is_difficult=True,
        empty_classes=False,
    ),
    "fair1m": Writer(
        module=FORMATS["fair1m"],
        images="images",
        layout="labelXml/*.xml, images/",
        quads=True,
        empty_classes=False,
    ),
    "yolo": Writer(module=FORMATS["yolo"], images="images", layout="data.yaml, labels/*.txt, images/", masks=True),
    "yolo-obb": Writer(
        module=FORMATS["yolo"],
        function="write_oriented",
        images="images",
        layout="data.yaml, labels/*.txt, images/",
        quads=True,
    ),
}


def writer(name: str) -> tuple[Writer, Callable[[Path, Sequence[Record], Sequence[str]], IssueCounter]]:
    """What a format has room for, and the function that writes it.

    Raises:
        UserError: it is not written here.
    """
    if name not in WRITERS:
        what = f"{name!r} is read, but not written" if name in FORMATS else f"no box format {name!r}"
        raise UserError(what, fix=closest(name, WRITERS))
    one = WRITERS[name]
    return one, getattr(importlib.import_module(one.module), one.function)


def module_of(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: no format of that name.
    """
    if name not in FORMATS:
        raise UserError(f"no box format {name!r}", fix=closest(name, FORMATS))
    return importlib.import_module(FORMATS[name])


def matching(path: Path) -> list[str]:
    """Every box format that a file or folder looks like."""
    return [name for name in FORMATS if module_of(name).looks_like(Path(path))]


def detect_boxes(path: Path) -> str:
    """The one box format that a file or folder looks like.

    Raises:
        UserError: none, or several.
    """
    path = Path(path)
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    found = matching(path)
    if not found and path.is_file():
        found = (
            [_BY_ENDING[path.suffix.lower()]] if path.suffix.lower() in _BY_ENDING else []
        )  # its reader says what is wrong
    if len(found) == 1:
        return found[0]
    if found:
        what = f"several annotation formats are here: {', '.join(found)}"
        raise UserError(what, where=path, fix=f"say which is meant: format={found[0]}; or name its file or folder")
    what = f"no box annotations are found here; known formats: {', '.join(FORMATS)}"
    raise UserError(what, where=path, fix="name the annotation file, or the folder that holds images and annotations")


def splits_of(path: Path, name: str) -> tuple[str, ...]:
    """The splits of a data set of a known format, of which one (or several, with a plus) must be chosen.

    Returns:
        their names; nothing where there is nothing to choose.
    """
    module, path = module_of(name), Path(path)
    if hasattr(module, "splits"):
        found = tuple(module.splits(path))
    elif path.is_dir() and hasattr(module, "LAYOUT"):
        places = find_places(path, module.LAYOUT)
        first = next(iter(places.values()), None)
        lists = split_lists(path, *first[0].annotations.parents[:2]) if first else {}
        found = tuple(lists if lists and sum(map(len, places.values())) == 1 else places)
    else:
        found = ()
    return found if len(found) > 1 else ()


def read_boxes(
    path: Path,
    images: Path | None = None,
    *,
    format: str = "auto",
    split: str | None = None,
    missing: Literal["stop", "drop"] = "stop",
    class_names: Sequence[str] | None = None,
) -> tuple[list[Record], tuple[str, ...], IssueCounter]:
    """Read a data set of boxes, whatever its format.

    Args:
        path: the annotation file, or the folder of the data set.
        images: the folder that image names start from; None: where the format has them.
        format: one of FORMATS; "auto": found by looking.
        split: which part, by the name it has on disk (train, val, test, ...); None: the only one there is.
        missing: what an annotated image that is not on disk does: stop with an error, or drop out and be counted.
        class_names: the classes to number labels by, such as those of a trained model; None: the data set's own.

    Returns:
        One record an image, the class names, and what was left out or repaired.

    Raises:
        UserError: no format or several, no such split or several, a class that `class_names` does not have, and
            everything that would make training wrong, with file and line.
    """
    report = IssueCounter()
    name = detect_boxes(path) if format == "auto" else format
    records, found = module_of(name).walk(Path(path), images, report, _raise, split=split, missing=missing)
    if class_names is None:
        return records, found, report
    return renumbered(records, found, class_names, path), tuple(class_names), report


def renumbered(records: list[Record], found: Sequence[str], class_names: Sequence[str], where: object) -> list[Record]:
    """The records with labels that count in another list of classes.

    Raises:
        UserError: a class with objects that the list does not have.
    """
    used = {int(label) for record in records for label in np.unique(record.labels)}
    for label in sorted(used):
        if found[label] not in class_names:
            raise UserError(
                f"no class {found[label]!r} is asked for", where=where, fix=closest(found[label], class_names)
            )
    number = {name: index for index, name in enumerate(class_names)}
    to = np.array([number.get(name, -1) for name in found] or [-1], np.int64)
    return [replace(record, labels=to[record.labels]) for record in records]


def _raise(error: UserError) -> NoReturn:
    raise error
