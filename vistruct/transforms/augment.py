"""What is varied at random from one epoch to the next, in a fixed order: size, scale, flips, turns, colour, JPEG."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.crop import random_crop
from vistruct.transforms.geometry import fit_factor, flip_diagonal, flip_horizontal, flip_vertical, rescale, turn
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.photometric import jitter
from vistruct.transforms.rotate import rotate


class Augment(Part):
    """Random variation of a sample, a pure function of the sample and its seed."""

    hflip: bool = False  # left and right
    vflip: bool = False  # top and bottom
    dflip: bool = False  # both, half a turn
    flips: Literal["each", "one"] = "each"  # each flip half of the time; or one at most, each a quarter of the time
    turns90: bool = False  # 0 to 3 quarter turns, equally often
    rotate: float = Field(0.0, ge=0, le=1)  # how often (chance) by any angle about the centre
    rotate_range: tuple[float, float] = (-180.0, 180.0)  # degrees, clockwise on screen
    upright_classes: tuple[int, ...] = ()  # an image with an object of these is turned by quarters instead
    photometric: float = Field(0.0, ge=0, le=1)  # largest relative change of brightness, contrast and saturation
    jpeg: JpegReencode | None = None  # last of all, JPEG compression; None: none
    fit: tuple[int, int] | None = None  # (height, width) in pixels to fill as far as the aspect lets; None: any size
    sizes: tuple[int, ...] = ()  # pixels of the shorter side, one is drawn; with `fit`, never more than fits
    scale: tuple[float, float] = (1.0, 1.0)  # lowest and highest factor; what grows is cropped to its old size

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high:
            raise UserError(f"scale={self.scale} is no range of factors above 0", fix="for example 0.8 to 1.25")
        first, last = self.rotate_range
        if not -360 <= first <= last <= 360:
            raise UserError(f"rotate_range={self.rotate_range} is no range of degrees", fix="for example -180 to 180")
        if any(size < 1 for size in (*self.sizes, *(self.fit or ()))):
            raise UserError(f"sizes={self.sizes}, fit={self.fit}: not all of them pixels", fix="for example 640, 800")
        return self

    @property
    def moves_things(self) -> bool:
        """Whether things may end up elsewhere in the image, or at another size."""
        return (
            self.hflip
            or self.vflip
            or self.dflip
            or self.turns90
            or self.rotate > 0
            or bool(self.sizes)
            or self.fit is not None
            or self.scale != (1.0, 1.0)
        )

    def __call__(self, sample: Sample) -> Sample:
        """Vary a sample. After growing or rotating, objects of which too little is left in view are removed."""
        if not sample.images:
            return sample
        generator = torch.Generator().manual_seed(derive(sample.seed, "augment"))
        # All draws first and always: switching one variation on or off leaves the others as they were. What came
        # later has generators of its own, for the same reason.
        grow, left_right, top_bottom, quarters = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        size, half_turn, whether, angle = _draws(sample.seed, "moves", 4)
        sample = self._sized(sample, size)
        if self.scale != (1.0, 1.0):
            low, high = self.scale
            height, width = sample.images[0].shape[1:]
            sample = rescale(sample, low * (high / low) ** grow)  # half and double are equally far away
            sample = random_crop(sample, (height, width), generator)
        for flip in self._flips(left_right, top_bottom, half_turn):
            sample = flip(sample)
        if self.turns90:
            sample = turn(sample, int(quarters * 4))
        if whether < self.rotate:
            sample = self._rotated(sample, angle)
        if self.photometric > 0:
            colours = torch.Generator().manual_seed(derive(sample.seed, "augment", "photometric"))
            sample = jitter(sample, self.photometric, colours)
        return self.jpeg(sample) if self.jpeg is not None else sample

    def _sized(self, sample: Sample, draw: float) -> Sample:
        factors = []
        if self.sizes:
            factors.append(self.sizes[int(draw * len(self.sizes))] / min(sample.images[0].shape[1:]))
        if self.fit is not None:
            factors.append(fit_factor(sample, self.fit))
        return rescale(sample, min(factors)) if factors else sample

    def _flips(self, left_right: float, top_bottom: float, half_turn: float) -> list[Callable[[Sample], Sample]]:
        kinds = [(self.hflip, flip_horizontal), (self.vflip, flip_vertical), (self.dflip, flip_diagonal)]
        if self.flips == "one":
            quarter = int(left_right * 4)  # the fourth is no flip at all
            return [kinds[quarter][1]] if quarter < 3 and kinds[quarter][0] else []
        draws = left_right, top_bottom, half_turn
        return [flip for (is_on, flip), draw in zip(kinds, draws, strict=True) if is_on and draw < 0.5]

    def _rotated(self, sample: Sample, draw: float) -> Sample:
        # Source: the published recipes rotate images with such objects by -180, -90, 90 or 180 degrees, in which
        # half a turn comes twice as often and none not at all; the draw here is that one.
        if self.upright_classes and torch.isin(sample.labels, torch.tensor(self.upright_classes)).any():
            return turn(sample, (1, 2, 2, 3)[int(draw * 4)])
        first, last = self.rotate_range
        return rotate(sample, math.radians(first + (last - first) * draw))


def _draws(seed: int, what: str, number: int) -> list[float]:
    generator = torch.Generator().manual_seed(derive(seed, "augment", what))
    return torch.rand(number, generator=generator, dtype=torch.float64).tolist()
