"""What stands where an image has nothing to show: around it, or where it was turned away."""

from __future__ import annotations

import torch
from torch import Tensor

from vistruct.ops.values import from_unit

MEAN_COLOUR = (124, 116, 104)  # RGB of 0 to 255, ImageNet: what most models take for 0
MEAN_UNIT = torch.tensor(MEAN_COLOUR) / 255

Colour = tuple[float, ...]  # one value for each channel, in the image's own type


def fill_of(image: Tensor) -> Colour:
    """The mean colour for [3, H, W], black for any other number of channels: of those no mean is known. In a unit of
    its own (thousands) the mean colour of floats, which is below 1, is as good as 0."""
    if len(image) != 3:
        return (0,) * len(image)
    return MEAN_COLOUR if image.dtype == torch.uint8 else tuple(from_unit(MEAN_UNIT, image.dtype).tolist())
