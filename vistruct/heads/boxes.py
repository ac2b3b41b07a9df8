"""What every box head does with its targets: single objects and regions apart, and the units of the loss counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vistruct.contracts import BoxTarget


def split(target: BoxTarget) -> tuple[Tensor, Tensor, Tensor]:
    """float[M, 4] boxes and int64[M] labels of the single objects, float[K, 4] regions to be left out of account."""
    single, boxes = target.is_single, target.boxes_xyxy.float()
    return boxes[single], target.labels[single], boxes[~single]


def split_oriented(target: BoxTarget) -> tuple[Tensor, Tensor, Tensor]:
    """As `split`, with float[M, 5] and float[K, 5] cxcywha."""
    if target.boxes_cxcywha is None:
        raise ValueError("the target of an oriented head has no oriented boxes")
    single, boxes = target.is_single, target.boxes_cxcywha.float()
    return boxes[single], target.labels[single], boxes[~single]


def count_matched(matched: Iterable[Tensor]) -> Tensor:
    """float64[], over images: the locations or anchors of int64[N] that stand for an object (0 or above)."""
    return torch.stack([(one >= 0).sum(dtype=torch.float64) for one in matched]).sum()


def count_images(targets: Sequence[BoxTarget], names: Sequence[str]) -> dict[str, float]:
    """The units of terms of which each is a mean over an image: all images count, with or without objects."""
    return dict.fromkeys(names, float(len(targets)))


def add_images(parts: Sequence[Sequence[Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The losses of several images, each a list of float[] in the order of `names`, as terms summed over them."""
    return dict(zip(names, torch.stack([torch.stack(list(part)) for part in parts]).sum(dim=0), strict=True))
