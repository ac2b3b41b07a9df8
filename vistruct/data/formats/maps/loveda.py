"""LoveDA: land cover in 0.3 m images of three Chinese cities, urban and rural.

    Train/Urban/images_png/1366.png   Train/Urban/masks_png/1366.png   (likewise Rural; Val; Test without masks)

0 is "no data" and is neither learned nor counted, 1 to 7 are the classes. Names are unique over the whole data set,
which is what the server for the test split goes by. MMSegmentation's folders, `img_dir/train` and `ann_dir/train`, hold
the same files: say `format: loveda` for them, since nothing in them tells it.

Source: the data set's paper (Wang et al., 2021) and MMSegmentation's `loveda` for names and colours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.files import MASKS, FolderGroup, choose, find_groups, has_raster, subfolders
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.partners import partners
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

CLASSES = ("background", "building", "road", "water", "barren", "forest", "agricultural")
COLOURS = (
    (255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128),
)  # fmt: skip
CODING = Coding(classes=CLASSES, values=tuple(range(1, 8)), ignored=(0,), palette=COLOURS)
SCENES = ("urban", "rural")


def looks_like(path: Path) -> bool:
    """Whether there are urban or rural `masks_png`."""
    return bool(_groups(path))


def splits(path: Path) -> tuple[str, ...]:
    """train and val; test has no labels."""
    return tuple(_groups(path) or find_groups(path, MASKS))


def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """One record an image; its scene, Urban or Rural, is a note."""
    groups = _groups(path) or find_groups(path, MASKS)
    if not groups:
        raise UserError("no Train/Urban/masks_png here", where=path, fix="name the folder that holds Train and Val")
    chosen, names = choose(path, groups, ask.split)
    records = partners(path, chosen, ask, report, stop, names=names)
    parts = [(record, {part.lower() for part in record.images[0].parts}) for record in records]
    return [
        replace(record, notes={"scene": next(name for name in SCENES if name in own)}) if own & {*SCENES} else record
        for record, own in parts
    ]


def _groups(path: Path) -> dict[str, list[FolderGroup]]:
    """By split; "" where the folder of one was named."""
    here = _scenes(path)
    if here:
        return {"": here}
    return {child.name.lower(): scenes for child in subfolders(path) if (scenes := _scenes(child))}


def _scenes(folder: Path) -> list[FolderGroup]:
    places = [child for child in subfolders(folder) if child.name.lower() in SCENES]
    return [
        FolderGroup(images=(place / "images_png",), labels=place / "masks_png")
        for place in places
        if has_raster(place / "masks_png") and has_raster(place / "images_png")
    ]


FORMAT = map_format(looks_like=looks_like, splits=splits, find=find, coding=(CODING,))
