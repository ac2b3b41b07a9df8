"""SECOND: pairs of aerial images, each with its own map of what covers the ground where something changed.

    train/im1/1.png  train/im2/1.png  train/label1/1.png  train/label2/1.png

Both maps are empty where nothing changed: 0 as numbers, white as colours. What is read is a pair and whether it
changed, which is where `label1` is not empty; from what to what is not learned, and the reader says so. Source: the
paper (Yang et al., 2021) and the data set's page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.coding import CHANGE_INDEX
from vistruct.data.formats.maps.files import Folders, choose, find_groups, splits_in
from vistruct.data.formats.maps.partners import partners
from vistruct.errors import UserError
from vistruct.files.rasters import read_raster
from vistruct.issues import IssueCounter

BINARY = "changed is where label1 has a class: from what to what is not learned"

_IMAGES = (r"a|t1|time1|im1|before|pre", r"b|t2|time2|im2|after|post")
_FIRST = Folders(images=_IMAGES, labels="label_?1")
_SECOND = Folders(images=_IMAGES, labels="label_?2")


def looks_like(path: Path) -> bool:
    """Whether folders of a pair lie beside two of labels."""
    return bool(find_groups(path, _FIRST)) and bool(find_groups(path, _SECOND))


def splits(path: Path) -> tuple[str, ...]:
    """Folders or lists."""
    return splits_in(path, find_groups(path, _FIRST))


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record a pair."""
    groups = find_groups(path, _FIRST)
    if not looks_like(path):
        raise UserError("no im1, im2, label1 and label2 beside each other", where=path, fix="--format change_folders")
    chosen, names = choose(path, groups, ask.split)
    records = partners(path, chosen, ask, report, stop, names=names)
    report.note(BINARY, str(path), "kept")
    return Walked(records=records, coding=ask.coding or CHANGE_INDEX, raster=changed)


def changed(record: Record) -> np.ndarray:
    """uint8[H, W] of a record's window: 1 where its first map has a class.

    Raises:
        UserError: a raster that cannot be read.
    """
    assert record.label_map is not None
    raster = read_raster(record.label_map, record.window_xyxy)
    return ((raster != 255).any(axis=2) if raster.ndim == 3 else raster != 0).astype(np.uint8)


FORMAT = Format(kind="maps", looks_like=looks_like, splits=splits, walk=walk)
