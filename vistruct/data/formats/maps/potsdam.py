"""ISPRS Potsdam: 38 tiles of 6000 x 6000 pixels at 5 cm, six classes; see `isprs`.

    2_Ortho_RGB/top_potsdam_2_10_RGB.tif   5_Labels_all/top_potsdam_2_10_label.tif

Of the labels the whole ones come first; for the eroded say labels=5_Labels_all_noBoundary. Images are the colours
(`_RGB`).
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.maps import isprs
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.issues import IssueCounter

CODING = isprs.CODING
TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12", "6_10", "6_11",
    "6_12", "6_7", "6_8", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9",
)  # fmt: skip
TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13",
)  # fmt: skip
TILES = isprs.Tiles(
    image=re.compile(r"top_potsdam_(?P<tile>\d+_\d+)_RGB\.(tif|tiff|png)", re.IGNORECASE),
    label=re.compile(r"top_potsdam_(?P<tile>\d+_\d+)_label(_noBoundary)?\.(tif|tiff|png)", re.IGNORECASE),
    label_folder=re.compile(r"label", re.IGNORECASE),
    splits={"train": TRAIN, "test": TEST},
)


def looks_like(path: Path) -> bool:
    """Whether tiles and their labels are here under their own names."""
    return isprs.tile_group(path, TILES) is not None


def splits(path: Path) -> tuple[str, ...]:
    """The official ones of whole tiles; of folders that somebody made, theirs."""
    return isprs.tile_splits(path, TILES)


def walk(path: Path, wish: Wish, report: IssueCounter, stop: Stop) -> Walked:
    """One record a tile."""
    return isprs.walk_tiles(path, wish, report, stop, TILES)
