"""Cityscapes: streets with the mask of every road user, or with the area of each of 19 classes.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png    1000 x class + number; below 1000 the class of a
                                                                       group that was not told apart: a crowd
    gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png       the class of every pixel

Name the root; the splits are folders of gtFine (the labels of its test are not published: none of it is read). Classes
that the benchmark does not measure are left out; a group is a crowd, so that nothing is asked about all of its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, ImageObjects, Told
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.annotated import areas
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import OTHER_SIZE, Board, Source
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.rasters import read_raster
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch

CLASSES = {  # by the numbers of labelIds: those that the benchmark measures
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
USERS = {number: name for number, name in CLASSES.items() if number >= 24}  # which have instances
_GROUP = 1000  # numbers below are classes, of what was not told apart
_TRUTH, _IMAGES = "gtFine", "leftImg8bit"
_INSTANCES, _LABELS = "_gtFine_instanceIds.png", "_gtFine_labelIds.png"


def splits(path: Path) -> tuple[str, ...]:
    """Folders of the labels, but that of test."""
    folder = path / _TRUTH
    names = sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
    return tuple(name for name in names if name != "test")


def looks_like(path: Path) -> bool:
    """Whether a folder has labels in the places of Cityscapes."""
    return any(next((path / _TRUTH / split).glob(f"*/*{_INSTANCES}"), None) is not None for split in splits(path))


def read_instances(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other."""
    for id, image, truth in _pairs(path, _INSTANCES, ask, report):
        ids = read_raster(truth)
        if ids.shape != image.size_hw:
            report.note(OTHER_SIZE, str(truth))
            continue
        board = Board(image, report)
        for one in np.unique(ids).tolist():
            name = USERS.get(one // _GROUP if one >= _GROUP else one)
            if name is not None:
                _add(board, ids == one, name, f"{truth}: {one}", is_crowd=one < _GROUP)
        yield board.known(id, is_complete=True, class_names=tuple(USERS.values()))


def read_areas(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other."""
    table = np.full(256, -1)
    table[list(CLASSES)] = np.arange(len(CLASSES))
    for id, image, truth in _pairs(path, _LABELS, ask, report):
        labels = table[read_raster(truth)]
        if labels.shape != image.size_hw:
            report.note(OTHER_SIZE, str(truth))
            continue
        record = Record(id=id, images=(image.path,), size_hw=image.size_hw)
        yield areas(record, labels, tuple(CLASSES.values()))


def _add(board: Board, pixels: np.ndarray, name: str, where: str, *, is_crowd: bool) -> None:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    runs = encode_patch(pixels[y0:y1, x0:x1], x0, y0, board.image.size_hw)
    mask = {**runs, "counts": runs["counts"].decode("ascii")}
    board.add([x0, y0, x1, y1], where, name=name, told=Told(mask=mask, is_crowd=is_crowd))


def _pairs(path: Path, ending: str, ask: Ask, report: IssueCounter) -> Iterator[tuple[str, ImageObjects, Path]]:
    """Name, image and labels."""
    for split in chosen_splits(ask.split, splits(path), path):
        for truth in sorted((path / _TRUTH / split).glob(f"*/*{ending}")):
            inner = truth.relative_to(path / _TRUTH).as_posix().replace(ending, f"_{_IMAGES}.png")
            image = (path / _IMAGES if ask.images is None else ask.images) / inner
            if image.is_file():
                yield inner, ImageObjects(inner, image, image_size(image)), truth
            elif ask.missing == "stop":
                raise UserError(f"the image {image} is not on disk", where=truth, fix=WHERE_IMAGES)
            else:
                report.note(MISSING_IMAGE, str(image))


INSTANCES = Source(read=read_instances, looks_like=looks_like, splits=splits)
AREAS = Source(read=read_areas, looks_like=looks_like, splits=splits)
