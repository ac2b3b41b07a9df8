"""From images to what a backbone wants to see: put together, normalised, and padded with the mean colour.

Mean and standard deviation are of values from 0 to 1, whatever the images are stored in; of raw values (`Pixels`) they
are in the unit of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.ops.values import from_unit, full_scale

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


Statistics = tuple[float, ...] | Literal["data"]  # of each channel; data: measured on the training data
T = TypeVar("T", bound=Part)


def with_statistics(config: T, info: DataInfo) -> T:
    """A task's config with the mean and std of its data as numbers, where it asks for them.

    Those of three colours become their mean where images have another number of channels, as weights are spread.

    Raises:
        UserError: they were not measured; one of the two alone; those of colours for values in a unit of their own.
    """
    asked: Any = config
    if (asked.mean == "data") != (asked.std == "data"):
        raise UserError("one of mean and std is to be measured", where="task", fix="mean: data and std: data, or none")
    if asked.mean == "data":
        if info.mean is None or info.std is None:
            raise UserError("mean and std of the data are not known", where="task.mean", fix="give them as numbers")
        return config.model_copy(update={"mean": info.mean, "std": info.std})
    if len(asked.mean) == len(asked.std) == 3 and info.channels not in (0, 3) and info.pixels != "raw":
        return config.model_copy(update={"mean": (sum(asked.mean) / 3,), "std": (sum(asked.std) / 3,)})
    if info.pixels == "raw" and (asked.mean, asked.std) == (IMAGENET_MEAN, IMAGENET_STD):
        what = "values in the unit of the files (intake.dtype=float32 without a range), and ImageNet's mean of colours"
        raise UserError(
            what, where="task.mean", fix="--normalise data; or --set task.mean=[...] --set task.std=[...] in that unit"
        )
    return config


def stacked(images: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
    """Images of one type and number of channels as one tensor [B, C, H, W], with 0 at the bottom and right.

    Raises:
        UserError: 8-bit and deeper images in one batch.
    """
    types = {image.dtype for image in images}
    if len(types) > 1:
        what = f"images of {' and '.join(sorted(map(str, types)))} in one batch"
        raise UserError(what, where="data", fix="the same --bands, --low, --high and --dtype for all of them")
    whole = torch.zeros(len(images), len(images[0]), *size_hw, dtype=images[0].dtype)
    for place, image in zip(whole, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return whole


class Normalise(nn.Module):
    """uint8, uint16 or float32[..., C, H, W] -> float[..., C, H, W], channel by channel.

    Mean and deviation are part of the configuration, so not part of the weights.

    Args:
        mean: of each channel in [0, 1] (of raw values in their own unit); a single one holds for every channel.
        std: likewise, above 0.

    Raises:
        UserError: not as many as channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Statistics, std: Statistics, channels: int = 3) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if values == "data":
                raise UserError(f"no numbers for {name}", where=f"task.{name}", fix="see with_statistics")
            if len(values) not in (1, channels):
                what = f"{len(values)} values of {name} for images of {channels} channels"
                raise UserError(
                    what,
                    where=f"task.{name}",
                    fix=f"--normalise data measures them; or give {channels} of them, or one for all",
                )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        least = min(float(value) for value in std)  # not of the tensor, which may be without memory
        if least <= 0:
            raise UserError(f"a deviation of {least}", where="task.std", fix="use values above 0")

    def forward(self, images: Tensor, sizes_hw: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Normalise; beyond `sizes_hw` (B of them) the padding gets the mean colour, whatever the mean is."""
        scale = full_scale(images.dtype)
        values = (images.float() - scale * self.mean) / (scale * self.std)
        for image, (h, w) in zip(values, sizes_hw or (), strict=False):
            if (h, w) != tuple(image.shape[-2:]):
                image[..., h:, :] = 0
                image[..., :, w:] = 0
        return values

    def undone(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """float[..., C, H, W] as images of `dtype`: what `forward` made of them; floats are not clipped."""
        unit = values.float() * self.std + self.mean
        return unit if dtype == torch.float32 else from_unit(unit, dtype)


def padded_to(images: Tensor, divisor: int) -> Tensor:
    """float[..., H, W] with zeros at the bottom and right, so that both sides are multiples of `divisor`."""
    height, width = images.shape[-2:]
    if height % divisor == 0 and width % divisor == 0:
        return images
    return F.pad(images, (0, -width % divisor, 0, -height % divisor))
