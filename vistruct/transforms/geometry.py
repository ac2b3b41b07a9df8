"""Images and objects moved together: flips, quarter turns, resizing. (`crop.py` cuts, `rotate.py` turns freely.)

Every function takes a sample and gives a new one; the old one is untouched. Boxes, quads, masks, keypoints and the
label map are pixels of the first image; further images of the sample (pairs, multi-image chats) are moved the same
way. Images may have any number of channels.

`origin_xy` and `scale_xy` say how to map back to the whole image. Resizing and cropping keep them true. After
a flip or a turn no origin and scale can say it, and `origin_xy` becomes NaN so that mapping back cannot go
wrong in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Sample
from vistruct.ops.soft_masks import resized_soft
from vistruct.ops.values import moved, stored
from vistruct.transforms.points import affine, move_objects

Interpolation = Literal["bilinear", "bicubic"]
UNMAPPED = (float("nan"), float("nan"))


def flip_horizontal(sample: Sample) -> Sample:
    """Swap left and right."""
    width = sample.images[0].shape[2]
    return _rearranged(sample, affine([[-1, 0, width], [0, 1, 0]]), lambda grid: grid.flip(-1))


def flip_vertical(sample: Sample) -> Sample:
    """Swap top and bottom."""
    height = sample.images[0].shape[1]
    return _rearranged(sample, affine([[1, 0, 0], [0, -1, height]]), lambda grid: grid.flip(-2))


def flip_diagonal(sample: Sample) -> Sample:
    """Swap left and right, and top and bottom: half a turn."""
    return turn(sample, 2)


def turn(sample: Sample, quarters: int) -> Sample:
    """Turn by quarters of a circle, anticlockwise on screen; height and width swap at odd numbers."""
    quarters %= 4
    if quarters == 0:
        return sample
    height, width = sample.images[0].shape[1:]
    matrix = {
        1: [[0, 1, 0], [-1, 0, width]],
        2: [[-1, 0, width], [0, -1, height]],
        3: [[0, -1, height], [1, 0, 0]],
    }[quarters]
    return _rearranged(sample, affine(matrix), lambda grid: torch.rot90(grid, quarters, dims=(-2, -1)).contiguous())


def _rearranged(sample: Sample, matrix: Tensor, move: Callable[[Tensor], Tensor]) -> Sample:
    """Pixels in another order: nothing is interpolated."""
    return dataclasses.replace(
        sample,
        images=[moved(image, move) for image in sample.images],
        objects=move_objects(sample.objects, matrix, move),
        label_map=None if sample.label_map is None else move(sample.label_map),
        origin_xy=UNMAPPED,
    )


def resize(sample: Sample, size_hw: tuple[int, int], interpolation: Interpolation = "bilinear") -> Sample:
    """Resize to a height and width in pixels, smoothly in both directions (antialiased).

    The aspect changes as it must. A rectangle that lies askew then becomes a parallelogram, and its quad says so.
    Masks and label maps take the pixel at the centre: no class is made that was not there. Soft masks are resized
    bilinearly.
    """
    height, width = sample.images[0].shape[1:]
    scale_x, scale_y = size_hw[1] / width, size_hw[0] / height
    return dataclasses.replace(
        sample,
        images=[resized(image, size_hw, interpolation) for image in sample.images],
        objects=move_objects(
            sample.objects, affine([[scale_x, 0, 0], [0, scale_y, 0]]), lambda masks: _resized_masks(masks, size_hw)
        ),
        label_map=None if sample.label_map is None else nearest(sample.label_map, size_hw),
        scale_xy=(sample.scale_xy[0] * scale_x, sample.scale_xy[1] * scale_y),
    )


def resized(pixels: Tensor, size_hw: tuple[int, int], interpolation: Interpolation = "bilinear") -> Tensor:
    """number[..., H, W] as the same type of another height and width, smoothly (antialiased)."""
    mode = F.InterpolationMode(interpolation)
    if tuple(pixels.shape[-2:]) == size_hw:
        return pixels
    if pixels.dtype == torch.uint8 and size_hw != (1, 1):  # at one pixel torch 2.15 fails with an internal assertion
        return F.resize(pixels, list(size_hw), mode, antialias=True)
    return stored(F.resize(pixels.float(), list(size_hw), mode, antialias=True), pixels.dtype)


def _resized_masks(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if not masks.is_floating_point():
        return nearest(masks, size_hw)
    return resized_soft(masks, size_hw)  # not antialiased, as published


def nearest(grid: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize any[..., H, W] to any[..., h, w] by the pixel at the centre of each new one, without a change of values.

    In whole numbers and not by torch's "nearest-exact", which goes by way of floats and knows fewer dtypes; plain
    "nearest" is off by half a pixel.
    """
    axes = (-2, -1) if size_hw[0] < grid.shape[-2] else (-1, -2)  # columns in the smaller of both: rows are cheap
    for axis in axes:
        size, old = size_hw[axis], grid.shape[axis]
        if old != size:
            grid = grid.index_select(axis, (2 * torch.arange(size) + 1) * old // (2 * size))
    return grid


def rescale(sample: Sample, factor: float) -> Sample:
    """Resize by a factor, to whole pixels and at least one of them."""
    height, width = sample.images[0].shape[1:]
    return resize(sample, (max(1, round(height * factor)), max(1, round(width * factor))))


def fit(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    """Resize to the largest size that lies within `size_hw` (pixels), the aspect kept to a pixel."""
    return rescale(sample, fit_factor(sample, size_hw))


def fit_factor(sample: Sample, size_hw: tuple[int, int]) -> float:
    """The factor by which the first image just fits into `size_hw`."""
    height, width = sample.images[0].shape[1:]
    return min(size_hw[0] / height, size_hw[1] / width)
