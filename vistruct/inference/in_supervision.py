"""Predictions as the package `supervision` has them: for its annotators, trackers, zones and metrics."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vistruct.contracts import BoxPrediction, ClassPrediction, PanopticPrediction
from vistruct.errors import UserError
from vistruct.inference.scenes import Case, size_hw_of
from vistruct.ops.oriented import cxcywha_to_quads

MOST_BYTES = 2**32  # of masks, each of which is as large as the image there


def detections(case: Case, found: BoxPrediction) -> Any:
    """`supervision.Detections`: `xyxy` float32[N, 4] in pixels (of oriented boxes the hulls), `confidence` float32[N],
    `class_id` int64[N]; oriented boxes as `data["xyxyxyxy"]` float32[N, 4, 2]; `mask` bool[N, H, W], if it has masks.

    Raises:
        UserError: supervision is not installed; masks that take more than 4 GiB there.
    """
    sv, objects = _supervision(), found.objects.arrays()
    data: dict[str, Any] = {"class_name": _named(found.class_names, objects.labels)}
    if found.objects.boxes_cxcywha is not None:
        data["xyxyxyxy"] = cxcywha_to_quads(found.objects.boxes_cxcywha.float()).cpu().numpy()
    masks = None
    if objects.masks is not None:
        masks = _room_for(len(objects), case)
        for mask, patch in zip(masks, objects.masks, strict=True):
            height, width = patch.pixels.shape
            mask[patch.y : patch.y + height, patch.x : patch.x + width] = patch.pixels
    return sv.Detections(
        xyxy=objects.boxes_xyxy.astype(np.float32),
        mask=masks,
        confidence=objects.scores.astype(np.float32),
        class_id=objects.labels.astype(np.int64),
        data=data,
    )


def segments(case: Case, found: PanopticPrediction) -> Any:
    """`supervision.Detections` of things and stuff: a mask, its box, score and class each; no box is without a pixel.

    Raises:
        UserError: as `detections`.
    """
    sv, map_of = _supervision(), found.segment_map.cpu().numpy()
    there = [number for number in range(len(found.segments)) if (map_of == number + 1).any()]
    masks = _room_for(len(there), case)
    boxes = np.zeros((len(there), 4), np.float32)
    for row, number in enumerate(there):
        masks[row] = map_of == number + 1
        y, x = np.nonzero(masks[row])
        boxes[row] = x.min(), y.min(), x.max() + 1, y.max() + 1
    labels = np.array([found.segments[number].label for number in there], np.int64)
    return sv.Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array([found.segments[number].score for number in there], np.float32),
        class_id=labels,
        data={"class_name": _named(found.class_names, labels)},
    )


def classifications(case: Case, found: ClassPrediction) -> Any:
    """`supervision.Classifications`: `class_id` int64[K] and `confidence` float32[K] of every class.

    Raises:
        UserError: supervision is not installed.
    """
    scores = found.scores.float().cpu().numpy()
    return _supervision().Classifications(class_id=np.arange(len(scores)), confidence=scores)


def _named(class_names: Sequence[str], labels: np.ndarray) -> np.ndarray:
    return np.array([class_names[label] for label in labels], dtype=np.str_)


def _room_for(number: int, case: Case) -> np.ndarray:
    height, width = size_hw_of(case.pictures[0])
    if number * height * width > MOST_BYTES:
        what = f"{number} masks of {width} x {height} pixels take {number * height * width / 2**30:.1f} GiB there"
        raise UserError(what, where=case.name, fix="ask with min_score, or of a part of the image")
    return np.zeros((number, height, width), bool)


def _supervision() -> Any:
    try:
        return importlib.import_module("supervision")
    except ImportError:
        fix = 'pip install "vistruct[supervision]"'
        raise UserError("this needs the package supervision", where="to_supervision", fix=fix) from None
