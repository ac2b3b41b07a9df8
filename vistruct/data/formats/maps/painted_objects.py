"""Annotations of objects as label maps: any box format, its masks (or for want of them its boxes) painted.

Class 0 is "background", where nothing is. Large objects are painted first, so that a small one on a large one stays.
Crowds, difficult and ignored objects are neither learned nor counted where nothing else is painted over them.
The same `Painter` makes label maps beside objects (`data/beside_objects.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from vistruct.contracts import NO_OBJECTS, Record
from vistruct.data.formats import find_format
from vistruct.data.formats.detect import detect, splits_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.order import chosen_objects
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.masks import hull_of_runs, rasterise
from vistruct.issues import IssueCounter

BACKGROUND = "background"
IGNORED_VALUE = 65535  # in what is painted
NO_MASK = "object without a mask: its box is painted in the label map"

Fill = Literal["masks", "boxes", "either"]


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
    painter, bare = Painter.of(records, ask.fill, report), [replace(record, objects=NO_OBJECTS) for record in records]
    return Walked(records=bare, coding=painted_coding(class_names), is_chosen=True, raster=painter)


def painted_coding(class_names: Sequence[str]) -> Coding:
    """Of what a `Painter` gives for objects of these classes."""
    return Coding(classes=(BACKGROUND, *class_names), ignored=(IGNORED_VALUE,))


@dataclass(frozen=True)
class Painted:
    """Of one image, in the order in which they are painted."""

    values: np.ndarray  # uint16[N]
    hulls_xyxy: np.ndarray  # float64[N, 4], pixels of the whole image
    masks: tuple[Any, ...]  # N COCO segmentations, pixels of the whole image


@dataclass(frozen=True)
class Painter:
    """Paints the label map of a record; can travel to a worker process."""

    objects: Mapping[str, Painted]  # by image_id

    @classmethod
    def of(cls, records: Sequence[Record], fill: Fill, report: IssueCounter) -> Self:
        """Of the objects of whole images.

        Args:
            fill: masks, and every object has one; boxes (or quads); either: boxes for want of masks, counted.

        Raises:
            UserError: masks are wanted, and an object has none.
        """
        return cls({record.image_id: _objects(record, fill, report) for record in records})

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
            near = np.r_[np.floor(low[number]) - 1, np.ceil(high[number]) + 2]  # only there, of large images
            x0, y0 = np.maximum(near[:2], window[:2]).astype(int).tolist()
            x1, y1 = np.minimum(near[2:], window[2:]).astype(int).tolist()
            if x0 < x1 and y0 < y1:
                part = raster[y0 - window[1] : y1 - window[1], x0 - window[0] : x1 - window[0]]
                part[rasterise(one.masks[number], (x0, y0, x1, y1))] = one.values[number]
        return raster


def _objects(record: Record, fill: Fill, report: IssueCounter) -> Painted:
    """Those of an image, large first; what does not count before all, so that it covers nothing that is known."""
    objects = record.objects
    masks: tuple[Any, ...] = ((),) * len(objects)
    if objects.masks is not None and fill != "boxes":
        masks = objects.masks
    without = [number for number, mask in enumerate(masks) if not mask]
    if without and fill == "masks":
        fix = "--fill boxes paints boxes instead (fill=boxes)"
        raise UserError("an object without a mask", where=record.id, fix=fix)
    for number in without if fill == "either" else ():
        report.note(NO_MASK, f"{record.id}: box {number}", "kept")
    boxes = [[corners.ravel().tolist()] for corners in objects.outlines]
    masks = tuple(mask or box for mask, box in zip(masks, boxes, strict=True))
    is_unknown = objects.is_crowd | objects.is_difficult | objects.is_ignored
    values = np.where(is_unknown, IGNORED_VALUE, objects.labels + 1).astype(np.uint16)
    sides = objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]
    order = np.lexsort((-np.prod(sides, axis=1), values != IGNORED_VALUE))
    masks = tuple(masks[number] for number in order)
    hulls = np.array([_hull(mask) for mask in masks], np.float64).reshape(-1, 4)
    return Painted(values=values[order], hulls_xyxy=hulls, masks=masks)


def _hull(mask: Any) -> tuple[float, float, float, float]:
    """Of polygons, or of run lengths."""
    if isinstance(mask, dict):
        x0, y0, x1, y1 = hull_of_runs(mask)
        return float(x0), float(y0), float(x1), float(y1)
    points = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in mask])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


FORMAT = Format(kind="maps", splits=splits, walk=walk)  # always named: annotations of boxes are boxes
