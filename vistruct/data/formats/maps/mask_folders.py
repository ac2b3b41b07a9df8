"""Folders of images and of label rasters, as MMSegmentation, VOC, Kaggle and most people keep them.

    img_dir/train/a.jpg   ann_dir/train/a.png        (MMSegmentation)
    images/a.png          masks/a.png                or labels, annotations, gt, ...
    JPEGImages/a.jpg      SegmentationClass/a.png    ImageSets/Segmentation/train.txt    (VOC)
    train/a_sat.jpg       train/a_mask.png           (one folder, ends of names)

Which folders and names are found without being told: `map_files`. What the values mean: `map_coding`, or `coding`.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.maps import files as map_files
from vistruct.data.formats.maps.coding import found_out
from vistruct.data.formats.maps.files import MASKS, Group, choose, find_groups, splits_in
from vistruct.data.formats.maps.partners import IMAGE_ENDS, LABEL_ENDS, partners
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def looks_like(path: Path) -> bool:
    """Whether a folder of images lies beside one of label rasters, or files `a_image`, `a_mask` in one folder."""
    return bool(find_groups(path, MASKS)) or bool(_one_folder(path))


def splits(path: Path) -> tuple[str, ...]:
    """Folders or lists."""
    return splits_in(path, find_groups(path, MASKS) or _one_folder(path))


def walk(path: Path, wish: Wish, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image; see `map_files.partners`."""
    records: list[Record] = []
    coding = wish.coding
    try:
        records = records_of(path, wish, report, stop)
        if coding is None and records:
            coding = found_out(path, records, wish, report)
    except UserError as error:
        stop(error)
    return Walked(records=records, coding=coding)


def records_of(
    path: Path, wish: Wish, report: IssueCounter, stop: Stop, *, label_end: str | None = None
) -> list[Record]:
    """The records of the split that is wished for.

    Raises:
        UserError: nothing of the kind here, no such split, or several.
    """
    groups = said(path, wish) if wish.images is not None or wish.labels is not None else find_groups(path, MASKS)
    groups = groups or _one_folder(path)
    if not groups:
        fix = "say where they are: images=FOLDER labels=FOLDER, below it"
        raise UserError("no folder of images beside one of label rasters", where=path, fix=fix)
    chosen, names = choose(path, groups, wish.split)
    return partners(path, chosen, wish, report, stop, names=names, label_end=label_end)


def said(path: Path, wish: Wish) -> dict[str, list[Group]]:
    """The folders that the user named, and the splits in them.

    Raises:
        UserError: one is not there.
    """
    tops = []
    for name, own in (("images", wish.images), ("labels", wish.labels)):
        folder = path / (own if own is not None else "")
        if own is not None and not folder.is_dir():
            raise UserError(f"no such folder of {name}", where=folder, fix=f"{name} is a folder below the root")
        tops.append(folder)
    return {split: [group] for split, group in map_files.groups_inside((tops[0],), tops[1]).items()}


def _one_folder(path: Path) -> dict[str, list[Group]]:
    """Images and labels side by side, in this folder or in those of its splits."""
    folders = {child.name.lower(): child for child in map_files.subfolders(path)}
    places = {name: folder for name, folder in folders.items() if name in ("train", "val", "valid", "test")}
    if not places and path.is_dir():
        places = {"": path}
    return {name: [Group(images=(folder,), labels=folder)] for name, folder in places.items() if _has_both(folder)}


def _has_both(folder: Path) -> bool:
    """Whether names that differ in their ends alone lie in a folder."""
    files = map_files.files_directly_in(folder)[:1000]
    stems = {file.stem.lower() for file in files}
    exact = {file.stem.lower() for file in files if file.suffix.lower() == ".png"}
    lossy = {file.stem.lower() for file in files if file.suffix.lower() in (".jpg", ".jpeg")}
    if exact and exact == lossy:  # a.jpg, a.png
        return True
    ends = [end.lower() for end in LABEL_ENDS if end]
    starts = [end.lower() for end in IMAGE_ENDS]
    return any(
        stem.endswith(end) and any(f"{stem.removesuffix(end)}{start}" in stems for start in starts)
        for stem in stems
        for end in ends
    )
