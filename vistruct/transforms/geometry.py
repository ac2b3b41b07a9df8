"""Images and boxes moved together: flips, quarter turns, resizing, cropping.

Every function takes a sample and gives a new one; the old one is untouched. Boxes are pixels of the first
image; further images of the sample (pairs, multi-image chats) are moved the same way.

`origin_xy` and `scale_xy` say how to map back to the whole image. Resizing and cropping keep them true. After
a flip or a turn no origin and scale can say it, and `origin_xy` becomes NaN so that mapping back cannot go
wrong in silence.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Sample

_UNMAPPED = (float("nan"), float("nan"))


def flip_horizontal(sample: Sample) -> Sample:
    """Swap left and right."""
    width = sample.images[0].shape[2]
    x0, y0, x1, y1 = sample.boxes_xyxy.unbind(1)
    return dataclasses.replace(
        sample,
        images=[F.horizontal_flip(image) for image in sample.images],
        boxes_xyxy=torch.stack([width - x1, y0, width - x0, y1], dim=1),
        origin_xy=_UNMAPPED,
    )


def flip_vertical(sample: Sample) -> Sample:
    """Swap top and bottom."""
    height = sample.images[0].shape[1]
    x0, y0, x1, y1 = sample.boxes_xyxy.unbind(1)
    return dataclasses.replace(
        sample,
        images=[F.vertical_flip(image) for image in sample.images],
        boxes_xyxy=torch.stack([x0, height - y1, x1, height - y0], dim=1),
        origin_xy=_UNMAPPED,
    )


def turn(sample: Sample, quarters: int) -> Sample:
    """Turn by quarters of a circle, anticlockwise on screen; height and width swap at odd numbers."""
    quarters %= 4
    if quarters == 0:
        return sample
    boxes = sample.boxes_xyxy
    height, width = sample.images[0].shape[1:]
    for _ in range(quarters):
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([y0, width - x1, y1, width - x0], dim=1)
        height, width = width, height
    images = [torch.rot90(image, quarters, dims=(1, 2)).contiguous() for image in sample.images]
    return dataclasses.replace(sample, images=images, boxes_xyxy=boxes, origin_xy=_UNMAPPED)


def resize(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    """Resize to a height and width in pixels, smoothly in both directions (bilinear, antialiased)."""
    height, width = sample.images[0].shape[1:]
    scale_x, scale_y = size_hw[1] / width, size_hw[0] / height
    return dataclasses.replace(
        sample,
        images=[_resized(image, size_hw) for image in sample.images],
        boxes_xyxy=sample.boxes_xyxy * torch.tensor([scale_x, scale_y, scale_x, scale_y]),
        scale_xy=(sample.scale_xy[0] * scale_x, sample.scale_xy[1] * scale_y),
    )


def _resized(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if size_hw == (1, 1):  # torch 2.15 fails on uint8 here with an internal assertion
        return F.resize(image.float(), [1, 1], antialias=True).round().to(torch.uint8)
    return F.resize(image, list(size_hw), antialias=True)


def rescale(sample: Sample, factor: float) -> Sample:
    """Resize by a factor, to whole pixels and at least one of them."""
    height, width = sample.images[0].shape[1:]
    return resize(sample, (max(1, round(height * factor)), max(1, round(width * factor))))


def crop(sample: Sample, window_xyxy: tuple[int, int, int, int], min_kept: float = 0.4) -> Sample:
    """Cut out a window that lies inside the image.

    Boxes are clipped to it; those of which less than `min_kept` of the area shows are removed (a crowd stays
    while any of it shows). Crops being drawn anew each time, this is no property of the data and is not
    counted.

    Raises:
        ValueError: the window is empty or not inside the image.
    """
    x0, y0, x1, y1 = window_xyxy
    if any(not (0 <= x0 < x1 <= image.shape[2] and 0 <= y0 < y1 <= image.shape[1]) for image in sample.images):
        sizes = [tuple(image.shape[1:]) for image in sample.images]
        raise ValueError(f"window {window_xyxy} is not inside images of (height, width) {sizes}")
    low, high = torch.tensor([x0, y0, x0, y0]), torch.tensor([x1, y1, x1, y1])
    boxes = torch.minimum(torch.maximum(sample.boxes_xyxy, low), high)
    shown = _area(boxes)
    enough = shown >= (min_kept - 1e-6) * _area(sample.boxes_xyxy)  # less than rounding in float32
    kept = (shown > 0) & (enough | sample.is_crowd)
    origin_xy = (sample.origin_xy[0] + x0 / sample.scale_xy[0], sample.origin_xy[1] + y0 / sample.scale_xy[1])
    return dataclasses.replace(
        sample.keep(kept),
        images=[image[:, y0:y1, x0:x1].clone() for image in sample.images],
        boxes_xyxy=(boxes - low)[kept],
        origin_xy=origin_xy,
    )


def random_crop(sample: Sample, size_hw: tuple[int, int], generator: torch.Generator, min_kept: float = 0.4) -> Sample:
    """Cut out a window of a given size anywhere; a side that is shorter already stays as it is."""
    height, width = sample.images[0].shape[1:]
    crop_height, crop_width = min(size_hw[0], height), min(size_hw[1], width)
    x0 = int(torch.randint(width - crop_width + 1, (), generator=generator))
    y0 = int(torch.randint(height - crop_height + 1, (), generator=generator))
    return crop(sample, (x0, y0, x0 + crop_width, y0 + crop_height), min_kept)


def _area(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)
