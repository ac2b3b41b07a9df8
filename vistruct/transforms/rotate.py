"""Rotation by any angle about the centre of the image, which keeps its size.

Source: the random rotation of the oriented detectors in MMRotate (about the centre, canvas kept).
Differs: corners that turn into view have the mean colour instead of black; an object stays by how much of it shows
and not by where its centre is.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistruct.contracts import Sample
from vistruct.transforms.crop import has_pixels, mask_hulls, settle
from vistruct.transforms.geometry import UNMAPPED
from vistruct.transforms.points import affine, move_objects, move_points, outlines

MEAN_COLOUR = (124, 116, 104)  # RGB, ImageNet

Colour = tuple[int, int, int]


def rotate(sample: Sample, angle_rad: float, fill: Colour = MEAN_COLOUR, min_kept: float = 0.4) -> Sample:
    """Rotate clockwise on screen, as the angle of an oriented box grows.

    Quads and keypoints are rotated exactly; objects that turn out of view follow the rule of `crop`. A horizontal box
    becomes the hull of its mask where it has one, else the hull of its rotated corners, which is larger than the
    object: by up to a factor of 2 in area for a square. For horizontal detectors use `turn`.

    Args:
        angle_rad: radians; 0 gives the sample as it is.
        fill: of what turns into view from outside, RGB.
        min_kept: the least share of an object that must show, in (0, 1].
    """
    if angle_rad == 0:
        return sample
    there, back = (about_centre(angle, sample.images[0]) for angle in (angle_rad, -angle_rad))
    places = move_points(outlines(sample), there)
    moved = dataclasses.replace(
        sample,
        images=[_rotated(image, about_centre(-angle_rad, image), fill) for image in sample.images],
        masks=None if sample.masks is None else _rotated_masks(sample.masks, back),
        origin_xy=UNMAPPED,
        **move_objects(sample, there),
    )
    pixels = has_pixels(moved)
    if moved.quads is None and moved.masks is not None and pixels is not None:
        boxes = moved.boxes_xyxy.clone()
        boxes[pixels] = mask_hulls(moved.masks[pixels]).to(boxes.dtype)
        moved.boxes_xyxy = boxes
    return settle(moved, places, min_kept, had_mask=has_pixels(sample))


def about_centre(angle_rad: float, image: Tensor) -> Tensor:
    """float64[2, 3], the rotation clockwise on screen about the middle of an image [3, H, W]."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    x, y = image.shape[2] / 2, image.shape[1] / 2
    return affine([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


# By Pillow: its fixed-point warp of uint8 takes a third of the time of `grid_sample`, and centres pixels alike.
def _rotated(image: Tensor, back: Tensor, fill: Colour) -> Tensor:
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    turned = picture.transform(
        picture.size, Image.Transform.AFFINE, back.flatten().tolist(), Image.Resampling.BILINEAR, fillcolor=fill
    )
    return torch.from_numpy(np.array(turned)).permute(2, 0, 1)


def _rotated_masks(masks: Tensor, back: Tensor) -> Tensor:
    turned = torch.zeros_like(masks)
    for number, mask in enumerate(masks):
        picture = Image.fromarray(mask.to(torch.uint8).numpy())
        after = picture.transform(picture.size, Image.Transform.AFFINE, back.flatten().tolist())
        turned[number] = torch.from_numpy(np.array(after)).bool()
    return turned
