"""Which way images have their classes, and the one way to read any of them.

A format is a module here with

    looks_like(root) -> bool            # cheap
    splits(root, lists) -> tuple        # names of the splits it has on disk; nothing where there are none
    annotations(root, lists) -> list    # files beside the images that say their classes
    walk(root, report, stop, ask) -> (records, class_names)

The classes are those of all splits together, so that a number means the same class in each.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.boxes.places import chosen
from vistruct.errors import UserError, closest
from vistruct.issues import IssueCounter

FORMATS = {
    "csv": "vistruct.data.formats.classes.csv",
    "list": "vistruct.data.formats.classes.lists",
    "folders": "vistruct.data.formats.classes.folders",
}
IN_TWO_SPLITS = "image in two splits"
_ALSO = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of a data set."""

    split: str | None = None  # None: the only one, or all where there are none
    images: str | None = None  # folder of the images below the root
    lists: str | None = None  # a file below the root for each split, with {split} for its name
    classes: tuple[str, ...] | None = None  # names in order; None: the data's own
    multi_label: bool = False
    missing: Literal["stop", "drop"] = "stop"


def module_of(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: no format of that name.
    """
    if name not in FORMATS:
        raise UserError(f"no format of image classes {name!r}", fix=closest(name, FORMATS))
    return importlib.import_module(FORMATS[name])


def detect_classes(root: Path, lists: str | None = None) -> str:
    """How the images of a folder have their classes: the first of FORMATS that it looks like.

    Raises:
        UserError: nothing there, or nothing known.
    """
    root = Path(root)
    if not root.exists():
        raise UserError("no such file or folder", where=root, fix="check the path")
    if lists is not None:
        return "list"
    for name in FORMATS:
        if module_of(name).looks_like(root):
            return name
    what = "no images with classes here: neither a folder of images for each class, nor a list or csv"
    raise UserError(what, where=root, fix="name the folder that holds a folder for each class, or the csv")


def read_classes(root: Path, ask: Ask, *, format: str = "auto") -> tuple[list[Record], tuple[str, ...], IssueCounter]:
    """Every image of a split with its class or classes.

    Returns:
        One record an image, in the order of the names or of the list; the classes; and what was left out.

    Raises:
        UserError: see `detect_classes`; a class without images, a label that no class has, an image that is not
            there or in two splits, no such split or several.
    """
    report = IssueCounter()
    name = detect_classes(root, ask.lists) if format == "auto" else format
    records, class_names = module_of(name).walk(Path(root), report, _raise, ask)
    return records, class_names, report


def chosen_splits(split: str | None, known: Sequence[str], where: object) -> list[str]:
    """The names on disk of what is asked for; val may be called valid or validation.

    Raises:
        UserError: one is unknown; or none is asked for and there are several.
    """
    if split is None:
        return chosen(None, [name for name in known if name != "trainval"] or known, where)
    plain = {_plain(name): name for name in known}
    asked = [plain.get(_plain(part), part) if part not in known else part for part in split.split("+")]
    return chosen("+".join(asked), known, where)


def class_order(found: Iterable[str], classes: tuple[str, ...] | None, stop: Stop, where: object) -> tuple[str, ...]:
    """The classes in the order asked for, or sorted; `stop` is told of those that were not asked for."""
    found = set(found)
    if classes is None:
        return tuple(sorted(found))
    for name in sorted(found - set(classes)):
        stop(UserError(f"no class {name!r} is asked for", where=where, fix=closest(name, classes)))
    return classes


def refuse_straddlers(members: Mapping[str, Iterable[str]], stop: Stop, where: object) -> None:
    """Tell `stop` of every image that is in two splits; trainval may repeat the others."""
    seen: dict[str, str] = {}
    for split, names in members.items():
        if split.lower() == "trainval":
            continue
        for name in names:
            if seen.setdefault(name, split) != split:
                fix = f"take {name} from {seen[name]} or from {split}"
                stop(UserError(f"{IN_TWO_SPLITS}: {seen[name]} and {split}", where=f"{where}: {name}", fix=fix))


def _plain(name: str) -> str:
    return _ALSO.get(name.lower(), name.lower())


def _raise(error: UserError) -> NoReturn:
    raise error
