"""Average precision of what answers draw, ranked by how sure the model is of each object.

Every question is an image of its own for the evaluation of COCO (`coco.py`), and the words of the truth are the
classes. A phrase whose words nobody uses in the truth is in no class: it costs nothing here, and counts in `f1_50`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vistruct.metrics.coco import coco_row, precision_recall
from vistruct.metrics.drawn import NOTHING, Drawn, Question, sigmas_of
from vistruct.metrics.drawn_numbers import Alike
from vistruct.metrics.means import known_mean
from vistruct.metrics.vqa import normalised
from vistruct.ops.mask_runs import run_area

BY: dict[str, Any] = {"mask": "segm", "keypoint": "keypoints"}  # others by their boxes
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
    truths: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, (found, truth) in enumerate(sides):
        truths += _rows(truth, number, unit, [own[normalised(name)] for name in truth.names])
        rows = _rows(found, number, unit, [class_of.get(name, -1) for name in found.names])
        scored = zip(rows, found.scores, strict=True)
        detections += [row | {"score": float(score)} for row, score in scored if row["category_id"] > 0]
    if unit == "keypoint" and truths:
        sigmas = sigmas_of(len(truths[0]["keypoints"]) // 3, sigmas).tolist()
    sizes = [_size(found, truth) for found, truth in sides]
    most = max([LEAST, *(len(one) for pair in sides for one in pair)])
    precision, _ = precision_recall(BY.get(unit, "bbox"), truths, detections, sizes, names, most, sigmas)
    return {"AP": known_mean(precision[..., 0]), "AP50": known_mean(precision[0, ..., 0])}


def _rows(drawn: Drawn, number: int, unit: str, labels: Sequence[int]) -> list[dict[str, Any]]:
    rows = [coco_row(number, label, box) for label, box in zip(labels, drawn.boxes_xyxy, strict=True)]
    for i, row in enumerate(rows):
        if unit == "mask" and drawn.masks is not None:
            row |= {"segmentation": drawn.masks[i], "area": run_area(drawn.masks[i])}
        elif unit == "keypoint" and drawn.keypoints is not None:
            points = drawn.keypoints[i]
            row |= {"keypoints": points.ravel().tolist(), "area": float(drawn.areas[i])}
            row["num_keypoints"] = int((points[:, 2] > 0).sum())
    return rows


def _size(*sides: Drawn) -> tuple[int, int]:
    """Of the masks of a question, pixels; sizes are for masks."""
    height, width = next((side.masks[0]["size"] for side in sides if side.masks), (0, 0))
    return int(height), int(width)
