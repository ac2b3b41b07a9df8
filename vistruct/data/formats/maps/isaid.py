"""iSAID, cut into windows of 896 pixels: 15 kinds of objects and the background, in aerial images.

    img_dir/train/P0000_0_896_0_896.png   ann_dir/train/P0000_0_896_0_896_instance_color_RGB.png     (MMSegmentation)
    img_dir/train/P0000_0_896_0_896.png   ann_dir/train/P0000_0_896_0_896.png                        (ViTP)

Labels are numbers (0 is the background and counts, 255 does not) or the colours of the data set. The whole scenes,
`train/images` beside `train/Semantic_masks`, are read as well. Only files called `_instance_color_RGB` can be told:
for others say `format: isaid`. Windows of one scene have its name as their group.

Source: classes, colours and folders of MMSegmentation's `isaid` data set; not checked against the data set's own files.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.data.formats.maps.files import MASKS, files_below, find_groups, splits_in
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.mask_folders import records_of
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

CLASSES = (
    "background", "ship", "store_tank", "baseball_diamond", "tennis_court", "basketball_court", "Ground_Track_Field",
    "Bridge", "Large_Vehicle", "Small_Vehicle", "Helicopter", "Swimming_pool", "Roundabout", "Soccer_ball_field",
    "plane", "Harbor",
)  # fmt: skip
COLOURS = (
    (0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63),
    (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255), (0, 100, 155),
)  # fmt: skip
CODING = Coding(classes=CLASSES, palette=COLOURS)
IN_COLOUR = Coding(classes=CLASSES, colours=COLOURS, ignored_colours=((255, 255, 255),))
LABEL_END = "_instance_color_RGB"

_WINDOW = re.compile(r"_\d+_\d+_\d+_\d+$")


def looks_like(path: Path) -> bool:
    """Whether label rasters are called as this data set calls them."""
    groups = find_groups(path, MASKS)
    first = next(iter(groups.values()), None)
    return first is not None and any(
        file.stem.endswith(LABEL_END) for group in first for file in files_below(group.labels)[:20]
    )


def splits(path: Path) -> tuple[str, ...]:
    """train and val; the labels of test are not public."""
    return splits_in(path, find_groups(path, MASKS))


def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
    """One record a window, grouped by scene."""
    records = records_of(path, ask, report, stop)
    return [replace(record, group=_WINDOW.sub("", record.images[0].stem)) for record in records]


FORMAT = map_format(looks_like=looks_like, splits=splits, find=find, coding=(CODING, IN_COLOUR))
