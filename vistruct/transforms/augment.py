"""What is varied at random from one epoch to the next, in a fixed order: scale, flips, turns, colour, JPEG."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.geometry import flip_horizontal, flip_vertical, random_crop, rescale, turn
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.photometric import jitter


class Augment(Part):
    """Random variation of a sample, a pure function of the sample and its seed."""

    hflip: bool = False  # left and right, half of the time
    vflip: bool = False  # top and bottom, half of the time
    turns90: bool = False  # 0 to 3 quarter turns, equally often
    photometric: float = Field(0.0, ge=0, le=1)  # largest relative change of brightness, contrast and saturation
    jpeg: JpegReencode | None = None  # last of all, JPEG compression; None: none
    scale: tuple[float, float] = (
        1.0,
        1.0,
    )  # lowest and highest factor; what grows is cropped to its old size

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high:
            raise UserError(f"scale={self.scale} is no range of factors above 0", fix="for example 0.8 to 1.25")
        return self

    @property
    def moves_things(self) -> bool:
        """Whether things may end up elsewhere in the image."""
        return self.hflip or self.vflip or self.turns90 or self.scale != (1.0, 1.0)

    def __call__(self, sample: Sample) -> Sample:
        """Vary a sample. After growing, boxes of which too little is left in the crop are removed."""
        if not sample.images:
            return sample
        generator = torch.Generator().manual_seed(derive(sample.seed, "augment"))
        # All draws first and always: switching one variation on or off leaves the others as they were.
        grow, left_right, top_bottom, quarters = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        if self.scale != (1.0, 1.0):
            low, high = self.scale
            height, width = sample.images[0].shape[1:]
            sample = rescale(sample, low * (high / low) ** grow)  # half and double are equally far away
            sample = random_crop(sample, (height, width), generator)
        if self.hflip and left_right < 0.5:
            sample = flip_horizontal(sample)
        if self.vflip and top_bottom < 0.5:
            sample = flip_vertical(sample)
        if self.turns90:
            sample = turn(sample, int(quarters * 4))
        if self.photometric > 0:
            colours = torch.Generator().manual_seed(derive(sample.seed, "augment", "photometric"))
            sample = jitter(sample, self.photometric, colours)
        return self.jpeg(sample) if self.jpeg is not None else sample
