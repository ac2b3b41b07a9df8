"""A part of the image, of any place, size and aspect, brought to one size: what classifiers are trained on.

Source: Inception's crop as torchvision's RandomResizedCrop has it, from which the window comes.
Differs: the window is resized bilinearly as all images here are; boxes and label maps go with it.
"""

from __future__ import annotations

from pydantic import Field, model_validator
from torchvision.transforms.v2 import RandomResizedCrop

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.crop import crop
from vistruct.transforms.geometry import resize
from vistruct.transforms.seeded import seeded_torch


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

    def __call__(self, sample: Sample) -> Sample:
        """Objects of which too little is left in view are removed."""
        draw = RandomResizedCrop((self.height, self.width), scale=self.area, ratio=self.aspect)
        with seeded_torch(derive(sample.seed, "augment", "resized_crop")):
            window = draw.make_params([sample.images[0]])
        x, y = window["left"], window["top"]
        cut = crop(sample, (x, y, x + window["width"], y + window["height"]))
        return resize(cut, (self.height, self.width))
