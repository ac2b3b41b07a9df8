"""ISPRS Vaihingen: 33 tiles of about 2500 x 2000 pixels at 9 cm (near infrared, red, green), six classes; see `isprs`.

    top/top_mosaic_09cm_area1.tif   gts_for_participants/top_mosaic_09cm_area1.tif

Images and labels have the same names: labels lie in a folder with `gt` or `label` in its name. The whole ones are
taken; for the eroded say labels=gts_eroded_for_participants.
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.maps import isprs
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.issues import IssueCounter

CODING = isprs.CODING
TRAIN = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37")
TEST = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
TILES = isprs.Tiles(
    image=re.compile(r"top_mosaic_09cm_area(?P<tile>\d+)\.(tif|tiff|png)", re.IGNORECASE),
    label=re.compile(r"top_mosaic_09cm_area(?P<tile>\d+)(_noBoundary)?\.(tif|tiff|png)", re.IGNORECASE),
    label_folder=re.compile(r"^gt|label", re.IGNORECASE),
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
