"""Label maps of masks that were made of boxes: a PNG for each image, for those who read no COCO json.

0 is the background, class k of the objects is k + 1. Where objects overlap, the smaller box is on top (the published
script lets the later one win, and small ones vanish). 255 (of more than 254 classes 65535, in 16 bits) is neither
learned nor counted: crowds, difficult objects, and the boxes of objects that are left without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.maps.painted_objects import BACKGROUND, IGNORED_VALUE, Painter
from vistruct.errors import UserError
from vistruct.files.label_png import write_png
from vistruct.issues import IssueCounter
from vistruct.pictures.areas import Key

FOLDER = "painted"  # a name that is no folder of label maps to those who look for some: the data stay boxes
IGNORED = 255


def map_files(folder: Path, records: Sequence[Record]) -> dict[str, Path]:
    """Where the map of each image goes, by the id of its record.

    Raises:
        UserError: two images whose names differ in their endings alone.
    """
    found = {record.id: folder / FOLDER / PurePosixPath(record.id).with_suffix(".png") for record in records}
    owner: dict[Path, str] = {}
    for name, file in found.items():
        if owner.setdefault(file, name) != name:
            what = f"two images would have one label map: {owner[file]}, {name}"
            raise UserError(what, where="--maps", fix="rename one of them, or leave --maps out")
    return found


def write_map(file: Path, record: Record, class_names: Sequence[str]) -> None:
    """Paint one image.

    Args:
        record: of a whole image, with its masks.
    """
    assert record.size_hw is not None
    objects = record.objects
    without = np.array([not mask for mask in objects.masks or ()], bool)
    painter = Painter.of([record.with_columns(is_ignored=objects.is_ignored | without)], "either", IssueCounter())
    raster = painter(record)
    if len(class_names) >= IGNORED:
        write_png(file, [raster], record.size_hw)
        return
    colours = Key.of((BACKGROUND, *class_names)).colours
    palette = [(0, 0, 0), *colours[1:], *[(255, 255, 255)] * (IGNORED + 1 - len(colours))]
    write_png(file, [np.where(raster == IGNORED_VALUE, IGNORED, raster).astype(np.uint8)], record.size_hw, palette)
