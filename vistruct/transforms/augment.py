"""What is varied at random from one epoch to the next, in a fixed order: size, scale, flips, turns, rotation (or
mirroring in its place), window, which of a pair comes first, colour, holes, JPEG.

A window is cut last of all moves: its size is then that of the sample, and what a rotation turns into view from
outside is seldom in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Pixels, Sample
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.crop import pad, random_crop, stretched
from vistruct.transforms.distort import Distort
from vistruct.transforms.erase import erase
from vistruct.transforms.geometry import (
    fit_factor,
    flip_diagonal,
    flip_horizontal,
    flip_vertical,
    rescale,
    resize,
    turn,
)
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.photometric import jitter
from vistruct.transforms.rand_augment import RandAugment
from vistruct.transforms.resized_crop import ResizedCrop, SizedCrop
from vistruct.transforms.rotate import rotate
from vistruct.transforms.sizing import ShortSide, Size, short_side_hw


class Augment(Part):
    """Random variation of a sample, a pure function of the sample and its seed.

    The settings of the public configurations: MMSegmentation's RandomResize(scale, ratio_range) is `fit` with `scale`
    and scale_draw="even", its RandomCrop(crop_size, cat_max_ratio) is `crop` with `crop_max_share`, its
    RandomRotFlip(rotate_prob, flip_prob, degree) is `rotate`, `rot_flip` and `rotate_range`; MMDetection's RandomFlip
    of three directions is `hflip`, `vflip` and `dflip` with flips="one"; Open-CD's ExchangeTime is `exchange`; DETR's
    crops and sizes are `hflip`, `sized_crop`, `sizes`, `longest` and `min_kept` 0; large-scale jitter is `hflip`, `fit`
    and `crop` of one size, `scale` 0.1 to 2 and scale_draw="even".
    """

    hflip: bool = False  # left and right
    vflip: bool = False  # top and bottom
    dflip: bool = False  # both, half a turn
    flips: Literal["each", "one"] = "each"  # each flip half of the time; or one at most, each a quarter of the time
    rot90: bool = False  # 0 to 3 quarter turns, equally often
    rotate: float = Field(0.0, ge=0, le=1)  # how often (chance) by any angle about the centre
    rotate_range: tuple[float, float] = (-180.0, 180.0)  # degrees, clockwise on screen
    rot_flip: float = Field(0.0, ge=0, le=1)  # how often (chance), where not rotated, one of the four mirror images
    upright_classes: tuple[int, ...] = ()  # an image with an object of these is turned by quarters instead
    photometric: float = Field(0.0, ge=0, le=1)  # largest relative change of brightness, contrast and saturation
    jpeg: JpegReencode | None = None  # last of all, JPEG compression; None: none
    fit: tuple[int, int] | None = None  # (height, width) in pixels to fill as far as the aspect lets; None: any size
    sized_crop: SizedCrop | None = None  # first of all, a window of the image at another size
    sizes: tuple[int, ...] = ()  # pixels of the shorter side, one is drawn; with `fit`, never more than fits
    longest: int | None = Field(None, gt=0)  # with `sizes`: pixels of the longer side at most, rounded as `ShortSide`
    scale: tuple[float, float] = (1.0, 1.0)  # lowest and highest factor; what grows is cropped to its old size
    scale_draw: Literal["log", "even"] = "log"  # half and double equally often, or each factor as often as any other
    crop: tuple[int, int] | None = None  # (height, width) in pixels of a window; what is smaller is padded to it
    fill: float | None = Field(None, ge=0, le=1)  # of padding, black to white; None: the mean colour
    stretch_labels: bool = False  # label maps smaller than the crop are stretched over it: a mistake of MTP's code
    crop_max_share: float = Field(1.0, gt=0, le=1)  # most of its counted pixels for one class, else drawn again
    resized_crop: ResizedCrop | None = None  # in place of sizes, fit, scale and crop
    min_kept: float = Field(0.4, ge=0, le=1)  # share of an object that must be left in view; 0: any of its box (`crop`)
    exchange: float = Field(0.0, ge=0, le=1)  # how often (chance) before and after of a pair are swapped
    distort: Distort | None = None  # colours, in place of `photometric`
    randaug: RandAugment | None = None  # operations on images that have nothing but a class
    erase: float = Field(0.0, ge=0, le=1)  # how often (chance) a rectangle is covered with noise

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Augment:
        low, high = self.scale
        if not 0 < low <= high:
            raise UserError(f"scale={self.scale} is no range of factors above 0", fix="for example 0.8 to 1.25")
        first, last = self.rotate_range
        if not -360 <= first <= last <= 360:
            raise UserError(f"rotate_range={self.rotate_range} is no range of degrees", fix="for example -180 to 180")
        if any(size < 1 for size in (*self.sizes, *(self.fit or ()), *(self.crop or ()))):
            what = f"sizes={self.sizes}, fit={self.fit}, crop={self.crop}: not all of them pixels"
            raise UserError(what, fix="for example 640, 800")
        if self.crop_max_share < 1 and self.crop is None:
            raise UserError(f"crop_max_share={self.crop_max_share} without a crop", fix="for example crop: [512, 512]")
        if self.distort is not None and self.photometric > 0:
            raise UserError("distort and photometric both change the colours", fix="one of them")
        return self

    @model_validator(mode="after")
    def _longest_is_of_sizes(self) -> Augment:
        if self.longest is not None and (not self.sizes or self.fit is not None):
            what = "longest limits one of `sizes`" + (", and `fit` does so too" if self.fit is not None else "")
            raise UserError(what, fix="for example sizes: [480, 512], longest: 672, and no fit")
        return self

    @model_validator(mode="after")
    def _one_way_to_a_size(self) -> Augment:
        sized = {
            "sized_crop": self.sized_crop is not None,
            "sizes": self.sizes,
            "fit": self.fit,
            "crop": self.crop,
            "scale": self.scale != (1.0, 1.0),
        }
        also = [name for name, is_on in sized.items() if is_on]
        if self.resized_crop is not None and also:
            raise UserError(f"resized_crop and {also[0]} both decide the size", fix=f"leave out {' and '.join(also)}")
        return self

    @property
    def usual(self) -> Size | ShortSide | None:
        """How large images are shown where nothing is varied: as they mostly were; None: at their own size."""
        if self.resized_crop is not None:
            return Size(height=self.resized_crop.height, width=self.resized_crop.width, keep_aspect=False)
        if self.fit is not None:
            return Size(height=self.fit[0], width=self.fit[1])
        return ShortSide(short=max(self.sizes), longest=self.longest) if self.sizes else None

    @property
    def moves_things(self) -> bool:
        """Whether things may end up elsewhere in the image, in another image of the sample, or at another size."""
        return (
            self.hflip
            or self.vflip
            or self.dflip
            or self.rot90
            or self.rotate > 0
            or self.rot_flip > 0
            or self.sized_crop is not None
            or bool(self.sizes)
            or self.fit is not None
            or self.scale != (1.0, 1.0)
            or self.crop is not None
            or self.resized_crop is not None
            or self.exchange > 0
            or self.randaug is not None
        )

    def check(self, pixels: Pixels) -> None:
        """Refuse, before anything is read, what images of this type cannot have.

        Raises:
            UserError: JPEG or RandAugment beyond 8 bits; changes of colour where there is no black and white.
        """
        eight_bit = {"jpeg": self.jpeg is not None, "randaug": self.randaug is not None}
        ranged = {"photometric": self.photometric > 0, "distort": self.distort is not None}
        for name in [name for name, is_on in eight_bit.items() if is_on and pixels != "uint8"]:
            what = f"`{name}` is for 8-bit images, and here are {'float32' if pixels == 'raw' else pixels}"
            raise UserError(what, where=f"data.augment.{name}", fix="leave it out, or --dtype uint8")
        for name in [name for name, is_on in ranged.items() if is_on and pixels == "raw"]:
            what = f"`{name}` changes colours between black and white, and values in the unit of the files have neither"
            fix = "leave it out, or say a range: --low and --high"
            raise UserError(what, where=f"data.augment.{name}", fix=fix)

    def __call__(self, sample: Sample) -> Sample:
        """Vary a sample. After growing, rotating or cropping, objects of which too little is left in view are removed.

        Raises:
            UserError: `exchange` for a sample that is no pair; see `RandAugment` and `JpegReencode`.
        """
        if not sample.images:
            return sample
        generator = torch.Generator().manual_seed(derive(sample.seed, "augment"))
        # All draws first and always: switching one variation on or off leaves the others as they were. What came
        # later has generators of its own, for the same reason.
        grow, left_right, top_bottom, quarters = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        size, half_turn, whether, angle = _draws(sample.seed, "moves", 4)
        swap, hide = _draws(sample.seed, "late", 2)
        sample = self._sized(sample, size, grow, generator)
        for flip in self._flips(left_right, top_bottom, half_turn):
            sample = flip(sample)
        if self.rot90:
            sample = turn(sample, int(quarters * 4))
        if whether < self.rotate:
            sample = self._rotated(sample, angle)
        elif self.rot_flip > 0:
            mirrored, quarters = _draws(sample.seed, "rot_flip", 2)
            sample = turn(flip_horizontal(sample), int(quarters * 4)) if mirrored < self.rot_flip else sample
        if self.crop is not None:
            sample = self._cropped(sample, self.crop)
        if self.exchange > 0:
            sample = _exchanged(sample, swap < self.exchange)
        if self.distort is not None:
            sample = self.distort(sample)
        if self.photometric > 0:
            colours = torch.Generator().manual_seed(derive(sample.seed, "augment", "photometric"))
            sample = jitter(sample, self.photometric, colours)
        if self.randaug is not None:
            sample = self.randaug(sample)
        if hide < self.erase:
            sample = erase(sample, derive(sample.seed, "augment", "erase"))
        return self.jpeg(sample) if self.jpeg is not None else sample

    def _sized(self, sample: Sample, draw: float, grow: float, generator: torch.Generator) -> Sample:
        if self.resized_crop is not None:
            return self.resized_crop(sample, self.min_kept)
        if self.sized_crop is not None:
            sample = self.sized_crop(sample, self.min_kept)
        height, width = sample.images[0].shape[1:]
        factors = []
        short = self.sizes[int(draw * len(self.sizes))] if self.sizes else None
        if short is not None and self.longest is not None:
            size_hw = short_side_hw((height, width), ShortSide(short=short, longest=self.longest))
            if self.scale == (1.0, 1.0):
                return resize(sample, size_hw)
            factors.append(min(size_hw) / min(height, width))
        elif short is not None:
            factors.append(short / min(height, width))
        if self.fit is not None:
            factors.append(fit_factor(sample, self.fit))
        factor = min(factors) if factors else 1.0
        if self.scale == (1.0, 1.0):
            return rescale(sample, factor) if factors else sample
        low, high = self.scale
        even = self.scale_draw == "even"
        grown = rescale(sample, factor * (low + (high - low) * grow if even else low * (high / low) ** grow))
        if self.crop is not None:
            return grown
        return random_crop(
            grown, (max(1, round(height * factor)), max(1, round(width * factor))), generator, self.min_kept
        )

    def _cropped(self, sample: Sample, size_hw: tuple[int, int]) -> Sample:
        generator = torch.Generator().manual_seed(derive(sample.seed, "augment", "crop"))
        sample = random_crop(sample, size_hw, generator, self.min_kept, max_share=self.crop_max_share)
        if tuple(sample.images[0].shape[1:]) == size_hw:
            return sample
        padded = pad(sample, size_hw, fill=self.fill)
        if not self.stretch_labels or sample.label_map is None:
            return padded
        return dataclasses.replace(padded, label_map=stretched(sample.label_map, size_hw))

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
        if self.upright_classes and torch.isin(sample.objects.labels, torch.tensor(self.upright_classes)).any():
            return turn(sample, (1, 2, 2, 3)[int(draw * 4)])
        first, last = self.rotate_range
        return rotate(sample, math.radians(first + (last - first) * draw), min_kept=self.min_kept)


def _keeps_places(augment: Augment) -> Augment:
    if augment.randaug is not None:
        what = "randaug turns and shears the picture and would leave boxes and classes of pixels behind"
        raise UserError(what, where="data.augment", fix="use distort, rotate and scale")
    return augment


PlacedAugment = Annotated[Augment, AfterValidator(_keeps_places)]  # of data that say where something is


def _exchanged(sample: Sample, is_swapped: bool) -> Sample:
    if len(sample.images) != 2:
        what = f"`exchange` swaps before and after, and this sample has {len(sample.images)} images"
        raise UserError(what, where=sample.id, fix="leave it out of the augment of data that are no pairs")
    return dataclasses.replace(sample, images=sample.images[::-1]) if is_swapped else sample


def _draws(seed: int, what: str, number: int) -> list[float]:
    generator = torch.Generator().manual_seed(derive(seed, "augment", what))
    return torch.rand(number, generator=generator, dtype=torch.float64).tolist()
