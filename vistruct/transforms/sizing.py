"""The size at which a model is shown images: by a factor, or to a height and width."""

from __future__ import annotations

from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import Sample
from vistruct.transforms.geometry import rescale, resize


class Size(Part):
    """A height and width for every image, whatever it comes with."""

    height: int = Field(gt=0)  # pixels
    width: int = Field(gt=0)
    keep_aspect: bool = True  # as large as fits into it; false: exactly this size, stretched


def sized_hw(size_hw: tuple[int, int], size: float | Size | None) -> tuple[int, int]:
    """The height and width, pixels, that a configuration brings an image of this height and width to."""
    height, width = size_hw
    if size is None:
        return size_hw
    if isinstance(size, Size) and not size.keep_aspect:
        return size.height, size.width
    factor = min(size.height / height, size.width / width) if isinstance(size, Size) else float(size)
    return max(1, round(height * factor)), max(1, round(width * factor))


def sized(sample: Sample, size: float | Size | None) -> Sample:
    """The sample at the size that a configuration asks for; None, 1 and the size it has leave it alone."""
    if size is None:
        return sample
    if isinstance(size, float | int):
        return rescale(sample, float(size))
    height, width = sample.images[0].shape[1:]
    wanted = sized_hw((height, width), size)
    return sample if wanted == (height, width) else resize(sample, wanted)
