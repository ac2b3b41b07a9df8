"""A feature pyramid from the one map of a plain backbone.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv:2203.16527,
    section 3 (the "simple feature pyramid").
Differs: the strides are configuration, any number of doublings or halvings from the backbone's own stride;
    the paper has the factors 4, 2, 1, 1/2 of stride 16.
Shapes: map float[B, C, H, W] at stride s -> levels float[B, channels, H*s/stride, W*s/stride].
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, NeckTraits
from vistruct.errors import UserError


class SimplePyramidConfig(Part):
    """Levels at `strides`, all with the same number of channels."""

    kind: Literal["simple_pyramid"] = "simple_pyramid"
    channels: int = Field(256, gt=0)
    strides: tuple[int, ...] = Field((4, 8, 16, 32), min_length=1)  # pixels, finest first

    @field_validator("strides")
    @classmethod
    def _finest_first(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(strides)) != list(strides) or strides[0] < 1:
            raise ValueError("strides must be positive and grow from level to level")
        return strides

    def build(self, specs: tuple[FeatureSpec, ...]) -> SimplePyramid:
        """Build on the last (deepest) of the backbone's maps.

        Raises:
            UserError: a stride that doubling or halving the backbone's stride does not reach.
        """
        return SimplePyramid(self, specs)


class SimplePyramid(nn.Module):
    """float[B, C, H, W], the last of the maps given -> one float[B, channels, h, w] for each of `specs`."""

    traits = NeckTraits()

    def __init__(self, config: SimplePyramidConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        source = specs[-1]
        self.specs = tuple(FeatureSpec(channels=config.channels, stride=stride) for stride in config.strides)
        self.levels = nn.ModuleList(
            _level(source.channels, config.channels, halvings(source.stride, stride)) for stride in config.strides
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [level(maps[-1]) for level in self.levels]


def halvings(source: int, stride: int) -> int:
    """How often the stride `source` is halved to reach `stride`; negative where it is doubled.

    Raises:
        UserError: no whole number of halvings or doublings does it.
    """
    up = math.log2(source / stride)
    if up != round(up):
        possible = [source // 2**k for k in range(3, 0, -1) if source % 2**k == 0] + [source * 2**k for k in range(4)]
        raise UserError(
            f"a pyramid level of stride {stride} cannot be made from a backbone of stride {source}",
            where="neck.strides",
            fix=f"choose from {', '.join(map(str, possible))}",
        )
    return round(up)


def _level(width: int, channels: int, up: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in range(up):
        narrower = max(width // 2, 1)
        layers.append(nn.ConvTranspose2d(width, narrower, kernel_size=2, stride=2))
        if step < up - 1:  # between two doublings only, as in the paper's code
            layers += [LayerNorm2d(narrower, eps=1e-6), nn.GELU()]
        width = narrower
    layers += [nn.MaxPool2d(kernel_size=2, stride=2) for _ in range(-up)]
    layers += [
        nn.Conv2d(width, channels, kernel_size=1, bias=False),  # the norm that follows has the bias
        LayerNorm2d(channels, eps=1e-6),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(channels, eps=1e-6),
    ]
    return nn.Sequential(*layers)
