"""Text files that choose the images of a split, with or without their classes. Each of these lines is read:

    AnnualCrop_142.jpg                     a name alone: found in the folders of the classes
    airplane/airplane_001.jpg              with its folder, which is its class
    airplane_001.jpg airplane              a name and a class
    airplane/airplane_001.jpg 0            a name and the number of a class, from 0, in the order of `classes`
    airplane/airplane_001.jpg airplane 0   both, which must agree

Source of the shapes: the published lists of EuroSAT and RESISC45 as torchgeo has them (`eurosat-train.txt`), and those
of RSP and MTP (`train_labels_28_mtp.txt`, mmpretrain's annotation files). Numbers count in the sorted names of the
folders unless `classes` are given, as those tools count.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import MISSING_IMAGE
from vistruct.data.formats.classes.folders import ABSENT, below, images_in, split_folders
from vistruct.data.formats.classes.lines import chosen_splits, refuse_straddlers
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.order import class_order
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError, closest, typed
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

_SPLIT = re.compile(r"(?:.*[-_.])?(?P<split>train|val|valid|validation|test|trainval)(?:[-_.].*)?\.txt", re.IGNORECASE)
_ENDINGS = "|".join(ending[1:] for ending in sorted(IMAGE_SUFFIXES))
_LINE = re.compile(rf"(?P<name>.*?\.(?:{_ENDINGS}))(?:[\s,]+(?P<rest>.*\S))?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ListLine:
    """A line of a list."""

    name: str
    said: str  # of the class; "": nothing
    where: str


def looks_like(root: Path) -> bool:
    """Whether there are lists of splits beside folders of images, and each line of theirs begins with an image."""
    if not root.is_dir():
        return root.suffix.lower() == ".txt" and root.is_file() and _begins_with_image(root)
    found = find_lists(root, None)
    return bool(found) and all(_begins_with_image(file) for file in found.values())


def splits(root: Path) -> tuple[str, ...]:
    """Those that have a list."""
    return tuple(find_lists(root, None))


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record a line."""
    files = find_lists(root, ask.lists)
    if not files:
        wanted = ask.lists or "train.txt, val.txt"
        raise UserError(f"no lists of splits here: {wanted}", where=root, fix="--lists 'lists/{split}.txt', say")
    names = chosen_splits(ask.split, list(files), root)
    entries = {split: _entries(file, stop) for split, file in files.items()}
    refuse_straddlers({split: [one.name for one in found] for split, found in entries.items()}, stop, root)
    finder = _Finder(below(root, ask.images))
    said = {_word(one.said) for found in entries.values() for one in found if one.said}
    words = {word for word in said if not word.isdecimal()}
    class_names = class_order(sorted(words) or finder.classes, ask.classes, where=root, stop=stop)
    numbers = {name: number for number, name in enumerate(class_names)}
    records: list[Record] = []
    for split in names:
        for one in entries[split]:
            path = finder.find(one, stop)
            if path is None:
                what = UserError(
                    "a listed image is not on disk", where=f"{one.where}: {one.name}", fix="check the list"
                )
                stop(what) if ask.missing == "stop" else report.note(MISSING_IMAGE, f"{one.where}: {one.name}")
                continue
            label = _label(one, path.parent.name, numbers, stop)
            if label is not None:
                records.append(
                    Record(id=path.relative_to(finder.top).as_posix(), images=(path,), image_labels=(label,))
                )
        present = {one.image_labels for one in records}
        absent = [number for number in range(len(class_names)) if (number,) not in present]
        anywhere = _listed(entries, finder, numbers) if absent else set()
        for name in (class_names[number] for number in absent if class_names[number] not in ask.drop):
            where = f"{files[split]}: {name}"
            if numbers[name] in anywhere:
                report.note(ABSENT, where, "kept")  # a rare class need not be in every split
            else:
                stop(UserError("a class without images", where=where, fix=f"list some, or {typed('--drop', [name])}"))
    return Walked(records=records, class_names=class_names, annotations=tuple(files.values()))


