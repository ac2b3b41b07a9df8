"""A folder of images for each class, as EuroSAT and RESISC45 lie:

    EuroSAT/2750/AnnualCrop/AnnualCrop_1.jpg          or with splits          data/train/cat/1.jpg
    EuroSAT/2750/Forest/Forest_1.jpg                                          data/val/cat/7.jpg

The classes are the names of the folders, sorted (as torchvision's ImageFolder has them, which is not used: it knows
no splits, no lists and no error that names a file). A folder that is alone in its folder is looked through.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.values import values_of
from vistruct.data.formats.order import class_order
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError, typed
from vistruct.files.below import folders_below
from vistruct.files.rasters import read_raster
from vistruct.issues import IssueCounter

NO_IMAGE = "file left out: no image ending"
ABSENT = "class without images in this split, which is in no mean"

_MOST_TOPS = 8  # folders among which masks are looked for
_FEW = 40  # values of a mask at most

_SPLIT = re.compile(r"(train|val|valid|validation|test|trainval|training|testing)[-_]?\d*", re.IGNORECASE)
# Folders of other kinds of data sets, which no class is called.
_NO_CLASSES = re.compile(
    r"images?|imgs?|img_dir|ann_dir|annotations?|labels?|masks?|labelmaps?|gt|jpegimages|segmentationclass|im1|im2|label[12]|sat|maps?|s[12]hand|labelhand"
    r"|images_png|masks_png|infection masks|lung masks",
    re.IGNORECASE,
)


def looks_like(root: Path) -> bool:
    """Whether there are folders whose names could be classes, with images in most of them, and none is of masks."""
    if not root.is_dir():
        return False
    places = split_folders(root)
    found = [_folders(folder) for folder in places.values()]
    names = {child.name for children in found for child in children}
    lower = {name.lower() for name in names}
    is_other = any(_NO_CLASSES.fullmatch(name) for name in names) or {"a", "b", "out"} <= lower
    have = [_has_images(child) for children in found for child in children]
    if len(names) < 2 or is_other or sum(have) < min(2, len(have)) or 2 * sum(have) < len(have):
        return False
    return all(masks_beside(place) is None for place in (root, *places.values()))


def splits(root: Path) -> tuple[str, ...]:
    """Names of the folders between the root and the classes."""
    return tuple(name for name in split_folders(root) if name)


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image; its class is the folder."""
    top = below(root, ask.images)
    places = split_folders(top)
    if list(places) == [""]:
        if ask.split is not None:
            fix = "--train-fraction 0.8 draws them; or --lists '{split}.txt' names the lists that say them"
            stop(UserError(f"no split {ask.split!r} here: no folders of splits", where=top, fix=fix))
        names = [""]
    else:
        names = chosen_splits(ask.split, list(places), top)
    found = {name: _folders(folder) for name, folder in places.items()}
    folders = {child.name for children in found.values() for child in children}
    class_names = class_order(sorted(folders), ask.classes, where=top, stop=stop)
    if not class_names:
        stop(UserError("no folder of a class here", where=top, fix="a folder of images for each class"))
    records: list[Record] = []
    for name in names:
        by_class = {child.name: child for child in found[name]}
        for number, class_name in enumerate(class_names):
            files = images_in(by_class[class_name], report) if class_name in by_class else []
            if not files and class_name not in ask.drop:
                where = by_class.get(class_name, places[name] / class_name)
                if any(
                    _has_images(child) for children in found.values() for child in children if child.name == class_name
                ):
                    report.note(ABSENT, str(where), "kept")  # a rare class need not be in every split
                else:
                    stop(
                        UserError(
                            "a class without images",
                            where=where,
                            fix=f"put some there, or {typed('--drop', [class_name])}",
                        )
                    )
            for file in files:
                id = file.relative_to(top).as_posix()
                records.append(Record(id=id, images=(file,), image_labels=(number,)))
    return Walked(records=records, class_names=class_names)


def masks_beside(root: Path) -> tuple[Path, Path] | None:
    """A folder of images and one of rasters of few values that are called as they are: label maps, and no classes."""
    children = [child for child in _folders(root) if _has_images(child)] if root.is_dir() else []
    if not 2 <= len(children) <= _MOST_TOPS:
        return None
    stems = {
        child: {_stem(file): file for file in sorted(child.iterdir())[:1000] if _is_image(file)} for child in children
    }
    for labels in children:
        for images in children:
            shared = sorted(set(stems[images]) & set(stems[labels]))
            if images == labels or 2 * len(shared) < len(stems[labels]):
                continue
            if all(_num_values(stems[labels][one]) <= _FEW < _num_values(stems[images][one]) for one in shared[:2]):
                return images, labels
    return None


def _stem(file: Path) -> str:
    """The name without its ending and what masks add to it."""
    return re.sub(r"[-_.](masks?|labels?|gt|lbl|l|seg|segmentation|annotation|0000|image|img)$", "", file.stem.lower())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _num_values(file: Path) -> int:
    try:
        return len(values_of(read_raster(file)).counts)
    except UserError:
        return _FEW


def below(root: Path, images: Path | None) -> Path:
    """The folder of the images.

    Raises:
        UserError: there is none of that name.
    """
    top = root if root.is_dir() else root.parent
    if images is not None and not (top / images).is_dir():
        raise UserError(f"no folder {str(images)!r} here", where=top, fix="--images NAME, a folder that is there")
    return top if images is None else top / images


def split_folders(top: Path) -> dict[str, Path]:
    """The folders whose folders are classes, by split; "" where there are no splits."""
    children = _folders(top)
    while len(children) == 1 and not _has_images(children[0]):
        top, children = children[0], _folders(children[0])
    found = {child.name: child for child in children if _SPLIT.fullmatch(child.name) and _folders(child)}
    return found if found else {"": top}


def images_in(folder: Path, report: IssueCounter | None = None) -> list[Path]:
    """The images directly in a folder and in those below it, in the order of their names; see `folders_below`."""
    found: list[Path] = []
    for place, names in folders_below(folder, report):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                found.append(place / name)
            elif report is not None and name != "Thumbs.db":
                report.note(NO_IMAGE, str(place / name))
    return found


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if os.path.isdir(entry) and not entry.name.startswith((".", "__"))]
    return sorted(found)


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in entries)


FORMAT = Format(kind="image_classes", looks_like=looks_like, splits=splits, walk=walk)
