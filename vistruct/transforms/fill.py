"""What stands where an image has nothing to show: around it, or where it was turned away."""

from __future__ import annotations

from torch import Tensor

MEAN_COLOUR = (124, 116, 104)  # RGB, ImageNet: what most models take for 0

Colour = tuple[int, ...]  # one value for each channel, 0 to 255


def fill_of(image: Tensor) -> Colour:
    """The mean colour for uint8[3, H, W], black for any other number of channels: of those no mean is known."""
    return MEAN_COLOUR if len(image) == 3 else (0,) * len(image)
