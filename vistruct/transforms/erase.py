"""A rectangle of the picture replaced by noise, so that a classifier looks at the rest.

Source: Zhong et al., arXiv:1708.04896; the rectangle and the noise are torchvision's RandomErasing, its range of areas
and aspects too. As in timm and mmpretrain the noise has the mean and the spread of ImageNet.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomErasing

from vistruct.contracts import Sample
from vistruct.ops.values import full_scale, stored
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.seeded import seeded_torch

SPREAD = (58, 57, 57)  # RGB, ImageNet's standard deviation


def erase(sample: Sample, seed: int) -> Sample:
    """Put noise over 2 to 33 % of each image, the same place in all of them; boxes and label maps stay as they are.

    Where ten draws give no rectangle that fits (an image of a pixel), it stays as it is.
    """
    noise: Any = "random"  # declared as a number, and documented as this too
    draw = RandomErasing(p=1.0, value=noise)
    images = []
    for image in sample.images:
        with seeded_torch(seed):
            part = draw.make_params([image])
        images.append(image if part["v"] is None else _covered(image, part["i"], part["j"], part["v"]))
    return dataclasses.replace(sample, images=images)


def _covered(image: Tensor, y: int, x: int, noise: Tensor) -> Tensor:
    """`noise` float[C, h, w] of mean 0 and deviation 1; else than of 8-bit RGB in the image's own."""
    dtype = image.dtype
    if len(image) == 3 and dtype == torch.uint8:
        mean, spread = torch.tensor([MEAN_COLOUR, SPREAD], dtype=torch.float32)
    else:
        values = image.flatten(1).float()
        mean, spread = values.mean(dim=1), values.std(dim=1, unbiased=False)
    pixels = noise * spread[:, None, None] + mean[:, None, None]
    after = image.clone()
    if dtype != torch.float32:
        pixels = pixels.clamp(0, full_scale(dtype))
    after[:, y : y + noise.shape[1], x : x + noise.shape[2]] = stored(pixels, dtype)
    return after
