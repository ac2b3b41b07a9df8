"""Means over a given number of cells, in a form that ONNX has words for whatever the size of the map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """float[B, C, H, W] -> float[B, C, bins, bins]: torch's own, and while it is exported `mean_of_cells`."""

    def __init__(self, bins: int) -> None:
        super().__init__(bins)
        self.bins = bins

    def forward(self, input: Tensor) -> Tensor:
        return mean_of_cells(input, self.bins) if torch.onnx.is_in_onnx_export() else super().forward(input)


def mean_of_cells(maps: Tensor, bins: int) -> Tensor:
    """What `adaptive_avg_pool2d` computes, as two products: a row of a matrix has the share of each pixel in a cell.

    Args:
        maps: float[B, C, H, W].
        bins: cells along either side; cell i reaches from floor(i H / bins) to ceil((i + 1) H / bins).

    Returns:
        float[B, C, bins, bins].
    """
    rows, columns = (_shares(maps.shape[axis], bins, maps) for axis in (2, 3))
    return rows @ maps @ columns.T


def _shares(length: int, bins: int, like: Tensor) -> Tensor:
    """float[bins, length]."""
    cell, place = torch.arange(bins, device=like.device), torch.arange(length, device=like.device)
    first, last = cell * length // bins, ((cell + 1) * length + bins - 1) // bins  # the last is not in the cell
    inside = ((place >= first[:, None]) & (place < last[:, None])).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
