"""Which image belongs to which label raster: folders beside each other, splits, lists, and the ends of names.

Found are, below a root: a folder of images beside one of labels (`images` + `masks`); splits inside both
(`img_dir/train` + `ann_dir/train`), around both (`train/images` + `train/masks`) or in their names (`train_images` +
`train_masks`); lists of names that choose a split (`ImageSets/Segmentation/train.txt`, `list/train.txt`). Of pairs
there are two folders of images. Capitals in names do not matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vistruct.data.formats.splits import IMAGE_SUFFIXES, chosen, read_list
from vistruct.errors import UserError

IMAGE_FOLDERS = r"img_dir|images?|imgs?|jpegimages|images_png|images_?tr|rgb|inputs?|sat|s[12]_?hand"
LABEL_FOLDERS = (
    r"ann_dir|maps?|label_?hand|masks?|labels?|annotations?|gts?|ground_?truths?|segmentationclass(?:aug)?|semantic_masks?|masks_png"
    r"|segmentations?|targets?|label_?maps?|labels_?tr|annot|1st_manual|manual_?\d?"
)
_SPLIT = r"(?:train|val|valid|validation|test)(?:[a-z]*|[-_]?\d+)"
# ISIC2018_Task1-2_Training_Input beside ISIC2018_Task1_Training_GroundTruth, ISIC-2017_Test_v2_Data beside
# ISIC-2017_Test_v2_Part1_GroundTruth.
_STUDY = rf"is(?:ic|bi)[-_0-9a-z]*?_({_SPLIT})(?:_v\d)?(?:_part\d[ab]?)?_(?:data|inputs?|ground_?truth)"
_STUDY_LABELS = re.compile("ground_?truth$", re.IGNORECASE)
_FIELD_OF_VIEW = "mask"  # beside 1st_manual (DRIVE) it says where the eye is
_OBSERVER = re.compile(r"1st_manual|manual_?\d?", re.IGNORECASE)
_LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main", "ImageSets", "list", "lists", "splits", "split")
_MAX_DEPTH = 3  # folders between the root and those of images and labels


@dataclass(frozen=True, kw_only=True)
class FolderGroup:
    """Folders that belong together."""

    images: tuple[Path, ...]  # one; of pairs those before and after
    labels: Path
    name: str = ""  # what its records have as `group`
    several: tuple[tuple[Path, ...], ...] = ()  # folders of images, or of labels, of which each may be meant


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What the folders of a format are called."""

    images: tuple[str, ...]  # patterns; of pairs two
    labels: str


MASKS = Folders(images=(IMAGE_FOLDERS,), labels=LABEL_FOLDERS)


def find_groups(root: Path, folders: Folders) -> dict[str, list[FolderGroup]]:
    """The groups below a root by split; "" where a folder has no splits. Labels must be there, and be rasters."""
    found = _groups_in(root, folders)
    if found or not root.is_dir():
        return found
    return _groups_below(root, folders, _MAX_DEPTH)


def split_lists_of(root: Path) -> dict[str, Path]:
    """Lists of names that choose a split, by its name."""
    for place in _LIST_FOLDERS:
        lists = {file.stem: file for file in sorted((root / place).glob("*.txt"))}
        if lists:
            return lists
    return {file.stem: file for file in sorted(root.glob("*.txt")) if re.fullmatch(_SPLIT, file.stem, re.IGNORECASE)}


def splits_in(root: Path, groups: Mapping[str, list[FolderGroup]]) -> tuple[str, ...]:
    """The names that `choose` takes."""
    lists = split_lists_of(root) if list(groups) == [""] else {}
    return tuple(lists or groups)


def choose(
    root: Path, groups: Mapping[str, list[FolderGroup]], split: str | None
) -> tuple[list[FolderGroup], list[str] | None]:
    """The groups of one split (or several, with a plus), and the names that a list chose from them; None: all.

    Raises:
        UserError: no such split, or several and none is asked for.
    """
    lists = split_lists_of(root) if list(groups) == [""] else {}
    if lists:
        if split is None and len(lists) > 1:
            chosen(None, lists, root)
        names = [name for part in chosen(split, lists, root) for name in read_list(lists[part])]
        return list(groups[""]), list(dict.fromkeys(names))
    if split is not None and list(groups) == [""] and split.lower() in (root.name.lower(), root.name.lower() + "s"):
        split = None  # the folder of this split was named
    return [group for name in chosen(split, groups, root) for group in groups[name]], None


def has_raster(folder: Path, depth: int = 3) -> bool:
    """Whether a raster lies in a folder or, so many folders deep, below it."""
    if not folder.is_dir():
        return False
    inside = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry):
                inside.append(Path(entry))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                return True
    return depth > 0 and any(has_raster(child, depth - 1) for child in sorted(inside)[:5])


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names, without hidden ones."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if os.path.isdir(entry) and not entry.name.startswith("."))


