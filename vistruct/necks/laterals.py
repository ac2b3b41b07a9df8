"""Every map by itself: a 1x1 and a 3x3 convolution, each with a norm, no activation and no top-down path.

Source: the neck of ViTP's detection models, the last layers of ViTDet's pyramid (arXiv:2203.16527) on each map of an
    adapter whose maps know of each other already.
Shapes: one map float[B, C_i, H/s_i, W/s_i] a backbone level -> float[B, channels, ...] at the same strides, and
    `extra_levels` more, each every second cell of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, NeckTraits


class LateralsConfig(Part):
    """Levels with the same number of channels; the defaults are ViTP's."""

    kind: Literal["laterals"] = "laterals"
    channels: int = Field(256, gt=0)
    extra_levels: int = Field(1, ge=0)  # beyond the backbone's coarsest map, by subsampling

    def build(self, specs: tuple[FeatureSpec, ...]) -> Laterals:
        return Laterals(self, specs)


class Laterals(nn.Module):
    """float[B, C_i, h_i, w_i] for each of the backbone's specs -> float[B, channels, h, w] for each of its own."""

    def __init__(self, config: LateralsConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        self.specs = coarser([spec.stride for spec in specs], config.channels, config.extra_levels)
        self.traits = NeckTraits(least_divisor=math.lcm(*(s.stride for s in specs)))  # extra levels round up
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(spec.channels, config.channels, 1, bias=False),  # the norm that follows has the bias
                LayerNorm2d(config.channels, eps=1e-6),
                nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False),
                LayerNorm2d(config.channels, eps=1e-6),
            )
            for spec in specs
        )
        for module in self.levels.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [level(m) for level, m in zip(self.levels, maps, strict=True)]
        while len(levels) < len(self.specs):
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels


def coarser(strides: Sequence[int], channels: int, extra: int) -> tuple[FeatureSpec, ...]:
    """Specs at these strides and at `extra` more, each twice the last."""
    every = [*strides, *(strides[-1] * 2**k for k in range(1, extra + 1))]
    return tuple(FeatureSpec(channels=channels, stride=stride) for stride in every)
