"""Folders of images and of label rasters, as MMSegmentation, VOC, Kaggle and most people keep them.

    img_dir/train/a.jpg   ann_dir/train/a.png        (MMSegmentation)
    images/a.png          masks/a.png                or labels, annotations, gt, ...
    JPEGImages/a.jpg      SegmentationClass/a.png    ImageSets/Segmentation/train.txt    (VOC)
    train/a_sat.jpg       train/a_mask.png           (one folder, ends of names)
    train/a.jpg           train_masks/a_mask.gif     (Carvana; train_labels: CamVid, Massachusetts buildings)
    train/sat/a.tiff      train/map/a.tif            (Massachusetts roads)
    S2Hand/a_S2Hand.tif   LabelHand/a_LabelHand.tif  (Sen1Floods11: S1Hand or S2Hand is a question)
    a_merged.tif          a.mask.tif                 (HLS burn scars)
    imagesTr/a_0000.png   labelsTr/a.png             dataset.json (nnU-Net of images)

Which folders and names are found without being told: `files.py`. What the values mean: `coding.py`, or `Ask.coding`.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps import files as map_files
from vistruct.data.formats.maps.coding import found_out
from vistruct.data.formats.maps.files import MASKS, FolderGroup, choose, find_groups, refuse_several, splits_in
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.partners import IMAGE_ENDS, LABEL_ENDS, partners
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def looks_like(path: Path) -> bool:
    """Whether a folder of images lies beside one of label rasters, or files `a_image`, `a_mask` in one folder."""
    return bool(find_groups(path, MASKS)) or bool(_one_folder(path))


def splits(path: Path) -> tuple[str, ...]:
    """Folders or lists."""
    return splits_in(path, find_groups(path, MASKS) or _one_folder(path))


def records_of(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """The records of the split that is asked for, one an image; see `partners`.

    Raises:
        UserError: nothing of the kind here, no such split, or several.
    """
    groups = said(path, ask) if ask.images is not None or ask.labels is not None else find_groups(path, MASKS)
    groups = groups or _one_folder(path)
    if not groups:
        fix = "say where they are: --images FOLDER --labels FOLDER"
        raise UserError("no folder of images beside one of label rasters", where=path, fix=fix)
    chosen, names = choose(path, groups, ask.split)
    refuse_several(path, chosen)
    for second in (file for group in chosen for file in group.images[0].glob("*_0001.*")):
        if second.with_name(second.name.replace("_0001.", "_0000.")).is_file():
            fix = "write the channels of an image into one file of several bands"
            raise UserError("images in several files, a channel each (nnU-Net)", where=second, fix=fix)
    return partners(path, chosen, ask, report, stop, names=names)


def said(path: Path, ask: Ask) -> dict[str, list[FolderGroup]]:
    """The folders that the user named, and the splits in them.

    Raises:
        UserError: one is not there.
    """
    tops = []
    for name, own in (("images", ask.images), ("labels", ask.labels)):
        folder = path / (own if own is not None else "")
        if own is not None and not folder.is_dir():
            raise UserError(f"no such folder of {name}", where=folder, fix=f"{name} is a folder below the root")
        tops.append(folder)
    return {split: [group] for split, group in map_files.groups_inside((tops[0],), tops[1]).items()}


def _one_folder(path: Path) -> dict[str, list[FolderGroup]]:
    """Images and labels side by side, in this folder or in those of its splits."""
    folders = {child.name.lower(): child for child in map_files.subfolders(path)}
    names = ("train", "training", "val", "valid", "validation", "test", "testing")
    places = {name: folder for name, folder in folders.items() if name in names}
    if not places and path.is_dir():
        places = {"": path}
    return {
        name: [FolderGroup(images=(folder,), labels=folder)] for name, folder in places.items() if _has_both(folder)
    }


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


FORMAT = map_format(looks_like=looks_like, splits=splits, find=records_of, coding=found_out)
