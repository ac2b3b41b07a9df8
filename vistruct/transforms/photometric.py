"""Light changes of colour, as between two flights over the same place."""

from __future__ import annotations

import dataclasses

import torch
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Sample
from vistruct.ops.values import from_unit, to_unit


def jitter(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """Change brightness, contrast and saturation, each by a factor drawn from [1 - strength, 1 + strength].

    All images of the sample change alike, so that a pair stays a pair. Of images that are not RGB each channel changes
    by itself, about its own mean, and there is no saturation. Brightness ends at 0 and at full scale.

    Args:
        sample: any.
        strength: in [0, 1]; 0 changes nothing.
        generator: source of randomness; always asked for three numbers.

    Raises:
        UserError: floats that are not from 0 to 1.
    """
    brightness, contrast, saturation = (
        1 + strength * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
    ).tolist()
    images = sample.images
    if strength > 0:
        # torchvision cuts off and does not round: what has more than 8 bits is changed as floats.
        images = [image if image.dtype == torch.uint8 else to_unit(image) for image in images]
        # torchvision knows one channel and three: any other number is so many pictures of one.
        images = [image if len(image) == 3 else image[:, None] for image in images]
        images = [F.adjust_brightness(image, brightness) for image in images]
        images = [F.adjust_contrast(image, contrast) for image in images]
        images = [F.adjust_saturation(image, saturation) if image.ndim == 3 else image[:, 0] for image in images]
        images = [
            after if before.dtype == torch.uint8 else from_unit(after, before.dtype)
            for after, before in zip(images, sample.images, strict=True)
        ]
    return dataclasses.replace(sample, images=images)
