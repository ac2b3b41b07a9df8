"""Pairs of images, before and after, with a mask of what changed: LEVIR-CD, WHU-CD, SVCD (also called CDD).

    train/A/1.png  train/B/1.png  train/label/1.png     (LEVIR-CD; `OUT` in SVCD, whose masks are JPEGs)
    A/1.png  B/1.png  label/1.png  list/train.txt       (LEVIR-CD cut to 256 pixels, WHU-CD)

The classes are "unchanged" and "changed". Values from 128 on are changed, as Open-CD reads all of these, because lossy
masks have every value; masks of 0 and 1 are seen to be such and read as such.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.data.formats.maps import coding as map_coding
from vistruct.data.formats.maps.files import Folders, choose, find_groups, splits_in
from vistruct.data.formats.maps.partners import partners
from vistruct.data.formats.maps.registry import Walked, Wish
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

CODING = map_coding.CHANGE
FOLDERS = Folders(
    images=(r"a|t1|time1|im1|before|pre|imgs?_?1", r"b|t2|time2|im2|after|post|imgs?_?2"),
    labels=r"labels?|out|gts?|masks?|change|cd|label_?maps?|ground_?truths?",
)


def looks_like(path: Path) -> bool:
    """Whether two folders of images lie beside one of masks."""
    return bool(find_groups(path, FOLDERS))


def splits(path: Path) -> tuple[str, ...]:
    """Folders or lists."""
    return splits_in(path, find_groups(path, FOLDERS))


def walk(path: Path, wish: Wish, report: IssueCounter, stop: Stop) -> Walked:
    """One record a pair."""
    return walk_pairs(path, wish, report, stop, FOLDERS)


def walk_pairs(path: Path, wish: Wish, report: IssueCounter, stop: Stop, folders: Folders) -> Walked:
    """As `walk`, of folders with other names."""
    records: list[Record] = []
    coding = wish.coding
    try:
        groups = find_groups(path, folders)
        if not groups:
            what = "no folders of images before and after, beside one of masks"
            raise UserError(what, where=path, fix="call them A, B and label")
        some, names = choose(path, groups, wish.split)
        records = partners(path, some, wish, report, stop, names=names)
        coding = coding or (map_coding.change_coding(records) if records else CODING)
    except UserError as error:
        stop(error)
    return Walked(records=records, coding=coding)
