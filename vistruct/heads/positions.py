"""Where a cell lies in its image, as sines and cosines that attention can read.

Source: the position map of DETR, Carion et al., arXiv:2005.12872, appendix A.4, which Mask2Former has as well: places
    normalised to a full turn, half of the channels for y and then half for x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000  # the longest wave over the shortest


def sine_positions(padding: Tensor, width: int) -> Tensor:
    """Positions of the cells that show an image, from its top left to its bottom right.

    Args:
        padding: bool[B, h, w], true at cells that show none; they take the place of the last that does.
        width: channels, a multiple of 4.

    Returns:
        float32[B, width, h, w].
    """
    shows = (~padding).float()
    waves = TEMPERATURE ** (2 * torch.arange(width // 4, device=padding.device) / (width // 2))  # [width / 4]
    halves = []
    for axis in (1, 2):
        place = shows.cumsum(axis)
        place = place / (place.narrow(axis, place.shape[axis] - 1, 1) + 1e-6) * (2 * math.pi)
        angle = place[..., None] / waves  # [B, h, w, width / 4]
        halves.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(3))  # sine and cosine in turn
    return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)