def files_directly_in(folder: Path) -> list[Path]:
    """The rasters in a folder, in the order of their names."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def files_below(top: Path) -> list[Path]:
    """Every raster in a folder and below it, in the order of the names."""
    return [path for _, path in listed(top)]


def listed(top: Path) -> list[tuple[str, Path]]:
    """Likewise, with their names below the folder in small letters."""
    found = []
    for folder, inside, names in os.walk(top):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        below = os.path.relpath(folder, top).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        found += [
            (f"{prefix}{name}".lower(), Path(folder, name))
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return found


def refuse_several(root: Path, groups: Sequence[FolderGroup]) -> None:
    """
    Raises:
        UserError: several folders of images, or of labels, beside each other: which are meant is a question.
    """
    for group in groups:
        for folders in group.several:
            names = [folder.relative_to(root).as_posix() for folder in folders]
            top, labels = (one.relative_to(root).as_posix() for one in (group.images[0], group.labels))
            what = f"several folders of {'labels' if group.labels in folders else 'images'}: {', '.join(names)}"
            raise UserError(what, where=root, fix=f"say which: --images {top} --labels {labels}")


def _groups_in(folder: Path, folders: Folders) -> dict[str, list[FolderGroup]]:
    """Of folders that lie directly in this one."""
    children = subfolders(folder)
    labels = _tagged(children, folders.labels)
    images = [_tagged(children, pattern) for pattern in folders.images]
    found: dict[str, list[FolderGroup]] = {}
    for tag, label_folders in labels.items():
        tops = [one.get(tag) or (_of_split(children, tag) if len(images) == 1 else []) for one in images]
        tops = [[top for top in own if top not in label_folders] for own in tops]
        if not all(tops):
            continue
        several = tuple(own for own in (*map(tuple, tops), tuple(label_folders)) if len(own) > 1)
        for split, group in groups_inside(tuple(own[0] for own in tops), label_folders[0]).items():
            found.setdefault(split or tag, []).append(replace(group, several=several))
    return found


def _tagged(children: Sequence[Path], pattern: str) -> dict[str, list[Path]]:
    """Folders of one purpose that hold rasters, by the split in their names."""
    whole = re.compile(rf"(?:({_SPLIT})[-_])?(?:{pattern})(?:[-_]({_SPLIT}))?", re.IGNORECASE)
    joined = re.compile(rf"(train|val|test)(?:{pattern})", re.IGNORECASE)  # SegNet's trainannot
    study = re.compile(_STUDY, re.IGNORECASE)
    found: dict[str, list[Path]] = {}
    for child in children:
        match = whole.fullmatch(child.name) or joined.fullmatch(child.name)
        if match is None and (match := study.fullmatch(child.name)):
            is_labels = _STUDY_LABELS.search(child.name) is not None
            match = (
                match if is_labels == (pattern == LABEL_FOLDERS) and pattern in (LABEL_FOLDERS, IMAGE_FOLDERS) else None
            )
        if match and has_raster(child):
            tag = next((own for own in match.groups() if own), "").lower()
            found.setdefault(tag, []).append(child)
    for own in found.values():
        if any(_OBSERVER.fullmatch(one.name) for one in own):
            own[:] = [one for one in own if one.name.lower() != _FIELD_OF_VIEW]
    return found


def _of_split(children: Sequence[Path], tag: str) -> list[Path]:
    """`train` beside `train_masks`: the folder that is called as the split, where images lie in it."""
    return [child for child in children if tag and child.name.lower() == tag and has_raster(child, 0)]


def groups_inside(tops: tuple[Path, ...], labels: Path) -> dict[str, FolderGroup]:
    """By the splits that images and labels both have folders for; "" where they have none."""
    own = [{child.name.lower(): child for child in subfolders(top)} for top in (*tops, labels)]
    shared = [name for name in own[-1] if re.fullmatch(_SPLIT, name) and all(name in one for one in own)]
    found = {
        name: FolderGroup(images=tuple(one[name] for one in own[:-1]), labels=own[-1][name])
        for name in shared
        if has_raster(own[-1][name])
    }
    return found or {"": FolderGroup(images=tops, labels=labels)}


def _groups_below(folder: Path, folders: Folders, depth: int) -> dict[str, list[FolderGroup]]:
    found: dict[str, list[FolderGroup]] = {}
    for child in subfolders(folder):
        inside = _groups_in(child, folders)
        if not inside and depth > 1:
            inside = _groups_below(child, folders, depth - 1)
        for split, groups in inside.items():
            found.setdefault(split or child.name.lower(), []).extend(groups)
    return found
