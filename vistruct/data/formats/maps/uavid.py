"""UAVid: street scenes from a drone, 3840 x 2160 or 4096 x 2160 pixels, ten frames of each sequence.

    uavid_train/seq1/Images/000000.png   uavid_train/seq1/Labels/000000.png   (and uavid_val; uavid_test unlabelled)

Labels are colours, or numbers in `TrainId` beside them or in place of them. Names, colours and order are those of the
data set's own toolkit, UAVidToolKit; not checked against the data set's own files. Frames of a sequence look alike: the
sequence is their group, and their name has it (`seq1/000000.png`), since every sequence begins at 000000.

Folders of numbers in MMSegmentation's layout (`img_dir`, `ann_dir`) hold no sequences: say `format: uavid` for them.
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.files import MASKS, FolderGroup, choose, find_groups, has_raster, subfolders
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.partners import partners
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

CLASSES = ("Clutter", "Building", "Road", "Static_Car", "Tree", "Vegetation", "Human", "Moving_Car")
COLOURS = (
    (0, 0, 0), (128, 0, 0), (128, 64, 128), (192, 0, 192), (0, 128, 0), (128, 128, 0), (64, 64, 0), (64, 0, 128),
)  # fmt: skip
CODING = Coding(classes=CLASSES, colours=COLOURS)
AS_NUMBERS = Coding(classes=CLASSES, palette=COLOURS)

_SEQUENCE = re.compile(r"seq\d+", re.IGNORECASE)


def looks_like(path: Path) -> bool:
    """Whether there are sequences with images and labels."""
    return bool(_groups(path))


def splits(path: Path) -> tuple[str, ...]:
    """train and val; the labels of test are not public."""
    return tuple(_groups(path) or find_groups(path, MASKS))


def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """One record a frame, grouped by sequence."""
    groups = _groups(path) or find_groups(path, MASKS)
    if not groups:
        raise UserError("no seq1/Images beside seq1/Labels here", where=path, fix="name the folder of uavid_train")
    chosen, names = choose(path, groups, ask.split)
    return partners(path, chosen, ask, report, stop, names=names)


def _groups(path: Path) -> dict[str, list[FolderGroup]]:
    here = _sequences(path)
    if here:
        return {"": here}
    found = {child: _sequences(child) for child in subfolders(path)}
    return {child.name.lower().removeprefix("uavid_"): groups for child, groups in found.items() if groups}


def _sequences(folder: Path) -> list[FolderGroup]:
    groups = []
    for place in subfolders(folder):
        labels = next((place / name for name in ("Labels", "TrainId") if has_raster(place / name)), None)
        if _SEQUENCE.fullmatch(place.name) and labels is not None and has_raster(place / "Images"):
            groups.append(FolderGroup(images=(place / "Images",), labels=labels, name=place.name))
    return groups


FORMAT = map_format(looks_like=looks_like, splits=splits, find=find, coding=(CODING, AS_NUMBERS))
