"""Colours as another camera, hour or season would give them: brightness, contrast, saturation and hue, each half of
the time.

Source: MMSegmentation's PhotoMetricDistortion, after SSD; ViTP's change detection has the narrow ranges of Open-CD.
There brightness is *added* and contrast is a factor about black; saturation and hue are those of HSV.
Differs: rounded instead of cut off, hue in 256 steps of a circle instead of 180. By Pillow's HSV: torchvision's hue
takes twice the time, and its saturation is a blend with grey. Images of 16 bits and of floats are changed as floats,
without a table and without Pillow: no level is lost.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.ops.values import from_unit, to_unit


class Distort(Part):
    """Changes of colour with independent chances, a pure function of the sample and its seed."""

    brightness: float = Field(32.0, ge=0, le=255)  # most that is added or taken away, of 255
    contrast: tuple[float, float] = (0.5, 1.5)  # lowest and highest factor of all values
    saturation: tuple[float, float] = (0.5, 1.5)  # of HSV; of RGB images only
    hue: float = Field(18.0, ge=0, le=90)  # most that the hue turns, in steps of 2 degrees; of RGB images only
    chance: float = Field(0.5, ge=0, le=1)  # of each of the four
    together: bool = False  # all images of a sample alike; false: each drawn on its own

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Distort:
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0 <= low <= high:
                raise UserError(f"{name}={(low, high)} is no range of factors", where="distort", fix="such as 0.5, 1.5")
        return self

    def __call__(self, sample: Sample) -> Sample:
        """Images that are not RGB change in brightness and contrast alone.

        Raises:
            UserError: floats that are not from 0 to 1.
        """
        images = []
        for number, image in enumerate(sample.images):
            seed = derive(sample.seed, "augment", "distort", 0 if self.together else number)
            draws = torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
            if image.dtype == torch.uint8:
                images.append(self._distorted(image, draws))
            else:
                images.append(from_unit(self._distorted(to_unit(image) * 255, draws) / 255, image.dtype))
        return dataclasses.replace(sample, images=images)

    def _distorted(self, image: Tensor, draws: list[float]) -> Tensor:
        """Four draws say whether, four how much, and the last whether contrast comes before or after the colours."""
        is_on, amounts, is_early = [draw < self.chance for draw in draws[:4]], draws[4:8], draws[8] < 0.5
        plus = self.brightness * (2 * amounts[0] - 1) if is_on[0] else 0.0
        times = _between(self.contrast, amounts[1]) if is_on[1] else 1.0
        early, late = (times, 1.0) if is_early else (1.0, times)
        image = _straight(image, plus, early)
        saturation = _between(self.saturation, amounts[2]) if is_on[2] else 1.0
        turn = self.hue * (2 * amounts[3] - 1) if is_on[3] else 0.0
        if len(image) == 3 and (saturation, turn) != (1.0, 0.0):  # there and back costs up to two levels
            image = _in_hsv(image, saturation, turn)
        return _straight(image, 0.0, late)


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _straight(image: Tensor, plus: float, times: float) -> Tensor:
    """Each value `v` as `(v + plus) * times`, both within 0 to 255: there are 256 of them, so a table for bytes."""
    if plus == 0 and times == 1:
        return image
    if image.dtype != torch.uint8:
        return ((image + plus).clamp(0, 255) * times).clamp(0, 255)
    values = (np.arange(256) + plus).clip(0, 255) * times
    table = (values + 0.5).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(table[image.numpy()])


def _in_hsv(image: Tensor, saturation: float, turn: float) -> Tensor:
    """Saturation by a factor, hue by steps of 2 degrees."""
    if image.dtype != torch.uint8:
        return _in_float_hsv(image, saturation, turn / 180)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    hue, strength, value = Image.fromarray(pixels).convert("HSV").split()
    steps = round(turn * 256 / 180)
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    strength = strength.point([min(255, int(level * saturation + 0.5)) for level in range(256)])
    after = Image.merge("HSV", (hue, strength, value)).convert("RGB")
    return torch.from_numpy(np.array(after)).permute(2, 0, 1)


def _in_float_hsv(image: Tensor, saturation: float, turn: float) -> Tensor:
    """Of float[3, H, W] in RGB; `turn` in circles. Hue is 0 at red, 1/3 at green."""
    value, least = image.amax(dim=0), image.amin(dim=0)
    spread = value - least
    red, green, blue = image
    sixth = torch.where(value == red, (green - blue) % (6 * spread.clamp(min=1e-12)), blue - red + 2 * spread)
    sixth = torch.where((value == blue) & (value != red) & (value != green), red - green + 4 * spread, sixth)
    hue = sixth / spread.clamp(min=1e-12) + 6 * turn  # in sixths of the circle
    reach = torch.minimum(spread * saturation, value)  # value x saturation
    away = [(number + hue) % 6 for number in (5, 3, 1)]
    return torch.stack([value - reach * torch.minimum(one, 4 - one).clamp(0, 1) for one in away])
