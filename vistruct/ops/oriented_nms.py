"""Greedy non-maximum suppression of oriented boxes, exact and fast both where few and where all of them survive.

Boxes are taken best first, in blocks of those still alive. A block is settled within itself, then what it keeps
suppresses the boxes after it. IoU is computed for pairs with overlapping hulls that are both still alive, and never
for a box once it is suppressed: where everything overlaps, the first block leaves next to nothing to do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vistruct.ops.hulls import overlapping_hulls
from vistruct.ops.oriented_iou import box_hulls, box_table, pair_iou

FIRST_BLOCK = 32  # boxes; the next is four times as large


def oriented_nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Keep each box that no better kept box overlaps by more than `iou`.

    Args:
        boxes: float[N, 5], cxcywha, pixels and radians. One without area, or not finite, overlaps nothing: it is kept.
        scores: float[N]; NaN ranks last. Of equal scores the lower index is the better one.
        iou: a box is dropped when its IoU with a kept one is greater, in [0, 1].

    Returns:
        int64[K], indices of the kept boxes, best first.

    Raises:
        ValueError: not [N, 5] and [N], or `iou` is not in [0, 1].
    """
    return _suppress(boxes, scores, None, iou)


def oriented_batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """As `oriented_nms`, where boxes of different labels leave each other alone.

    Args:
        labels: int64[N]; compared as they are: boxes are not moved apart, which would cost precision.

    Returns:
        int64[K], indices of the kept boxes of all labels, best first.
    """
    if labels.shape != scores.shape:
        raise ValueError(f"{list(labels.shape)} labels for {list(scores.shape)} scores")
    return _suppress(boxes, scores, labels, iou)


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou: float) -> Tensor:
    if boxes.shape != (len(boxes), 5) or scores.shape != (len(boxes),):
        raise ValueError(f"expected boxes [N, 5] and scores [N], got {list(boxes.shape)} and {list(scores.shape)}")
    if not 0 <= iou <= 1:
        raise ValueError(f"iou={iou} is not in [0, 1]")
    order = scores.detach().nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    boxes = boxes.detach()[order].double()
    labels = None if labels is None else labels[order]
    hulls, table = box_hulls(boxes), box_table(boxes)

    def suppressing(these: Tensor, those: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs, better first, that overlap by more than `iou`: int64[P] into `these`, int64[P] into `those`."""
        one, other = overlapping_hulls(hulls[these], hulls[those])
        better, worse = these[one], those[other]
        counts = better < worse if labels is None else (better < worse) & (labels[better] == labels[worse])
        one, other, better, worse = one[counts], other[counts], better[counts], worse[counts]
        overlaps = pair_iou(table, table, better, worse) > iou
        return one[overlaps], other[overlaps]

    alive = torch.arange(len(boxes), device=boxes.device)  # int64[A], places in `order`, ascending
    kept = []
    block = FIRST_BLOCK
    while len(alive):
        now, alive = alive[:block], alive[block:]
        better, worse = suppressing(now, now)
        now = now[_settle(len(now), better, worse)]
        _, worse = suppressing(now, alive)
        stays = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        stays[worse] = False
        alive = alive[stays]
        kept.append(now)
        block *= 4
    return order[torch.cat(kept)] if kept else order


def _settle(count: int, better: Tensor, worse: Tensor) -> Tensor:
    """bool[count]: the greedy choice among boxes 0, 1, ..., where box better[i] < worse[i] suppresses that one.

    Every box starts as kept. In each round a box is kept unless one that was kept suppresses it: after k rounds the
    boxes at the end of chains of at most k are right for good, so this ends, and where it ends it is the greedy choice.
    """
    keep = torch.ones(count, dtype=torch.bool, device=better.device)
    while True:
        new = torch.ones_like(keep)
        new[worse[keep[better]]] = False
        if torch.equal(new, keep):
            return keep
        keep = new
