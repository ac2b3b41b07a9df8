"""Deformable convolution v3 as loops written from its equation, for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def by_hand(
    value: Tensor,
    offset: Tensor,
    weights: Tensor,
    *,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    pad: int = 1,
    offset_scale: float = 1.0,
) -> Tensor:
    """The equation, one cell after the other, of the map without any border; x is the outer loop over the points."""
    (batch, height, width, channels), (_, rows, columns, _) = value.shape, weights.shape
    groups = weights.shape[-1] // kernel**2
    value, middle = value.unflatten(3, (groups, channels // groups)), dilation * (kernel - 1) // 2
    out = []
    for b in range(batch):
        for i in range(rows):
            for j in range(columns):
                for g in range(groups):
                    total = value.new_zeros(channels // groups)
                    for p in range(kernel**2):
                        k = g * kernel**2 + p
                        tap_x, tap_y = dilation * (p // kernel) - middle, dilation * (p % kernel) - middle
                        x = j * stride - pad + middle + offset_scale * (tap_x + offset[b, i, j, 2 * k])
                        y = i * stride - pad + middle + offset_scale * (tap_y + offset[b, i, j, 2 * k + 1])
                        for row in (int(y.detach().floor()) + k for k in (0, 1)):
                            for column in (int(x.detach().floor()) + k for k in (0, 1)):
                                if 0 <= row < height and 0 <= column < width:
                                    share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                                    total = total + weights[b, i, j, k] * share * value[b, row, column, g]
                    out.append(total)
    return torch.stack(out).view(batch, rows, columns, channels)
