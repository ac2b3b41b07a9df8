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
    """What of a padded batch of images is image; each lies at the top left."""

    sizes_hw: tuple[tuple[int, int], ...]  # of each image, pixels
    padded_hw: tuple[int, int]  # of the batch

    def padding(self, grid_hw: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """bool[B, h, w], true at the cells of a map of the batch that show no image, by their nearest pixel."""
        edges = []
        for axis, cells in enumerate(grid_hw):
            nearest = torch.arange(cells, device=device) * self.padded_hw[axis] // cells  # as nearest interpolation
            ends = torch.tensor([size[axis] for size in self.sizes_hw], device=device)
            edges.append(nearest[None] >= ends[:, None])
        return edges[0][:, :, None] | edges[1][:, None, :]


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The terms of a loss, each summed over the units that the head's `units` says, and figures for the log."""

    terms: Mapping[str, Tensor]  # float[] each
    metrics: Mapping[str, Ratio] = field(default_factory=dict)
