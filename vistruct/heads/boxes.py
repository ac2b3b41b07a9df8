"""What every box head learns from, and what it gives: the two dataclasses on its border.

A head has four verbs: `forward(features) -> output`, `loss(output, targets) -> HeadLoss`, `units(targets, size_hw)`,
which says before that how many units each term of the loss is summed over, and
`decode(output, sizes_hw) -> list[Detections]`. Class indices count from 0; background is not a class.
A head that learns from oriented boxes or masks says so in its `traits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from vistruct.contracts import Ratio


@dataclass(frozen=True, kw_only=True)
class BoxTarget:
    """The truth about one image, in pixels of the padded batch. Boxes are finite and have an area."""

    boxes_xyxy: Tensor  # float[N, 4]; of oriented objects the hulls
    labels: Tensor  # int64[N], from 0
    is_crowd: Tensor  # bool[N]: a region of many objects, neither one object nor background
    boxes_cxcywha: Tensor | None = None  # float[N, 5], le90; there for oriented heads
    masks: Tensor | None = None  # bool[N, H, W] on the padded batch's grid; there for heads with masks

    def to(self, device: torch.device) -> Self:
        """The same truth on `device`."""
        return type(self)(
            boxes_xyxy=self.boxes_xyxy.to(device),
            labels=self.labels.to(device),
            is_crowd=self.is_crowd.to(device),
            boxes_cxcywha=None if self.boxes_cxcywha is None else self.boxes_cxcywha.to(device),
            masks=None if self.masks is None else self.masks.to(device),
        )

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """float[M, 4] boxes and int64[M] labels of the single objects, float[K, 4] crowd regions."""
        single = ~self.is_crowd
        return self.boxes_xyxy[single].float(), self.labels[single], self.boxes_xyxy[self.is_crowd].float()

    def split_oriented(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `split`, with float[M, 5] and float[K, 5] cxcywha."""
        if self.boxes_cxcywha is None:
            raise ValueError("the target of an oriented head has no oriented boxes")
        single = ~self.is_crowd
        boxes = self.boxes_cxcywha.float()
        return boxes[single], self.labels[single], boxes[self.is_crowd]


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The terms of a loss, each summed over the units that the head's `units` says, and figures for the log."""

    terms: Mapping[str, Tensor]  # float[] each
    metrics: Mapping[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one image, best score first, in pixels of the padded batch."""

    boxes_xyxy: Tensor  # float[N, 4], with an area; horizontal heads clip them to the real (unpadded) image
    scores: Tensor  # float[N], in [0, 1]
    labels: Tensor  # int64[N], from 0
    boxes_cxcywha: Tensor | None = None  # float[N, 5], le90; given by oriented heads, with `boxes_xyxy` their hulls
    masks: Tensor | None = None  # float[N, m, m], probability on a grid over each box; given by heads with masks


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """The largest part of each box's area that lies in one of the regions.

    Args:
        boxes: float[N, 4], xyxy.
        regions: float[K, 4], xyxy.

    Returns:
        float[N] in [0, 1]; 0 where there is no region or the box has no area.
    """
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])  # [N, K, 2]
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)  # [N, K], px^2
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)  # [N], px^2
    return (shared / area.clamp(min=1e-9)[:, None]).amax(dim=1)


def count_matched(matched: Iterable[Tensor]) -> Tensor:
    """float64[], over images: the locations or anchors of int64[N] that stand for an object (0 or above)."""
    return torch.stack([(one >= 0).sum(dtype=torch.float64) for one in matched]).sum()


def count_images(targets: Sequence[BoxTarget], names: Sequence[str]) -> dict[str, float]:
    """The units of terms of which each is a mean over an image: all images count, with or without objects."""
    return dict.fromkeys(names, float(len(targets)))


def add_images(parts: Sequence[Sequence[Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The losses of several images, each a list of float[] in the order of `names`, as terms summed over them."""
    return dict(zip(names, torch.stack([torch.stack(list(part)) for part in parts]).sum(dim=0), strict=True))
