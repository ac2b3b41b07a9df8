"""Where a data set with one annotation file an image keeps them: its folders, its splits and its lists of names.

Found are, below a root: a folder of annotations with a folder of images beside it (`labelTxt` + `images`); one such
pair a split (`train/labelTxt` + `train/images`); splits inside (`labelTxt/train` + `images/train`) or in the names
(`Annotations_train` + `JPEGImages_train`); parts of a split (`train/part1`, `train/part2`), which are put together;
lists of names that choose from one folder of annotations (`ImageSets/Main/train.txt`); annotation files beside their
images, in one folder or in one a split (`train/a.xml` + `train/a.jpg`). Capitals in names do not matter.

Images are looked for at home first: in the folder of the annotations, where the images of all of them are there; then
in the layout's own folders in it, beside it, and one higher. Annotations of the same images in two folders are a
question, but that of DOTA's own kinds the oriented one is meant and not its hulls (`labelTxt` and not `labelTxt_hbb` or
`trainset_reclabelTxt`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.data.formats.splits import IMAGE_SUFFIXES, chosen, read_list
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

HULLS = "folder of horizontal boxes left out: the oriented ones of the same images are beside it"

_PART = re.compile(r"part[-_ ]?\d+", re.IGNORECASE)
_SPLIT = re.compile(r"((train|val|test)[a-z]*|(train|val|test).*_(train|val|test))\d*", re.IGNORECASE)
_HULLS = re.compile(r".*[-_]hbb|(train|val)set_reclabeltxt", re.IGNORECASE)
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
    root: Path, images: Path | None, split: str | None, layout: Layout, report: IssueCounter | None = None
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
    lists = _lists(root, first)
    if lists and sum(map(len, places.values())) == 1:
        stems = [stem for name in chosen(split, lists, root) for stem in read_list(lists[name])]
        files = [first.annotations / f"{stem}{layout.suffix}" for stem in dict.fromkeys(stems)]
        _refuse_absent(files, lists, split, root)
        folders = first.images if images is None else below(images, split)
        return [AnnotationFile(annotation=file, images=folders) for file in files], False
    if split is not None and list(places) == [""] and root.name.lower() == split.lower():
        split = None  # the folder of this split was named
    names = chosen(split, places, root)
    report = IssueCounter() if report is None else report
    meant = [place for name in names for place in _versions(places[name], root, report)]
    others = {folder for name in places if name not in names for place in places[name] for folder in place.images}
    is_all = images is None and not others & {folder for place in meant for folder in place.images}
    return [
        AnnotationFile(annotation=file, images=place.images if images is None else below(images, split))
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
    if found:
        return found
    if _has(root, layout.suffix):
        return {"": [_place(root, root.parent, "", layout)]}
    return _beside_images(root, layout)


def splits_in(root: Path, layout: Layout) -> tuple[str, ...]:
    """The names of the splits of a folder: of lists that choose from one place, else of the places."""
    places = find_places(root, layout) if root.is_dir() else {}
    first = next(iter(places.values()), None)
    lists = _lists(root, first[0]) if first else {}
    return tuple(lists if lists and sum(map(len, places.values())) == 1 else places)


def first_files(root: Path, layout: Layout, most: int = 20) -> Iterable[Path]:
    """A few annotation files below a root, to see what they are."""
    if root.is_file():
        yield from [root] if root.name.lower().endswith(layout.suffix) else []
    elif root.is_dir():
        for places in find_places(root, layout).values():
            for place in places:
                yield from _files(place, layout)[:most]


def _lists(root: Path, place: Place) -> dict[str, Path]:
    """The lists that choose from a place: not those of a neighbour, where its images are at home."""
    is_home = place.images == (place.annotations,)
    return split_lists(root, *([] if is_home else place.annotations.parents[:2]))


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
    absent = [file for file in files if not os.path.isfile(file)]  # a name may be too long for `is_file`
    if absent:
        shown = ", ".join(str(file) for file in absent[:3]) + (", ..." if len(absent) > 3 else "")
        what = f"{len(absent)} of {len(files)} listed annotation files are not on disk: {shown}"
        where = lists.get(split or "", root)
        raise UserError(what, where=where, fix="copy them, or take them from the list")


def _versions(places: Sequence[Place], root: Path, report: IssueCounter) -> list[Place]:
    """The places without DOTA's hulls of oriented boxes that another place has.

    Raises:
        UserError: several annotations of the same images, which are not parts of one data set.
    """
    drawn = {folder for place in places if not _HULLS.fullmatch(place.annotations.name) for folder in place.images}
    kept: list[Place] = []
    seen: dict[Path, Place] = {}
    for place in places:
        if _HULLS.fullmatch(place.annotations.name) and drawn & set(place.images):
            report.note(HULLS, str(place.annotations))
            continue
        for folder in place.images:
            if folder in seen:
                both = f"{seen[folder].annotations}, {place.annotations}"
                fix = f"name the one that is meant: {place.annotations}"
                raise UserError("two folders of annotations for the same images", where=f"{root}: {both}", fix=fix)
        seen |= dict.fromkeys(place.images, place)
        kept.append(place)
    return kept


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


def _beside_images(root: Path, layout: Layout) -> dict[str, list[Place]]:
    """Folders that hold images and the annotations of some of them, each being a split; parts are put together."""
    found: dict[str, list[Place]] = {}
    for child in _folders(root):
        if _stems(child, {layout.suffix}) & _stems(child, IMAGE_SUFFIXES):
            name = "" if _PART.fullmatch(child.name) else child.name
            found.setdefault(name, []).append(Place(annotations=child, images=(child,)))
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
    """With its images: beside their annotations; else in the image folders of the first place that has any.

    Those are the folder of the annotations, `beside`, and its parent: of the split, else of no split, else all of them.
    """
    named, home = _stems(annotations, {layout.suffix}), _stems(annotations, IMAGE_SUFFIXES)
    if named and named <= home:
        return Place(annotations=annotations, images=(annotations,))
    splits: dict[Path, str] = {}
    for folder in (annotations, beside, beside.parent):
        matches = {child: layout.images.fullmatch(child.name) for child in _folders(folder)}
        splits = {child: match.groupdict().get("split") or "" for child, match in matches.items() if match}
        if not splits and folder == beside != annotations and named & _stems(beside, IMAGE_SUFFIXES):
            splits = {beside: ""}
        if splits:
            break
    of_split = [child for child, name in splits.items() if name.lower() == split.lower()]
    folders = of_split or [child for child, name in splits.items() if not name] or list(splits)
    folders = [folder for top in folders for folder in below(top, split)]
    at_home = (annotations,) if named & home else ()
    return Place(annotations=annotations, images=at_home + tuple(folders) or (annotations,))


def below(images: Path, split: str | None) -> tuple[Path, ...]:
    """The folders of a split inside a folder of images; the folder itself where it has none for it."""
    names = [name.lower() for name in split.split("+")] if split else []
    inside = [child for child in _folders(images) if child.name.lower() in names]
    return tuple(inside) if len(inside) == len(names) > 0 else (images,)


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, without hidden ones."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if os.path.isdir(entry) and not entry.name.startswith("."))


def _has(folder: Path, suffix: str) -> bool:
    return bool(_stems(folder, {suffix}))


def _stems(folder: Path, suffixes: Collection[str]) -> set[str]:
    """The names without endings, in small letters, of the files in a folder that have one of some endings."""
    with os.scandir(folder) as entries:
        parts = [os.path.splitext(entry.name.lower()) for entry in entries if not entry.name.startswith(".")]
    return {stem for stem, end in parts if end in suffixes and not stem.endswith(".aux")}


def _files(place: Place, layout: Layout) -> list[Path]:
    with os.scandir(place.annotations) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(layout.suffix)]
    return [place.annotations / name for name in sorted(names) if not _is_foreign(name)]


def _is_foreign(name: str) -> bool:
    """Hidden, or what GDAL writes beside an image."""
    return name.startswith(".") or name.lower().endswith(".aux.xml")
