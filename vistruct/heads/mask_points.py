"""Masks at points: a mask is learned where it is least certain, at a few thousand points instead of all pixels.

Source: Kirillov et al., PointRend, arXiv:1912.08193, section 3.1, as Mask2Former (arXiv:2112.01527, section 3.2.3)
    samples: three times as many points as wanted, the least certain of them kept, the rest anywhere.
Differs: what is drawn follows from the step and from the objects of an image alone, so that a batch may be split in any
    way; points lie where the image is, not in the padding; the truth is read in place, never widened to float32.
Shapes: N masks, P points, x and y from 0 to 1 over a whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vistruct.heads.matching import sampler_of

Purpose = Literal["match", "oversampled", "rest"]


class Draw(Protocol):
    """Where random points come from."""

    def __call__(self, image: int, layer: int, purpose: Purpose, rows: int, points: int) -> Tensor:
        """float[rows, points, 2] in [0, 1]; asked for image by image, each purpose layer by layer."""
        ...


def drawn_for(objects: Sequence[Tensor]) -> Draw:
    """Points that follow from the step's seed and from what is in each image.

    Args:
        objects: one tensor an image, of anything that tells its objects from those of others; on their device.
    """
    generators = [sampler_of(one) for one in objects]

    def draw(image: int, layer: int, purpose: Purpose, rows: int, points: int) -> Tensor:
        generator = generators[image]
        return torch.rand(rows, points, 2, generator=generator, device=generator.device)

    return draw


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """float[N, C, h, w] read bilinearly at float[N, P, 2] -> float[N, C, P]; beyond the border is 0."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def truth_at_points(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """What `at_points` reads, of masks too large to be copied as float32; without gradient.

    Args:
        masks: bool, uint8 or float[M, H, W].
        rows: int64[N], which mask to read.
        points: float[N, P, 2], or float[1, P, 2] for all.

    Returns:
        float32[N, P].
    """
    height, width = masks.shape[1:]
    flat = masks.flatten()
    corner = points.float() * points.new_tensor([width, height]) - 0.5  # [N, P, 2]: 0 is the centre of the first pixel
    low = corner.floor()
    share = corner - low
    x, y = low.long().unbind(-1)
    columns = [
        (x.clamp(min=0), (1 - share[..., 0]) * (x >= 0)),
        ((x + 1).clamp(max=width - 1), share[..., 0] * (x < width - 1)),
    ]
    lines = [
        (y.clamp(min=0), (1 - share[..., 1]) * (y >= 0)),
        ((y + 1).clamp(max=height - 1), share[..., 1] * (y < height - 1)),
    ]
    found = flat.new_zeros(len(rows), points.shape[1], dtype=torch.float32)
    for line, down in lines:
        first = (rows[:, None] * height + line) * width
        for column, right in columns:
            found += flat[first + column] * (down * right)
    return found


def least_certain(logits: Tensor, points: Tensor, num: int) -> Tensor:
    """The `num` of float[N, P, 2] whose logits float[N, P] are nearest to a half -> float[N, num, 2]."""
    best = logits.abs().topk(num, dim=1, largest=False).indices
    return points.gather(1, best[..., None].expand(-1, -1, 2))
