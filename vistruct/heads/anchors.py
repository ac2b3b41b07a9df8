"""Anchors: boxes of a few shapes, laid over every location of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):
    """torchvision's anchors with the strides given.

    Differs: there the strides are guessed from the sizes of image and maps, which is wrong where a level was
        rounded up.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        """`sizes` are the sides of each level's anchors in pixels, `ratios` height / width."""
        super().__init__(tuple(tuple(level) for level in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.num_shapes = len(sizes[0]) * len(ratios)  # at each location

    def lay(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Of each level float[h * w * num_shapes, 4], xyxy in pixels, row by row, the shapes of a location together."""
        return self._grids([list(f.shape[-2:]) for f in features], features[0].device)

    def over(self, size_hw: tuple[int, int], device: torch.device) -> list[Tensor]:
        """As `lay`, on images of `size_hw` pixels, padding included."""
        return self._grids([[-(-side // stride) for side in size_hw] for stride in self.strides], device)

    def _grids(self, sizes: list[list[int]], device: torch.device) -> list[Tensor]:
        self.set_cell_anchors(torch.float32, device)
        steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        return self.grid_anchors(sizes, steps)
