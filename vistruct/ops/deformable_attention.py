"""Multi-scale deformable attention: every query reads a few places of every map, and weighs what it reads.

Source: Zhu et al., Deformable DETR, arXiv:2010.04159, equation 3: the sampling, and the projections
    around it under the names that the published models share.
Shapes: B images, Q queries, M heads, L levels, P points a level and head, S cells over all levels, D channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.ops.precision import at_least_float32
from vistruct.ops.values import as_numbers

Sizes = Sequence[tuple[int, int]]


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


class DeformableAttention(nn.Module):
    """Queries read a few places around where they are, in every map of the other side."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int, value_width: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads, self.levels, self.points = width, heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, value_width)
        self.output_proj = nn.Linear(value_width, width)
        self.dropout = nn.Dropout(dropout)
        self.reset()

    def reset(self) -> None:
        """Start by looking around: head m in its own direction, point p at p + 1 cells, all of the same weight."""
        nn.init.zeros_(self.sampling_offsets.weight)
        turn = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([turn.cos(), turn.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # [M, 2], on a square
        steps = torch.arange(1, self.points + 1)[None, None, :, None]
        with torch.no_grad():
            looks = directions[:, None, None] * steps  # [M, 1, P, 2]
            self.sampling_offsets.bias.copy_(looks.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def resize_values(self, value_width: int, dropout: float) -> None:
        """New, empty projections of another width: weights of the other variant are about to come in."""
        like = self.value_proj.weight
        self.value_proj = nn.Linear(self.width, value_width, device=like.device, dtype=like.dtype)
        self.output_proj = nn.Linear(value_width, self.width, device=like.device, dtype=like.dtype)
        self.dropout.p = dropout

    def forward(self, query: Tensor, places: Tensor, maps: Tensor, sizes_hw: Sizes) -> Tensor:
        """float[B, Q, D] at places float[Q, 2] (x and y from 0 to 1), float[B, S, D] -> float[B, Q, D]."""
        b, q, _ = query.shape
        shape = (b, q, self.heads, self.levels, self.points)
        offsets = at_least_float32(self.sampling_offsets(query).view(*shape, 2))  # cells
        cells_xy = torch.stack([as_numbers((w, h), places) for h, w in sizes_hw])[:, None]  # [levels, 1, 2]
        weights = (
            self.attention_weights(query).view(b, q, self.heads, self.levels * self.points).softmax(-1).view(shape)
        )
        value = self.value_proj(maps)
        value = value.reshape(b, value.shape[1], self.heads, self.value_proj.out_features // self.heads)
        locations = places[:, None, None, None] + offsets / cells_xy
        return self.dropout(self.output_proj(deformable_attention(value, sizes_hw, locations, weights)))


def centres(sizes_hw: Sizes, device: torch.device) -> Tensor:
    """float32[S, 2]: x and y of every cell's centre, from 0 to 1, map after map and row by row."""
    places = []
    for h, w in sizes_hw:
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        places.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1))
    return torch.cat(places)
