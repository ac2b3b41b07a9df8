"""What the tests of segmentation and classification share: backbones that see single pixels or cells, and scenes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import IGNORED, BackboneTraits, FeatureSpec, HeadTraits, Sample

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))  # of three classes


class CellsConfig(Part):
    """Non-overlapping cells, each seen alone: at `cell` 1, pixels."""

    kind: Literal["toy_pixels:CellsConfig"] = "toy_pixels:CellsConfig"
    channels: int = 3
    width: int = 16
    cell: int = 1

    def build(self) -> Cells:
        return Cells(self)


class Cells(nn.Module):
    def __init__(self, config: CellsConfig) -> None:
        super().__init__()
        self.specs = (FeatureSpec(channels=config.width, stride=config.cell),)
        self.traits = BackboneTraits(channels=config.channels)
        self.look = nn.Conv2d(config.channels, config.width, config.cell, config.cell)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.look(image).relu()]


class DotsConfig(Part):
    """A linear map of the last features, place by place."""

    kind: Literal["toy_pixels:DotsConfig"] = "toy_pixels:DotsConfig"
    pooled: bool = False  # over all places: a classifier

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Dots:
        return Dots(specs[-1].channels, num_classes, self.pooled)


class Dots(nn.Module):
    traits = HeadTraits()

    def __init__(self, channels: int, num_classes: int, pooled: bool) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, num_classes, 1)
        self.pooled = pooled

    def forward(self, features: list[Tensor]) -> Tensor:
        found = self.linear(features[-1])
        return found.mean((2, 3)) if self.pooled else found


def scene(seed: int, size_hw: tuple[int, int] = (24, 32), num_images: int = 1, channels: int = 3) -> Sample:
    """Blocks of 8 pixels in the classes' colours, a little noisy; the first row is IGNORED."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw
    blocks = torch.randint(len(COLOURS), (-(-height // 8), -(-width // 8)), generator=generator)
    label_map = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width].to(torch.int16)
    colours = torch.tensor(COLOURS)[label_map.long()].permute(2, 0, 1)  # [3, H, W]
    colours = colours[torch.arange(channels) % 3]
    noise = torch.randint(-30, 31, colours.shape, generator=generator)
    image = (colours + noise).clamp(0, 255).to(torch.uint8)
    label_map[0] = IGNORED
    return Sample(
        id=f"scene {seed}", image_id=f"scene {seed}", seed=seed, images=[image] * num_images, label_map=label_map
    )
