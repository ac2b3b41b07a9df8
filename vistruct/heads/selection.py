"""From scores and boxes to detections: the last steps that the heads share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from vistruct.contracts import Detections, Selection
from vistruct.ops.values import as_numbers


def best_of_levels(
    scores: Tensor, level_sizes: Sequence[int], threshold: float, num: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best candidates of each level of a dense head, level by level.

    Args:
        scores: float[N, C], of one image, over all levels.
        level_sizes: of each level its number of rows; they add up to N.
        threshold: only scores above it.
        num: of pairs (row, class) in a level at most.

    Returns:
        int64[K] rows, int64[K] classes and float[K] scores.
    """
    rows, labels, kept = [], [], []
    start = 0
    for length in level_sizes:
        level = scores[start : start + length]  # [n, C]
        row, label = (level > threshold).nonzero(as_tuple=True)
        best = level[row, label].topk(min(len(row), num))
        rows.append(row[best.indices] + start)
        labels.append(label[best.indices])
        kept.append(best.values)
        start += length
    return torch.cat(rows), torch.cat(labels), torch.cat(kept)


def selection_of(config: Any) -> Selection:
    """What the settings of a dense head say of its detections."""
    return Selection(
        score_threshold=config.score_threshold,
        max_candidates=config.max_candidates,
        nms_iou=config.nms_iou,
        max_detections=config.max_detections,
    )


def proposed(config: Any, *, by_class: bool = False) -> Selection:
    """What the settings of a head with proposals say of its detections: all of them are candidates."""
    return Selection(
        score_threshold=config.score_threshold,
        max_candidates=None,
        nms_iou=config.nms_iou,
        max_detections=config.max_detections,
        by_class=by_class,
        is_sized=True,
    )


def by_level(scores: Tensor, boxes: Tensor, level_sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """float[B, N, C] and float[B, N, 4 or 5] over all levels -> the same of each."""
    levels, start = [], 0
    for length in level_sizes:
        levels.append((scores[:, start : start + length], boxes[:, start : start + length]))
        start = start + length
    return levels


def select_classes(
    boxes: Tensor,
    probabilities: Tensor,
    size_hw: tuple[int, int],
    config: Any,
    select: Callable[..., Detections],
) -> Detections:
    """Detections of one image from proposals, of which each may be of several classes.

    Args:
        boxes: float[P, K, 4] xyxy or float[P, K, 5] cxcywha; K = C boxes by class, or K = 1 for all classes.
        probabilities: float[P, C + 1], the last the background's.
        size_hw: of the real image, pixels.
        config: a head's, with its `score_threshold`, `nms_iou` and `max_detections`.
        select: `select_detections`, or its like for these boxes.
    """
    row, label = (probabilities[:, :-1] > config.score_threshold).nonzero(as_tuple=True)
    chosen, scores = boxes[row, label if boxes.shape[1] > 1 else 0], probabilities[row, label]
    return select(chosen, scores, label, size_hw, nms_iou=config.nms_iou, num=config.max_detections)


def clipped(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """float[..., 4] within an image; as torchvision's, and of a size too that is being traced for ONNX."""
    height, width = size_hw
    return torch.minimum(boxes_xyxy.clamp(min=0), as_numbers((width, height, width, height), boxes_xyxy))


def select_detections(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, size_hw: tuple[int, int], *, nms_iou: float, num: int
) -> Detections:
    """Clip to the image, leave out what has no area left, suppress doubles class by class, keep the best.

    Args:
        boxes_xyxy: float[K, 4].
        scores: float[K].
        labels: int64[K].
        size_hw: of the real image, pixels.
        nms_iou: of two boxes of one class above it, the better one stays.
        num: of detections at most.
    """
    boxes = clip_boxes_to_image(boxes_xyxy, size_hw)
    solid = remove_small_boxes(boxes, min_size=1e-2)  # what lay in the padding has no area left
    boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
    keep = batched_nms(boxes, scores, labels, nms_iou)[:num]
    return Detections(boxes_xyxy=boxes[keep], scores=scores[keep], labels=labels[keep])
