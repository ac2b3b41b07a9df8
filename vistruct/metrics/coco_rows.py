"""Objects and detections as columns, and COCO's precision and recall of them.

Source: the COCO detection evaluation (cocodataset.org), computed by hotcoco.
Boxes go there as arrays: a dict for each detection would take longer than the whole evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from hotcoco import COCO, COCOeval

from vistruct.ops.mask_runs import run_area

By = Literal["bbox", "segm", "keypoints"]
NUM_AREAS = {"bbox": 4, "segm": 4, "keypoints": 3}  # all, small, medium, large; key points have no small


@dataclass(frozen=True, kw_only=True)
class CocoRows:
    """N objects or detections of any images."""

    images: np.ndarray  # int64[N], the number of the image, from 0
    labels: np.ndarray  # int64[N], class
    boxes_xyxy: np.ndarray  # float64[N, 4], pixels
    areas: np.ndarray  # float64[N], pixels, by which small, medium and large are told apart
    is_crowd: np.ndarray  # bool[N]; of the truth alone
    scores: np.ndarray  # float64[N]; of detections alone
    masks: tuple[Any, ...] | None = None  # run lengths of the whole image, compressed
    keypoints: np.ndarray | None = None  # float64[N, K, 3]: x, y and visibility

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of(
        cls,
        image: int,
        labels: np.ndarray,
        boxes_xyxy: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        is_crowd: np.ndarray | None = None,
    ) -> CocoRows:
        """Those of one image; areas are those of the boxes."""
        boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)  # float64 from here on, as in COCO's json
        num = len(boxes)
        return cls(
            images=np.full(num, image, np.int64),
            labels=np.asarray(labels, np.int64),
            boxes_xyxy=boxes,
            areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            is_crowd=np.zeros(num, bool) if is_crowd is None else is_crowd,
            scores=np.zeros(num) if scores is None else np.asarray(scores, np.float64),
        )

    def with_masks(self, masks: Sequence[Any]) -> CocoRows:
        """With these masks, and their areas."""
        areas = np.array([run_area(runs) for runs in masks], np.float64)
        return replace(self, masks=tuple(masks), areas=areas)

    def where(self, keep: np.ndarray) -> CocoRows:
        """Those of which `keep`, bool[N], is true."""
        return CocoRows(
            images=self.images[keep],
            labels=self.labels[keep],
            boxes_xyxy=self.boxes_xyxy[keep],
            areas=self.areas[keep],
            is_crowd=self.is_crowd[keep],
            scores=self.scores[keep],
            masks=None if self.masks is None else tuple(m for m, kept in zip(self.masks, keep, strict=True) if kept),
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    def table(self) -> np.ndarray:
        """float64[N, 7]: image, left, top, width, height, score and COCO's number of the class."""
        return np.column_stack([self.images, _xywh(self.boxes_xyxy), self.scores, self.labels + 1])

    def annotations(self) -> list[dict[str, Any]]:
        """As in COCO's json; class `label` is number label + 1 there."""
        columns = {
            "id": range(1, len(self) + 1),
            "image_id": self.images.tolist(),
            "category_id": (self.labels + 1).tolist(),
            "bbox": _xywh(self.boxes_xyxy).tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.is_crowd.astype(int).tolist(),
            "score": self.scores.tolist(),
        }
        if self.masks is not None:
            columns["segmentation"] = self.masks
        if self.keypoints is not None:
            columns["keypoints"] = self.keypoints.reshape(len(self), -1).tolist()
            columns["num_keypoints"] = (self.keypoints[..., 2] > 0).sum(axis=1).tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def join(parts: Sequence[CocoRows]) -> CocoRows:
    """All rows in one; masks and key points are there where each part that is not empty has them."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return CocoRows.of(0, np.zeros(0), np.zeros((0, 4)))
    masks = [part.masks for part in parts if part.masks is not None]
    points = [part.keypoints for part in parts if part.keypoints is not None]
    return CocoRows(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        boxes_xyxy=np.concatenate([part.boxes_xyxy for part in parts]),
        areas=np.concatenate([part.areas for part in parts]),
        is_crowd=np.concatenate([part.is_crowd for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        masks=tuple(mask for part in masks for mask in part) if len(masks) == len(parts) else None,
        keypoints=np.concatenate(points) if len(points) == len(parts) else None,
    )


def precision_recall(
    by: By,
    truth: CocoRows,
    found: CocoRows,
    sizes_hw: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    max_detections: int,
    sigmas: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """float[10 IoU, 101 recall, C, areas] precision and float[10, C, areas] recall; NaN where undefined.

    The areas are all, small, medium and large, of key points all, medium and large.

    Args:
        truth, found: objects and detections, images numbered from 0.
        sizes_hw: of each image, pixels; used for masks alone.
        sigmas: of each key point, how far annotators disagree (COCO's constants); None: those of COCO's 17.
    """
    if not len(truth):
        classes, areas = len(class_names), NUM_AREAS[by]
        return np.full((10, 101, classes, areas), np.nan), np.full((10, classes, areas), np.nan)
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes_hw)]
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)]
    if by == "bbox":
        boxes = truth.images, truth.labels + 1, _xywh(truth.boxes_xyxy)
        known = COCO.from_arrays(images, categories, *boxes, area=truth.areas, iscrowd=truth.is_crowd.astype(np.int64))
        guessed = known.load_res(found.table())
    else:  # of a table the areas would be those of the boxes
        known, guessed = (
            COCO({"images": images, "categories": categories, "annotations": rows.annotations()})
            for rows in (truth, found)
        )
    evaluation = COCOeval(known, guessed, by)
    params = evaluation.params  # a copy
    params.max_dets = [max_detections]
    if sigmas is not None:
        params.kpt_oks_sigmas = list(sigmas)
    evaluation.params = params
    evaluation.evaluate()
    evaluation.accumulate()
    figures: Any = evaluation.eval
    precision, recall = (np.asarray(figures[name])[..., 0] for name in ("precision", "recall"))  # -1 where undefined
    return np.where(precision > -1, precision, np.nan), np.where(recall > -1, recall, np.nan)


def _xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)
