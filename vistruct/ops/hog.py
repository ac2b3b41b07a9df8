"""Histograms of oriented gradients, channel by channel: what MaskFeat tells of what is hidden.

Source: MaskFeat (arXiv:2112.09133) and its public code: Sobel kernels over a mirrored border, unsigned angles counted
    in bins without interpolation, sums over cells of magnitude, the bins of each cell and channel brought to length 1.
Differs: no kernel runs as a convolution, so that autocast rounds no gradient; a cell without gradient is all zeros.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def oriented_gradients(images: Tensor, cell: int, bins: int = 9) -> Tensor:
    """
    Args:
        images: float[B, C, H, W] in any unit, H and W at least 2 and multiples of `cell`. Whole numbers have exact
            gradients: values that were normalised leave a flat border some angle of their rounding.
        cell: pixels.

    Returns:
        float[B, C, H / cell, W / cell, bins], of length 1 in each cell, or 0; bin 0 begins at a gradient that points
        down, and the angle turns towards the left.
    """
    x = F.pad(images.float(), (1, 1, 1, 1), mode="reflect")
    down, across = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:], x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    gx, gy = down[..., :-2] - down[..., 2:], across[:, :, :-2] - across[:, :, 2:]  # [B, C, H, W]
    angle = torch.atan2(gx, gy) / math.pi * bins
    at = angle.floor().long() % bins
    counted = F.one_hot(at, bins) * (gx.square() + gy.square()).sqrt()[..., None]
    height, width = (side // cell for side in images.shape[2:])
    cells = counted.unflatten(3, (width, cell)).unflatten(2, (height, cell))  # [B, C, h, cell, w, cell, bins]
    return F.normalize(cells.sum(dim=(3, 5)), dim=-1)


def drawn_gradients(found: Tensor, side: int) -> Tensor:
    """Each cell as strokes along its edges, across its gradients, as bright as its bins; channels are averaged.

    Args:
        found: float[B, C, h, w, bins]; below 0 is not drawn.
        side: pixels of a cell.

    Returns:
        uint8[B, 1, h * side, w * side].
    """
    bins = found.shape[-1]
    theta = (torch.arange(bins, device=found.device) + 0.5) / bins * math.pi
    at = torch.arange(side, device=found.device) - (side - 1) / 2
    away = (at * theta.sin()[:, None, None] + at[:, None] * theta.cos()[:, None, None]).abs()  # [bins, side, side]
    strokes = (1 - away).clamp(min=0) * ((at.square() + at[:, None].square()).sqrt() < side / 2)
    drawn = torch.einsum("bhwk,kij->bhiwj", found.float().clamp(min=0).mean(dim=1), strokes)
    return (255 * drawn.clamp(max=1)).round().to(torch.uint8).flatten(3).flatten(1, 2)[:, None]
