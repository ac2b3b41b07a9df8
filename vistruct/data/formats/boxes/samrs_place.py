"""Where the files of a SAMRS data set lie: one folder of label maps and pickled instances, and what is beside it.

    trainval/images/NAME.png                            SOTA, FAST: tiles of DOTA-2.0 and of FAIR1M
    trainval/rhbox_segs_init/gray/NAME.png, color/, ins/NAME.pkl    (hbox_segs_init: prompted by horizontal boxes)
    trainval/rbbtxts/NAME.txt                           oriented boxes
    trainval/sota_rbb_train_ins_segmentation.json       made of the pickles by the published converter

    JPEGImages-trainval/NAME.jpg                        SIOR: DIOR
    hbox_segs_trainvaltest_init/gray, color, ins
    Annotations/Oriented Bounding Boxes/NAME.xml
    sior_train_ins_segmentation.json

Splits are lists of names (train.txt, valid.txt) beside any of these, else the jsons. The authors ship neither: then all
images with a file are one data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistruct.data.formats.boxes.places import split_lists
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError

_IMAGES = re.compile(r"(jpegimages|images?|imgs?)([-_].+)?", re.IGNORECASE)
_LISTS = ("train", "valid", "val", "test", "trainval")
_SPLIT = re.compile(r"(?:^|[_-])(trainval|train|valid|val|test)(?=[_-]|$)")
_HEAD = 2**16  # bytes of a json in which its first image is
_DEPTH = 3  # folders between the root and that of label maps and instances


@dataclass(frozen=True, kw_only=True)
class Place:
    """What there is of one data set."""

    root: Path  # what was named
    gray: Path | None = None  # label maps
    pickles: Path | None = None  # instances
    texts: Path | None = None  # oriented boxes, of SOTA and FAST
    xmls: Path | None = None  # of SIOR
    images: tuple[Path, ...] = ()
    jsons: dict[str, Path] = field(default_factory=dict)  # by split
    lists: dict[str, Path] = field(default_factory=dict)  # by split

    @property
    def splits(self) -> tuple[str, ...]:
        """Their names, as `chosen` takes them."""
        return tuple(self.lists or self.jsons)

    def of_split(self, split: str | None) -> tuple[list[Path], list[Path]]:
        """The lists of a split (or several, with a plus), or else its jsons.

        Raises:
            UserError: no such split, or several and none is asked for.
        """
        if not self.splits:
            if split is not None:
                fix = "leave --split out: all images with a file; or list names in train.txt and valid.txt beside them"
                raise UserError(f"no split {split!r} here: neither lists nor jsons", where=self.root, fix=fix)
            return [], []
        names = chosen(split, self.splits, self.root)
        return [self.lists[name] for name in names if self.lists], [
            self.jsons[name] for name in names if not self.lists
        ]


def find_place(path: Path) -> Place:
    """
    Args:
        path: the folder of a data set or above it, that of its label maps and instances, or one of its jsons.

    Raises:
        UserError: none here, or several.
    """
    if path.is_file():
        found = _beside(path.parent, path.parent)
        if found is None:
            below = folders(path.parent)
            found = _beside(below[0], path.parent) if len(below) == 1 else None
        own = found or Place(root=path, images=_images((path.parent,)))
        return replace(own, root=path, jsons={"": path}, lists={})
    below = folders(path)
    if not below:
        what = "no folder with gray/*.png beside ins/*.pkl, a json of instances or rbbtxts here"
        raise UserError(what, where=path, fix="name the folder that holds them")
    if len(below) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in below)
        raise UserError(f"several sets of label maps are here: {names}", where=path, fix=f"name one: {below[0]}")
    return _beside(below[0], path) or Place(root=path)


def folders(root: Path, depth: int = _DEPTH) -> list[Path]:
    """The folders below a root that hold label maps of SAMRS, with instances in or beside them."""
    if not root.is_dir():
        return []
    if _beside(root, root) is not None:
        return [root]
    inside = _subfolders(root) if depth else []
    return [found for child in inside if not _IMAGES.fullmatch(child.name) for found in folders(child, depth - 1)]


def is_instances(file: Path) -> bool:
    """Whether a json is one that the published converter makes: its images name their label map."""
    try:
        with file.open("rb") as opened:
            return b'"segm_file"' in opened.read(_HEAD)
    except OSError:
        return False


def _beside(folder: Path, root: Path) -> Place | None:
    """The data set whose label maps are in a folder; None: they are not."""
    gray, pickles = _child(folder, "gray"), _child(folder, "ins")
    if gray is None or not _has(gray, ".png"):
        return None
    tops = [folder, folder.parent]
    if folder.parent != root and root in folder.parent.parents:
        tops.append(folder.parent.parent)
    texts = next((found for top in tops if (found := _child(top, "rbbtxts"))), None)
    jsons = [file for top in tops for file in sorted(top.glob("*.json")) if is_instances(file)]
    has_pickles = pickles is not None and _has(pickles, ".pkl")
    if not (has_pickles or texts or jsons):
        return None
    oriented = (found for top in tops for found in [top / "Annotations" / "Oriented Bounding Boxes"])
    lists = {name: file for top in reversed(tops) for name in _LISTS if (file := top / f"{name}.txt").is_file()}
    return Place(
        root=root,
        gray=gray,
        pickles=pickles if has_pickles else None,
        texts=texts,
        xmls=next((one for one in oriented if one.is_dir()), None),
        images=_images(tops),
        jsons=_by_split(jsons),
        lists=lists or split_lists(*tops),
    )


def _by_split(jsons: Sequence[Path]) -> dict[str, Path]:
    names = [found[1] if (found := _SPLIT.search(file.stem.lower())) else file.stem for file in jsons]
    is_told = len(set(names)) == len(names)
    return {(name if is_told else file.stem): file for name, file in zip(names, jsons, strict=True)}


def _images(tops: Sequence[Path]) -> tuple[Path, ...]:
    """The folders of images in the first place that has any."""
    for top in tops:
        if found := tuple(child for child in _subfolders(top) if _IMAGES.fullmatch(child.name)):
            return found
    return ()


def _child(folder: Path, name: str) -> Path | None:
    return next((child for child in _subfolders(folder) if child.name.lower() == name), None)


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(one) for one in entries if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []


def _has(folder: Path, suffix: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(suffix) for entry in entries)
    except OSError:
        return False
