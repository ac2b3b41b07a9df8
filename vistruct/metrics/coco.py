"""COCO box metrics on whole images, however the images were cut into windows.

Source: the COCO detection evaluation (cocodataset.org), computed by faster-coco-eval; the tests hold it
    against pycocotools.
Differs: as many detections of an image count as the fullest image has objects (at least 100), unless told
    otherwise. With COCO's fixed 100 a scene of 500 objects cannot be recalled by more than a fifth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import BoxPrediction, Record
from vistruct.data.dataset import BEYOND_SHARE, RecordDataset
from vistruct.data.tiles import EMPTY_WINDOW, merge_windows
from vistruct.errors import UserError

SIZES = {
    "s": 1,
    "m": 2,
    "l": 3,
}  # index into COCO's area ranges: below 32^2, to 96^2, above, in pixels; 0 is all


class CocoBoxesConfig(Part):
    """How many detections of an image count."""

    kind: Literal["coco_boxes"] = "coco_boxes"
    max_detections: int | None = Field(None, gt=0)  # best of each class in an image; None: max(100, most objects)

    def build(self, dataset: RecordDataset) -> CocoBoxes:
        """Measure against the whole images that the data set's records are about.

        Raises:
            UserError: windows were left out: objects there cannot be found, false alarms do not count.
        """
        left_out = dataset.report.counts[EMPTY_WINDOW]
        if any(record.window_xyxy is not None for record in dataset.records):
            left_out += dataset.report.counts[BEYOND_SHARE]
        if left_out:
            raise UserError(
                f"{left_out} windows of the evaluation data are left out, so whole images cannot be measured",
                where="the data of an evaluation",
                fix="set share to 1 and tiles.skip_empty to false there",
            )
        images = {record.image_id for record in dataset.records}
        truths = [record for record in dataset.whole_records if record.image_id in images]
        return CocoBoxes(truths, dataset.info.class_names, self.max_detections)


class CocoBoxes:
    """Collects predictions about windows or images; `compute` joins the windows and compares."""

    def __init__(self, truths: Sequence[Record], class_names: Sequence[str], max_detections: int | None = None) -> None:
        """Measure against records of whole images, whose crowd boxes neither reward nor punish."""
        self.truths, self.class_names = tuple(truths), tuple(class_names)
        self.numbers = {record.image_id: i for i, record in enumerate(self.truths, start=1)}
        most = max((len(record.labels) for record in self.truths), default=0)
        self.max_detections = max_detections or max(100, most)
        self.predictions: list[BoxPrediction] = []

    def update(self, predictions: Sequence[BoxPrediction]) -> None:
        """Add predictions; the windows of an image may come in any order and batch.

        Raises:
            UserError: a prediction about an image that is not in the data set, or with other classes.
        """
        for prediction in predictions:
            if prediction.image_id not in self.numbers:
                raise UserError(
                    f"a prediction about {prediction.image_id!r}, which the data set does not have",
                    where=prediction.id,
                    fix="predict on the images of the data set that is evaluated",
                )
            if prediction.class_names != self.class_names:
                raise UserError(
                    f"the model knows the classes {prediction.class_names}, the data {self.class_names}",
                    where=prediction.id,
                    fix="evaluate on data with the classes that the model was trained on, in the same order",
                )
            self.predictions.append(prediction)

    def compute(self) -> dict[str, float]:
        """The figures, each in [0, 1]; NaN where there is no object to measure on.

        Returns:
            AP (mean over IoU .50:.05:.95), AP50, AP75, APs, APm, APl, AR, `AP/<class>` and `AP50/<class>` of
            each class, and `max_detections`, the limit that all of them hold for.
        """
        precision, recall = self._evaluate()
        figures = {
            "AP": _mean(precision[:, :, :, 0]),
            "AP50": _mean(precision[0, :, :, 0]),
            "AP75": _mean(precision[5, :, :, 0]),
            **{f"AP{size}": _mean(precision[:, :, :, area]) for size, area in SIZES.items()},
            "AR": _mean(recall[:, :, 0]),
        }
        for k, name in enumerate(self.class_names):
            figures[f"AP/{name}"] = _mean(precision[:, :, k, 0])
            figures[f"AP50/{name}"] = _mean(precision[0, :, k, 0])
        return {**figures, "max_detections": float(self.max_detections)}

    def _evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """float[10 IoU, 101 recall, C, 4 areas] precision and float[10, C, 4] recall; -1 where undefined."""
        truth = self._truth()
        if not truth:
            classes, areas = len(self.class_names), 1 + len(SIZES)
            return np.full((10, 101, classes, areas), -1.0), np.full((10, classes, areas), -1.0)
        shared = {
            "images": [{"id": i, "height": 0, "width": 0} for i in self.numbers.values()],  # sizes are for masks
            "categories": [{"id": k, "name": name} for k, name in enumerate(self.class_names, start=1)],
        }
        sides = [COCO({**shared, "annotations": annotations}) for annotations in (truth, self._found())]
        evaluation = COCOeval_faster(*sides, iouType="bbox")
        evaluation.params.maxDets = [self.max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]

    def _truth(self) -> list[dict[str, Any]]:
        rows = []
        for record in self.truths:
            for label, box, crowd in zip(record.labels, record.boxes_xyxy, record.is_crowd, strict=True):
                rows.append(_annotation(len(rows), self.numbers[record.image_id], label, box))
                rows[-1]["iscrowd"] = int(crowd)
        return rows

    def _found(self) -> list[dict[str, Any]]:
        rows = []
        for prediction in joined(self.predictions):
            image = self.numbers[prediction.image_id]
            boxes, scores = prediction.boxes_xyxy.float().cpu().numpy(), prediction.scores.double().tolist()
            for label, box, score in zip(prediction.labels.tolist(), boxes, scores, strict=True):
                rows.append(_annotation(len(rows), image, label, box))
                rows[-1]["score"] = score
        return rows


def joined(predictions: Sequence[BoxPrediction]) -> list[BoxPrediction]:
    """Windows merged to one prediction an image; an image seen in one piece keeps its detections."""
    pieces = Counter(prediction.image_id for prediction in predictions)
    whole = [prediction for prediction in predictions if pieces[prediction.image_id] == 1]
    return whole + merge_windows([p for p in predictions if pieces[p.image_id] > 1])


def _annotation(position: int, image: int, label: int, box_xyxy: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(side) for side in box_xyxy)  # float64 from here on, as in COCO's json
    return {
        "id": position + 1,  # 0 would mean "unmatched"
        "image_id": image,
        "category_id": int(label) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
