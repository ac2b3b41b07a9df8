"""Twelve ways in which images come out worse than those that a model was trained on, at severities 1 to 5.

Source: REOBench (Li et al., arXiv:2505.16793), whose twelve corruptions ViTP's Table 13 measures; the levels are those
of its public generator, which was run on DIOR's images of 800 pixels.
Differs:
- its clouds are where noise exceeds 1 - level, a share of the picture that varies; here the level *is* the share, and
  the clouds of a severity lie inside those of the next;
- what rotation and translation bring into view from outside, and the margin of a smaller picture, has the mean colour
  (there: mirrored, and black) and is IGNORED in a label map, so that nothing is asked about it;
- pictures are rounded and not cut off; salt and pepper fall on a pixel as a whole and not on each of its channels.
Its brightness and contrast of severity 1 change nothing, there as here.

The damage of a sample is a function of its seed, and of all severities the same draws: more of the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from vistruct.contracts import Sample
from vistruct.errors import UserError, closest
from vistruct.ops.seeds import derive
from vistruct.ops.values import from_unit, to_unit
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.geometry import resize
from vistruct.transforms.jpeg import reencode
from vistruct.transforms.rotate import rotate

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One way, and how much of it at each severity."""

    levels: tuple[Any, Any, Any, Any, Any]
    unit: str  # what a level is
    # float[C, H, W] in 0 to 1, level, generator -> the same, rounded and clipped afterwards; where it `moves`, sample,
    # level, generator -> sample
    change: Callable[[Any, Any, torch.Generator], Any]
    moves: bool = False  # things end up elsewhere: boxes and label maps go with them


def corrupt(sample: Sample, name: str, severity: int) -> Sample:
    """Damage every image of a sample: each by draws of its own, except that all are moved alike.

    The size of the images stays. `origin_xy` and `scale_xy` tell of moves as those of other moves do.

    Args:
        name: of `CORRUPTIONS`.
        severity: 1 to 5.

    Raises:
        UserError: an unknown name or severity; floats that are not from 0 to 1.
    """
    check(name, severity)
    corruption = CORRUPTIONS[name]
    level = corruption.levels[severity - 1]
    if corruption.moves:
        return corruption.change(sample, level, _generator(sample.seed, name, 0)) if sample.images else sample
    images = [
        from_unit(corruption.change(to_unit(image), level, _generator(sample.seed, name, n)), image.dtype)
        for n, image in enumerate(sample.images)
    ]
    return dataclasses.replace(sample, images=images)


