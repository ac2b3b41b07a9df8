"""Pairs of images, before and after, with a mask of what changed: LEVIR-CD, WHU-CD, SVCD (also called CDD), S2Looking.

    train/A/1.png  train/B/1.png  train/label/1.png     (LEVIR-CD; `OUT` in SVCD, whose masks are JPEGs)
    A/1.png  B/1.png  label/1.png  list/train.txt       (LEVIR-CD cut to 256 pixels, WHU-CD)
    train/Image1/1.png  train/Image2/1.png  train/label/1.png     (S2Looking, with val and test)

The classes are "unchanged" and "changed". Masks of 0 and 1, of 0 and 255, and lossy ones that have every value (changed
from 128 on, as Open-CD reads all of these) are told apart; of others the user says the values.

S2Looking (`s2looking`) has satellite images taken from the side, 1024 x 1024 pixels. Its `label` marks every changed
building; `label1` (newly built) and `label2` (demolished) are in colour and are not read. Source: the data set's paper
(Shen et al., 2021) and Open-CD's reader.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Format, Stop
from vistruct.data.formats.maps.coding import change_coding
from vistruct.data.formats.maps.files import Folders, choose, find_groups, refuse_several, splits_in
from vistruct.data.formats.maps.frame import map_format
from vistruct.data.formats.maps.partners import partners
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


def _format(folders: Folders) -> Format:
    """One record a pair, of two folders of images beside one of masks."""

    def find(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Record]:
        groups = find_groups(path, folders)
        if not groups:
            what = "no folders of images before and after, beside one of masks"
            raise UserError(what, where=path, fix="call them A, B and label")
        some, names = choose(path, groups, ask.split)
        refuse_several(path, some)
        return partners(path, some, ask, report, stop, names=names)

    return map_format(
        looks_like=lambda path: bool(find_groups(path, folders)),
        splits=lambda path: splits_in(path, find_groups(path, folders)),
        find=find,
        coding=change_coding,
    )


FORMAT = _format(
    Folders(
        images=(r"a|t1|time1|im1|before|pre|imgs?_?1", r"b|t2|time2|im2|after|post|imgs?_?2"),
        labels=r"labels?|out|gts?|masks?|change(?:_?(?:labels?|masks?|maps?))?|cd(?:_?labels?)?|label_?maps?|ground_?truths?",
    )
)
S2LOOKING = _format(Folders(images=("image1", "image2"), labels="label"))
