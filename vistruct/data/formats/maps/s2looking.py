"""S2Looking: pairs of satellite images taken from the side, 1024 x 1024 pixels, with buildings that came or went.

    train/Image1/1.png  train/Image2/1.png  train/label/1.png     (likewise val, test)

`label` marks every changed building; `label1` (newly built) and `label2` (demolished) are in colour and are not read.

Source: the data set's paper (Shen et al., 2021) and Open-CD's reader.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.maps import coding as map_coding
from vistruct.data.formats.maps.change_folders import walk_pairs
from vistruct.data.formats.maps.files import Folders, find_groups, splits_in
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.issues import IssueCounter

CODING = map_coding.CHANGE
FOLDERS = Folders(images=("image1", "image2"), labels="label")


def looks_like(path: Path) -> bool:
    """Whether `Image1` and `Image2` lie beside `label`."""
    return bool(find_groups(path, FOLDERS))


def splits(path: Path) -> tuple[str, ...]:
    """train, val and test."""
    return splits_in(path, find_groups(path, FOLDERS))


def walk(path: Path, wish: Wish, report: IssueCounter, stop: Stop) -> Walked:
    """One record a pair."""
    return walk_pairs(path, wish, report, stop, FOLDERS)
