"""The feature pyramid network: a top-down path that brings what coarse maps know to the fine ones.

Source: Lin et al., Feature Pyramid Networks, arXiv:1612.03144; torchvision's module.
Shapes: one map float[B, C_i, H/s_i, W/s_i] a backbone level -> float[B, channels, ...] at the same strides, and
    `extra_levels` more, each every second cell of the one before.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FeaturePyramidNetwork

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, NeckTraits
from vistruct.errors import UserError
from vistruct.necks.laterals import coarser


class FpnConfig(Part):
    """A pyramid over all maps of the backbone; the defaults are those of most two-stage detectors."""

    kind: Literal["fpn"] = "fpn"
    channels: int = Field(256, gt=0)
    extra_levels: int = Field(1, ge=0)  # beyond the backbone's coarsest map, by subsampling
    norm: bool = False  # channel-first layer norm behind every convolution

    def build(self, specs: tuple[FeatureSpec, ...]) -> Fpn:
        """Build on the backbone's maps, finest first.

        Raises:
            UserError: strides that do not grow from map to map, as those of a plain ViT's blocks.
        """
        return Fpn(self, specs)


class Fpn(nn.Module):
    """float[B, C_i, h_i, w_i] for each of the backbone's specs -> float[B, channels, h, w] for each of its own."""

    def __init__(self, config: FpnConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        strides = [spec.stride for spec in specs]
        if sorted(set(strides)) != strides:
            raise UserError(
                f"a pyramid needs maps from fine to coarse, and the backbone gives strides {strides}",
                where="neck",
                fix="use neck kind simple_pyramid for a plain ViT, or put an adapter (vit_adapter) around it",
            )
        self.specs = coarser(strides, config.channels, config.extra_levels)
        self.traits = NeckTraits(least_divisor=math.lcm(*strides))  # extra levels round up
        self.pyramid = FeaturePyramidNetwork(
            [spec.channels for spec in specs],
            config.channels,
            norm_layer=partial(LayerNorm2d, eps=1e-6) if config.norm else None,
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = list(self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        while len(levels) < len(self.specs):
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels
