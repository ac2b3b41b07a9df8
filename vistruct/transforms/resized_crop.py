"""A part of the image, of any place, size and aspect: brought to one size, as classifiers are trained, or left as is.

Source: Inception's crop as torchvision's RandomResizedCrop has it, from which the window comes; the crop before the
    resizing of DETR.
Differs: the window is resized bilinearly as all images here are; boxes and label maps go with it.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torchvision.transforms.v2 import RandomResizedCrop

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.crop import crop
from vistruct.transforms.geometry import resize
from vistruct.transforms.seeded import seeded_torch
from vistruct.transforms.sizing import ShortSide, sized


class ResizedCrop(Part):
    """A random window of the image at a fixed size, a pure function of the sample and its seed."""

    height: int = Field(gt=0)  # pixels, of the result
    width: int = Field(gt=0)
    area: tuple[float, float] = (0.08, 1.0)  # smallest and largest share of the image's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # narrowest and widest, width to height

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> ResizedCrop:
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            what = f"area={self.area} or aspect={self.aspect} is no range"
            raise UserError(what, where="resized_crop", fix="for example area 0.08 to 1, aspect 0.75 to 1.33")
        return self

    def __call__(self, sample: Sample, min_kept: float = 0.4) -> Sample:
        """Objects of which too little is left in view are removed."""
        draw = RandomResizedCrop((self.height, self.width), scale=self.area, ratio=self.aspect)
        with seeded_torch(derive(sample.seed, "augment", "resized_crop")):
            window = draw.make_params([sample.images[0]])
        x, y = window["left"], window["top"]
        cut = crop(sample, (x, y, x + window["width"], y + window["height"]), min_kept)
        return resize(cut, (self.height, self.width))


class SizedCrop(Part):
    """How often an image is brought to one of several sizes and a random window of it taken, before other sizing."""

    chance: float = Field(0.5, ge=0, le=1)
    sizes: tuple[int, ...] = (400, 500, 600)  # pixels of the shorter side, one is drawn
    sides: tuple[int, int] = (384, 600)  # pixels of each side of the window, least and most; of less all there is

    @model_validator(mode="after")
    def _are_pixels(self) -> SizedCrop:
        if not self.sizes or min(self.sizes) < 1 or not 0 < self.sides[0] <= self.sides[1]:
            what = f"sizes={self.sizes}, sides={self.sides}: not all of them pixels"
            raise UserError(what, where="sized_crop", fix="for example sizes 400, 500, 600 and sides 384 to 600")
        return self

    def __call__(self, sample: Sample, min_kept: float = 0.4) -> Sample:
        """A pure function of the sample and its seed; objects of which too little is left in view are removed."""
        generator = torch.Generator().manual_seed(derive(sample.seed, "augment", "sized_crop"))
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= self.chance:
            return sample

        def drawn(least: int, most: int) -> int:
            return int(torch.randint(least, most + 1, (), generator=generator))

        short = self.sizes[drawn(0, len(self.sizes) - 1)]
        sample = sized(sample, ShortSide(short=short))
        height, width = sample.images[0].shape[1:]
        high, wide = (drawn(min(self.sides[0], side), min(self.sides[1], side)) for side in (height, width))
        x, y = drawn(0, width - wide), drawn(0, height - high)
        return crop(sample, (x, y, x + wide, y + high), min_kept)
