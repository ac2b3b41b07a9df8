"""The loss of a batch as one number: its terms and units put together as a step would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class WholeLoss:
    total: Tensor  # the terms added up, of equal units; else their means, which are of one unit
    count: float  # units
    metrics: dict[str, float]  # `loss_TERM` and the part's own, each divided by its units

    @property
    def loss(self) -> Tensor:
        """float[], the mean."""
        return self.total / (self.count or 1.0)


def _whole(out: Any, units: Mapping[str, float | Tensor]) -> WholeLoss:
    assert list(out.terms) == list(units)
    counts = {float(number) for number in units.values()}
    terms = list(out.terms.values())
    if len(counts) > 1:
        terms = [term / (float(units[name]) or 1.0) for name, term in out.terms.items()]
        counts = {1.0}
    means = {f"loss_{name}": float(term.detach()) / (float(units[name]) or 1.0) for name, term in out.terms.items()}
    ratios = {name: float(one.total) / (float(one.count) or 1.0) for name, one in out.metrics.items()}
    return WholeLoss(torch.stack(terms).sum(), counts.pop(), means | ratios)


def head_loss(head: Any, output: Any, targets: Sequence[Any]) -> WholeLoss:
    """Of a box head; what it counts beforehand is what its loss is summed over, on images as large as `output`'s."""
    return _whole(head.loss(output, targets), head.units(targets, _size_hw(output)))


def task_loss(task: Any, batch: Any) -> WholeLoss:
    """Of a task."""
    return _whole(task(batch), task.units(batch))


def pixel_loss(loss: Any, logits: Tensor, label_map: Tensor) -> WholeLoss:
    """Of class scores."""
    return _whole(loss(logits, label_map), loss.units(label_map))


def _size_hw(output: Any) -> tuple[int, int]:
    size = vars(output).get("size_hw")
    if size is None:  # of a head of locations: what the cells or anchors of its finest level cover
        level = next(vars(output)[name] for name in ("cells_xyxy", "anchors") if name in vars(output))
        level = level[: output.level_sizes[0]]
        centres = (level[:, :2] + level[:, 2:]) / 2
        step = 2 * centres.min(dim=0).values
        size = (centres.max(dim=0).values + step / 2).round().int().tolist()[::-1]
    return size[0], size[1]
