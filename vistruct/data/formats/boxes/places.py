"""Where a data set with one annotation file an image keeps them: its folders, its splits and its lists of names.

Found are, below a root: a folder of annotations with a folder of images beside it (`labelTxt` + `images`); one such
pair a split (`train/labelTxt` + `train/images`); splits inside (`labelTxt/train` + `images/train`) or in the names
(`Annotations_train` + `JPEGImages_train`); parts of a split (`train/part1`, `train/part2`), which are put together;
lists of names that choose from one folder of annotations (`ImageSets/Main/train.txt`); annotation files beside their
images. Capitals in names do not matter.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.data.formats.splits import chosen, read_list
from vistruct.errors import UserError

_PART = re.compile(r"part[-_ ]?\d+", re.IGNORECASE)
_SPLIT = re.compile(r"((train|val|test)[a-z]*|(train|val|test).*_(train|val|test))\d*", re.IGNORECASE)
_MAX_DEPTH = 2  # folders between the root and that of the annotations: a split, a part


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the folders of a format are called."""

    suffix: str  # of an annotation file
    annotations: re.Pattern[str]  # may have a group "split"
    images: re.Pattern[str]  # likewise


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder of annotation files, and the folders that hold their images."""

    annotations: Path
    images: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """The annotation file of one image, and the folders that hold the image."""

    annotation: Path
    images: tuple[Path, ...]


def find_sources(
    root: Path, images: Path | None, split: str | None, layout: Layout
) -> tuple[list[AnnotationFile], bool]:
    """Every annotation file of one split, in the order of its list or else of the names.

    Args:
        root: the folder of the data set, of a split, or of annotations; or one annotation file.
        images: the folder of the images; None: found.
        split: "train", or several as "train+val"; None: the only one there is.

    Returns:
        The files, and whether the images in their folders should all have one (no list chose from them).

    Raises:
        UserError: nothing there, no such split, or several and none is asked for.
    """
    if root.is_file():
        place = _place(root.parent, root.parent, "", layout)
        return [AnnotationFile(annotation=root, images=place.images if images is None else (images,))], False
    if not root.is_dir():
        raise UserError("no such file or folder", where=root, fix="check the path")
    places = find_places(root, layout)
    if not places:
        raise UserError(
            f"no folder of *{layout.suffix} annotations here", where=root, fix="name the folder they are in"
        )
    first = next(iter(places.values()))[0]
    lists = split_lists(root, first.annotations.parent, first.annotations.parent.parent)
    if lists and sum(map(len, places.values())) == 1:
        stems = [stem for name in chosen(split, lists, root) for stem in read_list(lists[name])]
        files = [first.annotations / f"{stem}{layout.suffix}" for stem in dict.fromkeys(stems)]
        _refuse_absent(files, lists, split, root)
        folders = first.images if images is None else _below(images, split)
        return [AnnotationFile(annotation=file, images=folders) for file in files], False
    if split is not None and list(places) == [""] and root.name.lower() == split.lower():
        split = None  # the folder of this split was named
    names = chosen(split, places, root)
    meant = [place for name in names for place in places[name]]
    for name in names:
        _refuse_versions(places[name], root)
    others = {folder for name in places if name not in names for place in places[name] for folder in place.images}
    is_all = images is None and not others & {folder for place in meant for folder in place.images}
    return [
        AnnotationFile(annotation=file, images=place.images if images is None else _below(images, split))
        for place in meant
        for file in _files(place, layout)
    ], is_all


def find_places(root: Path, layout: Layout) -> dict[str, list[Place]]:
    """The places below a root by split; "" where a folder has no splits."""
    if layout.annotations.fullmatch(root.name):
        found = _splits_inside(root, layout)
        if found:
            return found
    found = _places(root, layout, _MAX_DEPTH)
    return found if found or not _has(root, layout.suffix) else {"": [_place(root, root.parent, "", layout)]}


def splits_in(root: Path, layout: Layout) -> tuple[str, ...]:
    """The names of the splits of a folder: of lists that choose from one place, else of the places."""
    places = find_places(root, layout) if root.is_dir() else {}
    first = next(iter(places.values()), None)
    lists = split_lists(root, *first[0].annotations.parents[:2]) if first else {}
    return tuple(lists if lists and sum(map(len, places.values())) == 1 else places)


def first_files(root: Path, layout: Layout, most: int = 20) -> Iterable[Path]:
    """A few annotation files below a root, to see what they are."""
    if root.is_file():
        yield from [root] if root.name.lower().endswith(layout.suffix) else []
    elif root.is_dir():
        for places in find_places(root, layout).values():
            for place in places:
                yield from _files(place, layout)[:most]


def split_lists(*roots: Path) -> dict[str, Path]:
    """The lists of names that choose a split, by its name; those of VOC that also name a class are not among them."""
    for root in roots:
        for folder in (root / "ImageSets" / "Main", root / "ImageSets", root / "Main", root / "splits"):
            lists = {file.stem: file for file in sorted(folder.glob("*.txt"))}
            if lists:
                return {
                    name: file
                    for name, file in lists.items()
                    if name.rpartition("_")[2] not in lists or "_" not in name
                }
    return {}


def _refuse_absent(files: Sequence[Path], lists: dict[str, Path], split: str | None, root: Path) -> None:
    absent = [file for file in files if not file.is_file()]
    if absent:
        shown = ", ".join(str(file) for file in absent[:3]) + (", ..." if len(absent) > 3 else "")
        what = f"{len(absent)} of {len(files)} listed annotation files are not on disk: {shown}"
        where = lists.get(split or "", root)
        raise UserError(what, where=where, fix="copy them, or take them from the list")


def _refuse_versions(places: Sequence[Place], root: Path) -> None:
    """Several annotations of the same images are not parts of one data set."""
    seen: dict[Path, Place] = {}
    for place in places:
        for folder in place.images:
            if folder in seen:
                what = (
                    f"two folders of annotations for the same images: {seen[folder].annotations}, {place.annotations}"
                )
                raise UserError(what, where=root, fix="name the one you mean")
        seen |= dict.fromkeys(place.images, place)


def _places(folder: Path, layout: Layout, depth: int) -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    children = _folders(folder)
    for child in children:
        if layout.annotations.fullmatch(child.name):
            for name, places in _splits_inside(child, layout).items():
                found.setdefault(name, []).extend(places)
    if found or depth == 0:
        return found
    below = {child: _places(child, layout, depth - 1) for child in children if not layout.images.fullmatch(child.name)}
    times = Counter(name for child, places in below.items() if not _PART.fullmatch(child.name) for name in places)
    for child, inside in below.items():
        for name, places in inside.items():
            if not _PART.fullmatch(child.name):
                name = f"{child.name}/{name}" if name and times[name] > 1 else name or child.name
            found.setdefault(name, []).extend(places)
    return found


def _splits_inside(folder: Path, layout: Layout) -> dict[str, list[Place]]:
    """A folder of annotations, or those in it."""
    match = layout.annotations.fullmatch(folder.name)
    name = (match.groupdict().get("split") or "") if match else ""
    if _has(folder, layout.suffix):
        return {name: [_place(folder, folder.parent, name, layout)]}
    found: dict[str, list[Place]] = {}
    for child in _folders(folder):
        if _has(child, layout.suffix):
            split = child.name if _SPLIT.fullmatch(child.name) else name
            found.setdefault(split, []).append(_place(child, folder.parent, split, layout))
    return found


def _place(annotations: Path, beside: Path, split: str, layout: Layout) -> Place:
    """With the image folders in `beside`, or else in its parent: of the split, else of no split, else all of them."""
    splits: dict[Path, str] = {}
    for folder in (beside, beside.parent):
        matches = {child: layout.images.fullmatch(child.name) for child in _folders(folder)}
        splits = splits or {child: match.groupdict().get("split") or "" for child, match in matches.items() if match}
    of_split = [child for child, name in splits.items() if name.lower() == split.lower()]
    folders = of_split or [child for child, name in splits.items() if not name] or list(splits)
    folders = [folder for top in folders for folder in _below(top, split)]
    return Place(annotations=annotations, images=tuple(folders) or (annotations,))


def _below(images: Path, split: str | None) -> tuple[Path, ...]:
    """The folders of a split inside a folder of images; the folder itself where it has none for it."""
    names = [name.lower() for name in split.split("+")] if split else []
    inside = [child for child in _folders(images) if child.name.lower() in names]
    return tuple(inside) if len(inside) == len(names) > 0 else (images,)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, without hidden ones."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _has(folder: Path, suffix: str) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(suffix) and not entry.name.startswith(".") for entry in entries)


def _files(place: Place, layout: Layout) -> list[Path]:
    with os.scandir(place.annotations) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(layout.suffix)]
    return [place.annotations / name for name in sorted(names) if not name.startswith(".")]
