"""How alike two sets of key points are: COCO's object key point similarity.

Source: https://cocodataset.org/#keypoints-eval; the spreads are COCO's, of what several people annotated.
Shapes: N objects, K key points of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
    0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
OTHER_SIGMA = sum(COCO_SIGMAS) / len(COCO_SIGMAS)  # of key points that are not COCO's 17
AREA_OF_BOX = 0.53  # of an object, where only its box is known: what COCO's people fill of theirs on average


def sigmas_of(number: int) -> tuple[float, ...]:
    """How far annotators are apart at each key point, as part of the object's size."""
    return COCO_SIGMAS if number == len(COCO_SIGMAS) else (OTHER_SIGMA,) * number


def key_point_similarity(
    said_xy: Tensor, true_xy: Tensor, counts: Tensor, areas: Tensor, sigmas: tuple[float, ...]
) -> Tensor:
    """float[N] in [0, 1], 0 where no key point counts; near 1 where all lie within what annotators are apart.

    Args:
        said_xy: float[N, K, 2], pixels.
        true_xy: the same.
        counts: bool[N, K], those that are annotated.
        areas: float[N], of the objects, square pixels.
        sigmas: K of them.
    """
    spread = 2 * said_xy.new_tensor(sigmas)  # COCO's own factor
    distance = (said_xy - true_xy).square().sum(dim=2)
    alike = torch.exp(-distance / (2 * areas.clamp(min=1)[:, None] * spread**2)) * counts
    return alike.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
