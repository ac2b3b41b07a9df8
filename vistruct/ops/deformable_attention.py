"""Multi-scale deformable attention: every query reads a few places of every map, and weighs what it reads.

Source: Zhu et al., Deformable DETR, arXiv:2010.04159, equation 3 (without the projections around it).
Shapes: B images, Q queries, M heads, L levels, P points a level and head, S cells over all levels, D channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor, sizes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples; what lies outside of a map is 0.

    Args:
        value: float[B, S, M, D], the maps one after the other, each row by row.
        sizes_hw: cells of the L maps, S together.
        locations: float[B, Q, M, L, P, 2], x and y from 0 to 1 over the whole map. Computed in float32 at least: half
            precision cannot name a cell of a large map.
        weights: float[B, Q, M, L, P]; usually a softmax over L and P.

    Returns:
        float[B, Q, M * D] in the value's dtype; differentiable in value, locations and weights.

    Raises:
        ValueError: the maps do not have S cells together, or are not L.
    """
    batch, cells, heads, width = value.shape
    if sum(h * w for h, w in sizes_hw) != cells or locations.shape[3] != len(sizes_hw):
        raise ValueError(f"{cells} cells and {locations.shape[3]} levels of locations for maps of {[*sizes_hw]}")
    queries = locations.shape[1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    grids = (2 * locations.to(dtype) - 1).transpose(1, 2)  # [B, M, Q, L, P, 2], from -1 to 1
    shares = weights.to(dtype).transpose(1, 2)  # [B, M, Q, L, P]
    out = value.new_zeros(batch * heads, width, queries, dtype=dtype)
    start = 0
    for level, (h, w) in enumerate(sizes_hw):
        part = value[:, start : start + h * w].to(dtype)
        start += h * w
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = grids[:, :, :, level].flatten(0, 1)  # [B * M, Q, P, 2]
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # [B*M, D, Q, P]
        out = out + (read * shares[:, :, :, level].flatten(0, 1)[:, None]).sum(-1)
    return out.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)