def check(name: str, severity: int) -> None:
    """Raises:
    UserError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"no corruption {name!r}", where="corruptions", fix=closest(name, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} of {name}", where="corruptions", fix="1, 2, 3, 4 or 5")


def _generator(seed: int, name: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "corrupt", name, number))


def _brightness_contrast(image: Tensor, level: tuple[float, float], _: torch.Generator) -> Tensor:
    plus, times = level
    return image * times + plus


def _cloud(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    height, width = image.shape[1:]
    thickness = fractal_noise((height, width), generator)
    num_clear = min(height * width - 1, round((1 - share) * height * width))
    edge = np.partition(thickness.numpy(), num_clear, axis=None)[num_clear]
    cover = _blurred((thickness >= edge).float()[None], CLOUD_BLUR)
    return image * (1 - cover) + CLOUD_WHITE * cover


CLOUD_WHITE = 0.9
CLOUD_BLUR = (11, 5.0)  # pixels of the kernel, standard deviation
CLOUD_SCALE = 200  # pixels of the largest billows
CLOUD_OCTAVES = 6  # each half the size and half the strength of the one before


def fractal_noise(size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """float[H, W], clouds of many sizes: random grids, each finer and weaker than the last, smoothly enlarged."""
    height, width = size_hw
    total = torch.zeros(height, width)
    for octave in range(CLOUD_OCTAVES):
        cell = CLOUD_SCALE / 2**octave
        grid = torch.rand(1, 1, math.ceil(height / cell) + 3, math.ceil(width / cell) + 3, generator=generator)
        size = max(height, math.ceil(grid.shape[2] * cell)), max(width, math.ceil(grid.shape[3] * cell))
        smooth = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)[0, 0]
        top, left = (size[0] - height) // 2, (size[1] - width) // 2  # away from the edges, where it is flat
        total += smooth[top : top + height, left : left + width] / 2**octave
    return total


def _compression(image: Tensor, quality: int, _: torch.Generator) -> Tensor:
    image = from_unit(image, torch.uint8)  # which JPEG keeps, whatever comes in
    if len(image) == 3:
        return to_unit(reencode(image, quality))
    return to_unit(torch.stack([reencode(channel.expand(3, -1, -1), quality)[0] for channel in image]))


def _gaps(image: Tensor, level: tuple[int, int], generator: torch.Generator) -> Tensor:
    num_stripes, stripe_width = level
    height, width = image.shape[1:]
    angle = math.pi * float(torch.rand((), generator=generator, dtype=torch.float64))
    across = torch.arange(width) * math.cos(angle) + (torch.arange(height) * math.sin(angle))[:, None]  # [H, W]
    is_lost = across % (math.hypot(width, height) / num_stripes) < stripe_width
    return image.masked_fill(is_lost, 0)


def _gaussian_blur(image: Tensor, kernel: int, _: torch.Generator) -> Tensor:
    return _blurred(image, (kernel, 0.15 * kernel + 0.35))  # the deviation that OpenCV takes for it


def _blurred(values: Tensor, kernel: tuple[int, float]) -> Tensor:
    """float[C, H, W]; the border is repeated where an image is smaller than the kernel, which mirroring cannot fill."""
    size, deviation = kernel
    reach = size // 2
    wide = F.pad(values, [reach] * 4, mode="reflect" if min(values.shape[1:]) > reach else "replicate")
    return vision.gaussian_blur(wide, [size, size], [deviation, deviation])[:, reach:-reach, reach:-reach]


def _gaussian_noise(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return image + deviation * torch.randn(image.shape, generator=generator)


def _haze(image: Tensor, strength: float, _: torch.Generator) -> Tensor:
    return image * (1 - strength) + strength


def _motion_blur(image: Tensor, length: int, _: torch.Generator) -> Tensor:
    before, after = length // 2, length - 1 - length // 2
    wide = F.pad(image, [before, after, 0, 0], mode="reflect" if image.shape[2] > before else "replicate")
    return F.avg_pool2d(wide, (1, length), stride=1)


def _salt_and_pepper(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    hit, shade = torch.rand(2, *image.shape[1:], generator=generator)
    speckles = (shade < 0.5).float()
    return torch.where(hit < share, speckles, image)


def _rotation(sample: Sample, degrees: float, _: torch.Generator) -> Sample:
    return rotate(sample, math.radians(-degrees))  # anticlockwise on screen


def _scale(sample: Sample, factor: float, _: torch.Generator) -> Sample:
    height, width = sample.images[0].shape[1:]
    small = max(1, int(height * factor)), max(1, int(width * factor))
    return pad(resize(sample, small), (height, width), ((height - small[0]) // 2, (width - small[1]) // 2))


def _translation(sample: Sample, shift: int, generator: torch.Generator) -> Sample:
    height, width = sample.images[0].shape[1:]
    right, down = (torch.randint(2, (2,), generator=generator) == 1).tolist()
    x, y = min(shift, width - 1), min(shift, height - 1)
    x0, y0 = 0 if right else x, 0 if down else y
    rest = crop(sample, (x0, y0, x0 + width - x, y0 + height - y))
    return pad(rest, (height, width), (y if down else 0, x if right else 0))


CORRUPTIONS: dict[str, Corruption] = {
    "brightness_contrast": Corruption(
        levels=((0.0, 1.0), (0.1, 0.8), (0.2, 0.6), (0.3, 0.4), (0.4, 0.2)),
        unit="added (of 1), after a factor",
        change=_brightness_contrast,
    ),
    "cloud": Corruption(levels=(0.10, 0.15, 0.20, 0.25, 0.30), unit="share of the picture", change=_cloud),
    "compression": Corruption(levels=(30, 25, 20, 15, 10), unit="JPEG quality", change=_compression),
    "data_gaps": Corruption(
        levels=((2, 3), (3, 4), (4, 5), (5, 6), (6, 7)), unit="stripes a diagonal, pixels wide", change=_gaps
    ),
    "gaussian_blur": Corruption(levels=(3, 5, 7, 9, 11), unit="pixels of the kernel", change=_gaussian_blur),
    "gaussian_noise": Corruption(
        levels=(0.04, 0.05, 0.06, 0.07, 0.08), unit="standard deviation (of 1)", change=_gaussian_noise
    ),
    "haze": Corruption(levels=(0.2, 0.3, 0.4, 0.5, 0.6), unit="share of white", change=_haze),
    "motion_blur": Corruption(levels=(2, 4, 6, 8, 10), unit="pixels, sideways", change=_motion_blur),
    "rotation": Corruption(levels=(30, 45, 60, 75, 90), unit="degrees", change=_rotation, moves=True),
    "salt_and_pepper": Corruption(
        levels=(0.005, 0.01, 0.02, 0.03, 0.05), unit="share of pixels", change=_salt_and_pepper
    ),
    "scale": Corruption(levels=(0.9, 0.8, 0.7, 0.6, 0.5), unit="factor", change=_scale, moves=True),
    "translation": Corruption(levels=(15, 20, 25, 30, 35), unit="pixels each way", change=_translation, moves=True),
}
