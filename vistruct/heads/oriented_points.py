"""Locations and oriented boxes: where a point lies in a box's own frame, and which box it stands for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CENTER_RADIUS = 1.5  # strides around an object's centre, along its sides, that count as the object
LEAST_HALF = 0.71  # strides: a thinner side counts as that far from the middle; sqrt(1/2), so that a location is near
PAIRS_AT_ONCE = 4_000_000  # of location and object, 32 MB an array


def box_frames(points: Tensor, boxes: Tensor) -> Tensor:
    """Offsets from the centres of the boxes to the points, along the boxes' sides, pixels.

    Args:
        points: float[..., 2], pixels.
        boxes: float[..., 5], cxcywha; broadcast with the points.

    Returns:
        float[..., 2].
    """
    x, y = (points - boxes[..., :2]).unbind(dim=-1)
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)


def half_sides(boxes: Tensor, stride: Tensor) -> Tensor:
    """Half the sides of the boxes as far as locations of a stride are concerned, pixels.

    Every box, be it thinner than the locations are apart, reaches over one of them.

    Args:
        boxes: float[..., 5], cxcywha.
        stride: float[..., 1], pixels; broadcast with the boxes.

    Returns:
        float[..., 2].
    """
    return torch.maximum(boxes[..., 2:4] / 2, LEAST_HALF * stride)


def match_oriented(cells_xyxy: Tensor, ranges: Tensor, boxes: Tensor) -> Tensor:
    """The object that each location stands for: of those that it may stand for, the smallest.

    It may stand for an object that it lies in (`half_sides`), near whose centre it is, and whose farthest side is in
    the range of its level.

    Args:
        cells_xyxy: float[N, 4], pixels; a location is the centre of its cell.
        ranges: float[N, 2], pixels: bounds on the distance to the farthest side, as from `fcos.size_ranges`.
        boxes: float[M, 5], cxcywha.

    Returns:
        int64[N], an index into the boxes, or -1 for background.
    """
    if len(boxes) == 0:
        return torch.full((len(cells_xyxy),), -1, dtype=torch.int64, device=cells_xyxy.device)
    chunk = max(1, PAIRS_AT_ONCE // len(boxes))
    pieces = zip(cells_xyxy.split(chunk), ranges.split(chunk), strict=True)
    return torch.cat([_match(cells, bounds, boxes) for cells, bounds in pieces])


def within_any(cells_xyxy: Tensor, regions: Tensor) -> Tensor:
    """bool[N]: the centre of the cell lies in one of the regions float[K, 5]; all false where K is 0."""
    if len(regions) == 0:
        return torch.zeros(len(cells_xyxy), dtype=torch.bool, device=cells_xyxy.device)
    point = (cells_xyxy[:, :2] + cells_xyxy[:, 2:]) / 2
    pieces = point.split(max(1, PAIRS_AT_ONCE // len(regions)))
    return torch.cat([_inside(piece, regions).any(dim=1) for piece in pieces])


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    offset = box_frames(points[:, None], boxes[None])  # [n, K, 2]
    return (offset.abs() < boxes[:, 2:4] / 2).all(dim=2)


def _match(cells_xyxy: Tensor, ranges: Tensor, boxes: Tensor) -> Tensor:
    point = (cells_xyxy[:, :2] + cells_xyxy[:, 2:]) / 2  # [n, 2]
    stride = (cells_xyxy[:, 2] - cells_xyxy[:, 0])[:, None]  # [n, 1]
    # Only the objects with a centre near one of the locations: of a pyramid's locations a chunk is a strip.
    reach = CENTER_RADIUS * math.sqrt(2) * stride.max()
    low, high = point.amin(dim=0) - reach, point.amax(dim=0) + reach
    near = ((boxes[:, :2] >= low) & (boxes[:, :2] <= high)).all(dim=1).nonzero().squeeze(1)
    if len(near) == 0:
        return torch.full((len(point),), -1, dtype=torch.int64, device=point.device)
    offset = box_frames(point[:, None], boxes[near]).abs()  # [n, m, 2]
    half = boxes[near, 2:4] / 2  # [m, 2]
    farthest = (half + offset).amax(dim=2)  # [n, m]
    may = (offset < half_sides(boxes[near], stride[:, None])).all(dim=2)
    may &= offset.amax(dim=2) < CENTER_RADIUS * stride
    may &= (farthest > ranges[:, :1]) & (farthest <= ranges[:, 1:])
    smallest, index = torch.where(may, half.prod(dim=1), math.inf).min(dim=1)
    return torch.where(smallest < math.inf, near[index], -1)
