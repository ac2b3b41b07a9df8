"""Annotations of objects as label maps: any box format, its masks (or for want of them its boxes) painted.

Class 0 is "background", where nothing is. Large objects are painted first, so that a small one on a large one stays.
Crowds and difficult objects are neither learned nor counted where nothing else is painted over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistruct.contracts import NO_OBJECTS, Record
from vistruct.data.formats import find_format
from vistruct.data.formats.detect import detect, splits_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.order import chosen_objects
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.masks import rasterise
from vistruct.issues import IssueCounter

BACKGROUND = "background"
IGNORED_VALUE = 65535  # in what is painted


def splits(path: Path) -> tuple[str, ...]:
    """Those of the format that the objects are in."""
    return splits_of(path, detect(path, "boxes"))


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, without its objects: those go to what paints them."""
    images = None if ask.images is None else (path if path.is_dir() else path.parent) / ask.images
    boxes = find_format(detect(path, "boxes"), "boxes")
    assert boxes.walk is not None
    found = boxes.walk(path, replace(ask, images=images, masks=ask.fill == "masks"), report, stop)
    records, class_names = found.records, found.class_names
    asked = None if ask.classes is None else tuple(name for name in ask.classes if name != BACKGROUND)
    wanted = replace(ask, classes=asked)
    records, class_names = chosen_objects(records, class_names, wanted, where=path, report=report, stop=stop)
    if ask.coding is not None and ask.coding.classes != (BACKGROUND, *class_names):
        raise UserError("painted objects need no coding", where=path, fix="leave coding out; classes chooses an order")
    objects = {record.image_id: _objects(record, ask.fill) for record in records}
    coding = Coding(classes=(BACKGROUND, *class_names), ignored=(IGNORED_VALUE,))
    return Walked(records=[_bare(record) for record in records], coding=coding, is_chosen=True, raster=Painter(objects))


@dataclass(frozen=True)
class Painted:
    """Of one image, in the order in which they are painted."""

    values: np.ndarray  # uint16[N]
    hulls_xyxy: np.ndarray  # float64[N, 4], pixels of the whole image; infinite where it is not known
    masks: tuple[Any, ...]  # N COCO segmentations, pixels of the whole image


@dataclass(frozen=True)
class Painter:
    """Paints the label map of a record; can travel to a worker process."""

    objects: Mapping[str, Painted]  # by image_id

    def __call__(self, record: Record) -> np.ndarray:
        """uint16[h, w] of the record's window: 0 background, classes from 1, IGNORED_VALUE."""
        assert record.size_hw is not None
        height, width = record.size_hw
        window = record.window_xyxy or (0, 0, width, height)
        raster = np.zeros((height, width), np.uint16)
        one = self.objects[record.image_id]
        low, high = one.hulls_xyxy[:, :2], one.hulls_xyxy[:, 2:]
        is_near = (low <= window[2:]).all(axis=1) & (high >= window[:2]).all(axis=1)
        for number in np.flatnonzero(is_near):
            raster[rasterise(one.masks[number], window)] = one.values[number]
        return raster


def _objects(record: Record, fill: Literal["masks", "boxes"]) -> Painted:
    """Those of an image, large first; crowds and difficult ones before all, so that they cover nothing that is known.

    Raises:
        UserError: masks are wanted, and an object has none.
    """
    objects = record.objects
    if fill == "boxes":
        masks = tuple([corner.ravel().tolist()] for corner in objects.outlines)
    else:
        masks = objects.masks if objects.masks is not None else ((),) * len(objects)
        if any(not mask for mask in masks):
            fix = "fill=boxes paints boxes instead"
            raise UserError("an object without a mask", where=record.id, fix=fix)
    values = np.where(objects.is_crowd | objects.is_difficult, IGNORED_VALUE, objects.labels + 1).astype(np.uint16)
    sides = objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]
    order = np.lexsort((-np.prod(sides, axis=1), values != IGNORED_VALUE))
    masks = tuple(masks[number] for number in order)
    hulls = np.array([_hull(mask) for mask in masks], np.float64).reshape(-1, 4)
    return Painted(values=values[order], hulls_xyxy=hulls, masks=masks)


def _hull(mask: Any) -> tuple[float, float, float, float]:
    """Of polygons; of run lengths, which say theirs only when they are decoded, everywhere."""
    if isinstance(mask, dict):
        return -np.inf, -np.inf, np.inf, np.inf
    points = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in mask])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _bare(record: Record) -> Record:
    return replace(record, objects=NO_OBJECTS)


FORMAT = Format(kind="maps", splits=splits, walk=walk)  # always named: annotations of boxes are boxes
