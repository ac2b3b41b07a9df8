"""From uint8 images to what a backbone wants to see: normalised, and padded with the mean colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """uint8[..., C, H, W] -> float[..., C, H, W], channel by channel.

    Mean and deviation are part of the configuration, so not part of the weights.

    Args:
        mean: of each channel in [0, 1]; a single one holds for every channel.
        std: likewise, above 0.

    Raises:
        UserError: not as many as channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int = 3) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                what = f"{len(values)} values of {name} for images of {channels} channels"
                raise UserError(what, where=f"task.{name}", fix=f"give {channels} of them, or one for all")
        if min(std) <= 0:
            raise UserError(f"a deviation of {min(std)}", where="task.std", fix="use values above 0")
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes_hw: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Normalise; beyond `sizes_hw` (B of them) the padding gets the mean colour, whatever the mean is."""
        values = (images.float() - self.mean) / self.std
        for image, (h, w) in zip(values, sizes_hw or (), strict=False):
            if (h, w) != tuple(image.shape[-2:]):
                image[..., h:, :] = 0
                image[..., :, w:] = 0
        return values


def padded_to(images: Tensor, divisor: int) -> Tensor:
    """float[..., H, W] with zeros at the bottom and right, so that both sides are multiples of `divisor`."""
    height, width = images.shape[-2:]
    if height % divisor == 0 and width % divisor == 0:
        return images
    return F.pad(images, (0, -width % divisor, 0, -height % divisor))


def check_channels(backbone: Part, channels: int) -> None:
    """
    Raises:
        UserError: images of the data have other channels than the backbone takes.
    """
    taken = getattr(getattr(backbone, "vit", backbone), "channels", 3)
    if taken != channels:
        raise UserError(
            f"the data have images of {channels} channels, the backbone takes {taken}",
            where="task.backbone",
            fix=f"set the backbone's channels to {channels}, or choose data.intake.bands",
        )
