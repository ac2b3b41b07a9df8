"""Box heads that list what they may have found, whoever chooses among it: this is what other runtimes hold of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vistruct.contracts.parts import BoxHead


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of its candidates a head keeps as detections."""

    score_threshold: float  # scores at or below are left out
    max_candidates: int | None  # best pairs of a place and a class of each level; None: all
    nms_iou: float | None  # of two boxes of one class above it, the better one stays; None: both stay
    max_detections: int  # in one image
    by_class: bool = False  # each class has a box of its own
    is_sized: bool = False  # looking depends on how large images are without their padding


@runtime_checkable
class DenseBoxHead(BoxHead, Protocol):
    """A box head whose candidates, places or proposals or queries, can be had before any of them is chosen."""

    @property
    def num_levels(self) -> int: ...

    @property
    def selection(self) -> Selection: ...

    def dense(self, output: Any, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Of each level float[B, N, C] scores, and float[B, N, 4] boxes, xyxy (or [B, N, 5], cxcywha; or [B, N * C, 4]
        `by_class`), in pixels of the padded batch. `decode` chooses among these as `selection` says.

        Args:
            sizes_hw: of the images without padding, pixels; where a head that `is_sized` has proposals, of one image.
        """
        ...