def _listed(entries: Mapping[str, Sequence[ListLine]], finder: _Finder, numbers: dict[str, int]) -> set[int | None]:
    """The classes that the lists of all splits have, as far as their lines can be read."""
    found = set()
    for one in (one for own in entries.values() for one in own):
        path = None if one.said else finder.find(one, lambda _: None)
        found.add(_label(one, (path or Path(one.name)).parent.name, numbers, lambda _: None))
    return found


def find_lists(root: Path, lists: str | None) -> dict[str, Path]:
    """The list of each split, by its name.

    Args:
        root: the folder of the data set, or a list.
        lists: a path below the root with {split} in it; None: any text file there, or in `splits`, that is called so.
    """
    if root.is_file():
        return {root.stem: root}
    if lists is not None:
        pattern = re.compile(re.escape(Path(lists).name).replace(r"\{split\}", "(?P<split>.+)"))
        found = [(pattern.fullmatch(file.name), file) for file in sorted((root / lists).parent.glob("*"))]
        return {match.groupdict().get("split") or file.stem: file for match, file in found if match}
    for folder in (root, root / "splits", root / "lists", root / "mtp"):
        found = [(_SPLIT.fullmatch(file.name), file) for file in sorted(folder.glob("*.txt"))]
        chosen = {match["split"].lower(): file for match, file in found if match}
        if chosen:
            return chosen
    return {}


def _begins_with_image(file: Path) -> bool:
    first = next((line for line in read_text(file, may_be_empty=True).splitlines() if line.strip()), "")
    return _LINE.fullmatch(first) is not None


def _entries(file: Path, stop: Stop) -> list[ListLine]:
    entries: list[ListLine] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        match = _LINE.fullmatch(line)
        if match is None:
            stop(UserError(f"a line without the name of an image: {line[:60]!r}", where=where, fix="NAME.jpg CLASS"))
            continue
        name = match["name"].strip().replace("\\", "/")
        if name in seen:
            stop(UserError(f"{name} is listed twice, first in line {seen[name]}", where=where, fix="remove one"))
            continue
        seen[name] = number
        entries.append(ListLine(name=name, said=match["rest"] or "", where=where))
    return entries


def _word(said: str) -> str:
    """The class that a line names: without its number behind, where there are both."""
    name, _, number = said.rpartition(" ")
    return name.strip() if name.strip() and number.isdecimal() else said


def _label(one: ListLine, folder: str, numbers: dict[str, int], stop: Stop) -> int | None:
    """The number of the class that a line says, or else the folder of its image."""
    names = list(numbers)
    said = _word(one.said) or folder
    if said in numbers:
        label = numbers[said]
    elif said.isdecimal() and len(said) < 10 and int(said) < len(names):
        label = int(said)
    else:
        fix = f"numbers from 0 to {len(names) - 1}" if said.isdecimal() else closest(said, names)
        stop(UserError(f"no class {said!r}", where=one.where, fix=fix))
        return None
    number = one.said.rpartition(" ")[2]
    if number != said and number.isdecimal() and number.lstrip("0") != str(label or ""):
        what = f"class {said!r} is number {label}, and the line says {number}"
        stop(UserError(what, where=one.where, fix="--classes NAME,NAME in the order of the list's numbers"))
    return label


class _Finder:
    """Where the image of a name lies: below the images' folder, or in that of any class."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.classes = [
            child.name
            for folder in split_folders(top).values()
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.name.startswith(".") and images_in(child)
        ]
        self.by_name: dict[str, list[Path]] | None = None  # made when the first name needs it

    def find(self, one: ListLine, stop: Stop) -> Path | None:
        path = self.top / one.name
        if os.path.isfile(path):
            return path
        if self.by_name is None:
            self.by_name = defaultdict(list)
            for file in images_in(self.top):
                self.by_name[file.name].append(file)
        found = self.by_name.get(one.name.rpartition("/")[2], [])
        ending = Path(one.name).parts
        found = [file for file in found if file.parts[-len(ending) :] == ending]
        if len(found) > 1:
            told = " and ".join(file.relative_to(self.top).as_posix() for file in found[:2])
            stop(UserError(f"{one.name} may be {told}", where=one.where, fix="list it with its folder"))
        return found[0] if found else None


FORMAT = Format(kind="image_classes", looks_like=looks_like, splits=splits, walk=walk)
