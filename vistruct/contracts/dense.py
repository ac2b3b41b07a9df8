"""Box heads whose work is a fixed row of operations on tensors, which other runtimes can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vistruct.contracts.parts import BoxHead


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of its candidates a head keeps as detections."""

    score_threshold: float  # scores at or below are left out
    max_candidates: int  # best pairs of a place and a class of each level
    nms_iou: float  # of two boxes of one class above it, the better one stays
    max_detections: int  # in one image


@runtime_checkable
class DenseBoxHead(BoxHead, Protocol):
    """A box head that says the same of every place of its levels, whatever is in the image."""

    @property
    def num_levels(self) -> int: ...

    @property
    def selection(self) -> Selection: ...

    def dense(self, output: Any) -> list[tuple[Tensor, Tensor]]:
        """Of each level float[B, N, C] scores, and float[B, N, 4] boxes, xyxy (or [B, N, 5], cxcywha), in pixels of
        the padded batch, not clipped. `decode` chooses among these as `selection` says."""
        ...
