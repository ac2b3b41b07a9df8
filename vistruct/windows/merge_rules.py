"""The rules of joining windows, as functions of pairs of detections: who overlaps whom, and who gives way.

See `merge.py` for the rules in words. Pairs are two int64[P] of numbers into a pile of N detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area

from vistruct.contracts import BoxPrediction
from vistruct.ops.hulls import overlapping_hulls
from vistruct.ops.oriented_iou import oriented_iou_aligned

SAME_IOU = 0.5  # two detections that overlap by more are surely of one object
_ROWS = 512  # detections compared with all others at once


@dataclass(frozen=True, kw_only=True)
class Pile:
    """Detections of several windows, and what must be known of them beside."""

    found: BoxPrediction
    window: Tensor  # int64[N], the number of the window each comes from
    is_cut: Tensor  # bool[N], whether it reaches an edge of its window inside the image


def overlaps(pile: Pile, overlap_iou: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs of one class and different windows that a rule could be about: both numbers (int64[P], the first smaller),
    IoU and shared area (float64[P])."""
    hulls = pile.found.objects.boxes_xyxy.double()
    oriented = None if pile.found.objects.boxes_cxcywha is None else pile.found.objects.boxes_cxcywha.double()
    area = _area(pile)
    least = min(overlap_iou, SAME_IOU)
    least = least / (1 + least)  # IoU above t needs a shared area above t / (1 + t) of both together
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for label in pile.found.objects.labels.unique().tolist():
        members = (pile.found.objects.labels == label).nonzero().squeeze(1)
        for rows in members.split(_ROWS):
            i, j = overlapping_hulls(hulls[rows], hulls[members])
            a, b = rows[i], members[j]
            is_pair = (a < b) & (pile.window[a] != pile.window[b])
            a, b = a[is_pair], b[is_pair]
            shared = _shared_hull(hulls[a], hulls[b])
            needed = least * (area[a] + area[b])
            halves = torch.where(pile.is_cut[a] | pile.is_cut[b], 0.5 * torch.minimum(area[a], area[b]), torch.inf)
            is_enough = shared >= torch.minimum(needed, halves) * (1 - 1e-9)
            a, b, shared = a[is_enough], b[is_enough], shared[is_enough]
            both = area[a] + area[b]
            if oriented is None:
                iou = shared / (both - shared).clamp(min=1e-300)
            else:
                iou = oriented_iou_aligned(oriented[a], oriented[b]).nan_to_num(nan=0.0)
                shared = iou * both / (1 + iou)
            parts.append((a, b, iou, shared))
    if not parts:
        none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
        return none, none, nothing, nothing
    a, b, iou, shared = (torch.cat(column) for column in zip(*parts, strict=True))
    return a, b, iou, shared


def explained(pile: Pile, a: Tensor, b: Tensor, iou: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """bool[P] twice: where `a` is a cut-off part that `b` explains, and the other way round (rule 1)."""
    area, scores, is_cut = _area(pile), pile.found.objects.scores.double(), pile.is_cut

    def explains(part: Tensor, whole: Tensor) -> Tensor:
        is_larger = (area[whole] > area[part]) & (shared >= 0.5 * area[part])  # strictly: never each the other
        is_uncut = ~is_cut[whole] & (iou > SAME_IOU)
        return is_cut[part] & (scores[whole] >= 0.5 * scores[part]) & (is_larger | is_uncut)

    return explains(a, b), explains(b, a)


def _area(pile: Pile) -> Tensor:
    """float64[N], px^2."""
    if pile.found.objects.boxes_cxcywha is None:
        return box_area(pile.found.objects.boxes_xyxy.double())
    return pile.found.objects.boxes_cxcywha[:, 2:4].double().prod(dim=1)


def _shared_hull(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    return (high - low).clamp(min=0).prod(dim=1)


def ranks(pile: Pile) -> Tensor:
    """int64[N], 0 the best: by score; of equal ones those that are not cut, then the larger, then as they came."""
    order = _area(pile).nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    order = order[pile.is_cut[order].to(torch.int8).argsort(stable=True)]
    scores = pile.found.objects.scores.double().nan_to_num(nan=-torch.inf)
    order = order[scores[order].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rank


def greedy(count: int, better: Tensor, worse: Tensor) -> Tensor:
    """bool[count], kept: all that no kept better one suppresses. Each round settles one more link of every chain."""
    kept = torch.ones(count, dtype=torch.bool)
    while True:
        after = torch.ones(count, dtype=torch.bool)
        after[worse[kept[better]]] = False
        if torch.equal(after, kept):
            return kept
        kept = after


def furthest(values: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """float64[N], the largest value in the group that each belongs to, linked by pairs (a, b)."""
    while True:
        after = values.scatter_reduce(0, a, values[b], "amax").scatter_reduce(0, b, values[a], "amax")
        if torch.equal(after, values):
            return values
        values = after
