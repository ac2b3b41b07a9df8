"""From scores and oriented boxes to detections: the last steps that the oriented heads share."""

from __future__ import annotations

from torch import Tensor

from vistruct.contracts import Detections
from vistruct.ops.oriented import cxcywha_to_xyxy, normalize_le90
from vistruct.ops.oriented_nms import oriented_batched_nms


def select_oriented(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    size_hw: tuple[int, int],
    *,
    nms_iou: float,
    num: int,
    candidates: int | None = None,
) -> Detections:
    """Leave out what lies outside the image, suppress doubles class by class, keep the best.

    A box that reaches over the border stays as it is: cut off, it would be another shape or turned otherwise.

    Args:
        boxes: float[K, 5], cxcywha.
        scores: float[K].
        labels: int64[K].
        size_hw: of the real image, pixels.
        nms_iou: of two boxes of one class above it, the better one stays.
        num: of detections at most.
        candidates: best boxes that go into NMS, at most; None: all.
    """
    boxes = normalize_le90(boxes)
    hulls = cxcywha_to_xyxy(boxes)
    height, width = size_hw
    seen = (hulls[:, 0] < width) & (hulls[:, 1] < height) & (hulls[:, 2] > 0) & (hulls[:, 3] > 0)
    seen &= (boxes[:, 2:4] > 0).all(dim=1) & boxes.isfinite().all(dim=1)
    kept = seen.nonzero().squeeze(1)
    kept = kept[scores[kept].topk(min(len(kept), candidates or len(kept))).indices]
    kept = kept[oriented_batched_nms(boxes[kept], scores[kept], labels[kept], nms_iou)[:num]]
    return Detections(boxes_xyxy=hulls[kept], scores=scores[kept], labels=labels[kept], boxes_cxcywha=boxes[kept])
