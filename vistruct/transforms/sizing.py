"""The size at which a model is shown images: by a factor, to a height and width, or by the shorter side."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vistruct.config import Part
from vistruct.contracts import Sample, Window
from vistruct.errors import UserError
from vistruct.transforms.crop import crop
from vistruct.transforms.geometry import Interpolation, rescale, resize


class Size(Part):
    """A height and width for every image, whatever it comes with."""

    height: int = Field(gt=0)  # pixels
    width: int = Field(gt=0)
    keep_aspect: bool = True  # as large as fits into it; false: exactly this size, stretched
    middle: float | None = Field(None, gt=0, le=1)  # exactly this size, of the largest such window so large a part
    interpolation: Interpolation = "bilinear"  # bicubic, as CLIP is shown images: `middle` is cut after resizing

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.middle is not None and not self.keep_aspect:
            raise UserError("middle keeps the aspect", where="resize", fix="leave out keep_aspect, or middle")
        return self


def _of_all(size: Size) -> Size:
    if size.middle is not None:
        what = "middle shows a part of each image, and what lies outside of it could not be found"
        raise UserError(what, where="resize", fix="leave middle out: it is for classes of whole images")
    return size


PlacedSize = Annotated[Size, AfterValidator(_of_all)]  # of data that say where something is


class ShortSide(Part):
    """A length of the shorter side, and a limit for the longer: how many detectors are shown whole photographs.

    Source: DETR and its successors: the longer side is rounded down; where it is limited, DETR rounds the shorter one
    that follows to the nearest, and ViSFT's segmentation rounds it down.
    """

    short: int = Field(gt=0)  # pixels
    longest: int | None = Field(None, gt=0)  # pixels of the longer side at most; None: any
    limited: Literal["nearest", "down"] = "nearest"  # how the shorter side is rounded where the longer one is limited


Sizing = Annotated[float, Field(gt=0)] | Size | ShortSide
PlacedSizing = Annotated[float, Field(gt=0)] | PlacedSize | ShortSide


def short_side_hw(size_hw: tuple[int, int], size: ShortSide) -> tuple[int, int]:
    """The height and width, pixels, of an image of this height and width whose shorter side is brought to a length."""
    small, large = min(size_hw), max(size_hw)
    short = size.short
    if size.longest is not None and large / small * short > size.longest:
        exact = size.longest * small / large
        short = max(1, round(exact) if size.limited == "nearest" else int(exact))
    long = int(short * large / small)
    return (short, long) if size_hw[0] <= size_hw[1] else (long, short)


def sized_hw(size_hw: tuple[int, int], size: float | Size | ShortSide | None) -> tuple[int, int]:
    """The height and width, pixels, that a configuration brings an image of this height and width to."""
    height, width = size_hw
    if size is None:
        return size_hw
    if isinstance(size, ShortSide):
        return short_side_hw(size_hw, size)
    if isinstance(size, Size) and (size.middle is not None or not size.keep_aspect):
        return size.height, size.width
    factor = min(size.height / height, size.width / width) if isinstance(size, Size) else float(size)
    return max(1, round(height * factor)), max(1, round(width * factor))


def sized(sample: Sample, size: float | Size | ShortSide | None) -> Sample:
    """The sample at the size that a configuration asks for; None, 1 and the size it has leave it alone."""
    if size is None:
        return sample
    if isinstance(size, float | int):
        return rescale(sample, float(size))
    height, width = sample.images[0].shape[1:]
    if isinstance(size, Size) and size.middle is not None and size.interpolation == "bicubic":
        factor = max(size.height / height, size.width / width) / size.middle
        high, wide = max(size.height, int(height * factor)), max(size.width, int(width * factor))
        sample = resize(sample, (high, wide), "bicubic") if (high, wide) != (height, width) else sample
        y, x = round((high - size.height) / 2), round((wide - size.width) / 2)
        return crop(sample, (x, y, x + size.width, y + size.height))
    if isinstance(size, Size) and size.middle is not None:
        sample = crop(sample, middle_of((height, width), size))
        height, width = sample.images[0].shape[1:]
    wanted = sized_hw((height, width), size)
    way: Interpolation = size.interpolation if isinstance(size, Size) else "bilinear"
    return sample if wanted == (height, width) else resize(sample, wanted, way)


def middle_of(size_hw: tuple[int, int], size: Size) -> Window:
    """xyxy in whole pixels: the window in the middle of which nothing but `size.middle` is looked at.

    Classifiers are mostly measured so: 7/8 is the shorter side brought to 256 pixels, and 224 x 224 from the middle.
    """
    height, width = size_hw
    part = (size.middle or 1.0) * min(height / size.height, width / size.width)  # pixels here to a pixel shown
    high, wide = max(1, round(size.height * part)), max(1, round(size.width * part))
    y, x = (height - high) // 2, (width - wide) // 2
    return x, y, x + wide, y + high
