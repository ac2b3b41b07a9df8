"""Average precision of what answers draw, ranked by how sure the model is of each object.

Every question is an image of its own for the evaluation of COCO (`coco.py`), and the words of the truth are the
classes. A phrase whose words nobody uses in the truth is in no class: it costs nothing here, and counts in `f1_50`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vistruct.metrics.coco_rows import By, CocoRows, join, precision_recall
from vistruct.metrics.drawn import NOTHING, Drawn, Question, sigmas_of
from vistruct.metrics.drawn_numbers import Alike
from vistruct.metrics.means import known_mean
from vistruct.metrics.vqa import normalised

BY: dict[str, By] = {"mask": "segm", "keypoint": "keypoints"}  # others by their boxes
LEAST = 100  # detections of a question that count, as COCO's


def average_precisions(
    questions: Sequence[Question], unit: str, alike: Alike, min_alike: float, sigmas: Sequence[float] | None = None
) -> dict[str, float]:
    """AP (mean over thresholds .50:.05:.95 of IoU or OKS) and AP50, means over classes; NaN where there is no object.

    Args:
        alike: see `Alike`; a phrase is of the class whose words it is most like, if at least `min_alike`.
    """
    sides = [(one.found.get(unit, NOTHING), one.truth.get(unit, NOTHING)) for one in questions]
    names = sorted({normalised(name) for _, truth in sides for name in truth.names})
    said = sorted({name for found, _ in sides for name in found.names})
    likeness = alike(said, names)
    class_of = {
        name: int(row.argmax()) for name, row in zip(said, likeness, strict=True) if row.size and row.max() >= min_alike
    }
    own = {name: number for number, name in enumerate(names)}
    truths, detections = [], []
    for number, (found, truth) in enumerate(sides):
        truths.append(_rows(truth, number, unit, [own[normalised(name)] for name in truth.names]))
        labels = [class_of.get(name, -1) for name in found.names]
        rows = _rows(found, number, unit, labels)
        detections.append(rows.where(rows.labels >= 0))
    known = join(truths)
    if known.keypoints is not None and len(known):
        sigmas = sigmas_of(known.keypoints.shape[1], sigmas).tolist()
    sizes = [_size(found, truth) for found, truth in sides]
    most = max([LEAST, *(len(one) for pair in sides for one in pair)])
    precision, _ = precision_recall(BY.get(unit, "bbox"), known, join(detections), sizes, names, most, sigmas)
    return {"AP": known_mean(precision[..., 0]), "AP50": known_mean(precision[0, ..., 0])}


def _rows(drawn: Drawn, number: int, unit: str, labels: Sequence[int]) -> CocoRows:
    rows = CocoRows.of(number, np.array(labels), drawn.boxes_xyxy, scores=drawn.scores)
    if unit == "mask":
        return rows.with_masks(drawn.masks or ())
    if unit == "keypoint" and drawn.keypoints is not None:
        return replace(rows, keypoints=drawn.keypoints, areas=drawn.areas)
    return rows


def _size(*sides: Drawn) -> tuple[int, int]:
    """Of the masks of a question, pixels; sizes are for masks."""
    height, width = next((side.masks[0]["size"] for side in sides if side.masks), (0, 0))
    return int(height), int(width)
