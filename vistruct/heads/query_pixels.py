"""A query points: its product with every pixel of a fine map says where it is, and what is seen there says the rest.

Pointing is learned as a choice among the cells of the map, which gives every cell a gradient from the first step on;
a box said by a layer alone (DETR) must find its place through attention first. Which of them is quicker is measured
in docs/vtplug.md.
Shapes: N queries, B pictures, L = h * w cells, P pixels of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vistruct.contracts import FeatureSpec
from vistruct.heads.query_layers import Asked

OCTAVES = 6
REACH = 2  # cells around the best one that say together where exactly


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """Where queries point."""

    logits: Tensor  # float32[N, L]
    grid_hw: tuple[int, int]
    places_xy: Tensor  # float32[N, 2] of the picture's size: what the cells around the best one say
    seen: Tensor  # float[N, D], what is there

    @property
    def cell(self) -> Tensor:
        """float32[2]: width and height of a cell, of the picture's size."""
        height, width = self.grid_hw
        return self.places_xy.new_tensor([1 / width, 1 / height])

    def cells(self, places_xy: Tensor) -> Tensor:
        """int64[M]: in which cell each of float[M, 2] lies."""
        height, width = self.grid_hw
        column = (places_xy[:, 0] * width).long().clamp(0, width - 1)
        row = (places_xy[:, 1] * height).long().clamp(0, height - 1)
        return row * width + column

    def surprise(self, places_xy: Tensor, span: slice) -> Tensor:
        """float32[n, M]: minus the logarithm of how likely each of some queries finds each place float[M, 2]."""
        return -self.logits[span].log_softmax(dim=1)[:, self.cells(places_xy)]


class PixelPointer(nn.Module):
    """States float[N, D] of queries and a map float[B, C, h, w] -> Pointed."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.channels)  # maps of many networks are large, and would drown the places
        self.pixels = nn.Linear(spec.channels, width)
        self.asks = nn.Linear(width, width)
        self.places = nn.Linear(4 * OCTAVES, width)
        self.width = width

    def forward(self, states: Tensor, asked: Asked, level: Tensor) -> Pointed:
        _, _, height, width = level.shape
        known = self.places(fine_waves((height, width), level.device).to(level.dtype))
        pixels = self.pixels(self.norm(level.flatten(2).transpose(1, 2))) + known  # [B, L, D]
        rows = asked.rows.to(level.device)
        keys = self.asks(states).split(asked.counts)
        found = [key @ one.T for key, one in zip(keys, pixels, strict=True)]
        logits = torch.cat(found).float() / self.width**0.5
        hidden = asked.shown.padding((height, width), level.device).flatten(1)[rows]
        places, weights = _window(logits, hidden, (height, width))
        near = pixels[rows[:, None], places]  # [N, P, D]
        centres = torch.stack([(places % width + 0.5) / width, (places // width + 0.5) / height], dim=-1)
        return Pointed(
            logits=logits,
            grid_hw=(height, width),
            places_xy=(weights[..., None] * centres).sum(dim=1),
            seen=(weights[..., None].to(near.dtype) * near).sum(dim=1),
        )


def fine_waves(grid_hw: tuple[int, int], device: torch.device) -> Tensor:
    """float32[L, 4 * OCTAVES]: where each cell lies, as waves of half a turn a picture, a turn, two, ..."""
    rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in grid_hw)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = places[..., None] * (2.0 ** torch.arange(OCTAVES, device=device) * math.pi)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _window(logits: Tensor, hidden: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """int64[N, P] cells around the best one of each query, and float32[N, P] their shares of it."""
    height, width = grid_hw
    peak = logits.detach().masked_fill(hidden, -torch.inf).argmax(dim=1)
    steps = torch.arange(-REACH, REACH + 1, device=logits.device)
    down, across = (one.flatten() for one in torch.meshgrid(steps, steps, indexing="ij"))
    row, column = (peak // width)[:, None] + down, (peak % width)[:, None] + across
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    places = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    near = logits.gather(1, places)
    return places, near.masked_fill(outside | hidden.gather(1, places), -torch.inf).softmax(dim=1)


def place_loss(pointed: Pointed, places_xy: Tensor) -> Tensor:
    """float32[], summed: how surprised each query is by its own place float[N, 2]."""
    return F.cross_entropy(pointed.logits, pointed.cells(places_xy), reduction="sum")
