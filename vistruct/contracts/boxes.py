"""What every box head learns from, and what it gives (`parts.BoxHead`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vistruct.contracts.objects import Objects
from vistruct.contracts.step import Ratio

BoxTarget = Objects[Tensor]  # the truth about one image, in pixels of the padded batch; boxes have an area
Detections = Objects[Tensor]  # what was found in it, best score first; masks as the head's `traits.masks` say


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What of a padded batch of images is image."""

    sizes_hw: tuple[tuple[int, int], ...]  # of each image, pixels
    padded_hw: tuple[int, int]  # of the batch
    corners_yx: tuple[tuple[int, int], ...] | None = None  # of each image, its first pixel; None: the top left

    def padding(self, grid_hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """bool[B, h, w], true at the cells of a map of the batch that show no image, by their nearest pixel."""
        edges = []
        corners = self.corners_yx or ((0, 0),) * len(self.sizes_hw)
        for axis, cells in enumerate(grid_hw):
            nearest = torch.arange(cells, device=device) * self.padded_hw[axis] // cells  # as nearest interpolation
            starts = torch.tensor([corner[axis] for corner in corners], device=device)
            ends = starts + torch.stack([starts.new_zeros(()) + size[axis] for size in self.sizes_hw])
            edges.append((nearest[None] < starts[:, None]) | (nearest[None] >= ends[:, None]))
        return edges[0][:, :, None] | edges[1][:, None, :]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What asks a decoder for objects, one query each: of a learned table, or states of a language model.

    Queries of one group, of the same phrase say, may stand for the group's objects in any order.
    """

    states: Tensor  # float[B, Q, D], those of a row first, then zeros
    groups: tuple[tuple[int, ...], ...]  # of each row, how many queries each of its groups has, in order

    @property
    def counts(self) -> list[int]:
        """How many queries each row has."""
        return [sum(sizes) for sizes in self.groups]

    @property
    def is_there(self) -> Tensor:
        """bool[B, Q], true at queries and false at what fills a row up."""
        counts = torch.tensor(self.counts, device=self.states.device)
        return torch.arange(self.states.shape[1], device=self.states.device)[None] < counts[:, None]


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The terms of a loss, each summed over the units that the head's `units` says, and figures for the log."""

    terms: Mapping[str, Tensor]  # float[] each
    metrics: Mapping[str, Ratio] = field(default_factory=dict)
