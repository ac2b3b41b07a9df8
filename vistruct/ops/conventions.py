"""Oriented boxes as others write them: the same rectangle with another unit, direction and range of its angle.

| convention | angle | direction | range | sides |
|---|---|---|---|---|
| `LE90` (ours) | radians | clockwise on screen | [-pi/2, pi/2) | width >= height |
| `LE135` | radians | clockwise | [-pi/4, 3 pi/4) | width >= height |
| `OC` (mmrotate) | radians | clockwise | (0, pi/2] | any |
| `OPENCV` 4.5.1 to 4.x | degrees | clockwise | (0, 90] | any |
| `OPENCV_OLD` before 4.5.1, and 5.0 | degrees | clockwise | [-90, 0) | any |
| `DETECTRON2` | degrees | counter-clockwise | (-90, 90] | width >= height |
| `TORCHVISION`, `CXCYWHR` | degrees | counter-clockwise | (-90, 90] | width >= height |

Where both sides may be the longer one the range is a quarter turn, else half a turn. detectron2 and torchvision take
any angle and any sides; what is written for them is within the range above. Reading takes any angle everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vistruct.ops.oriented import normalize_le90


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How the angle of a box is written; every number is in the unit and direction of that angle."""

    low: float
    span: float  # half a turn: width >= height; a quarter: any sides
    quarter_turn: float  # math.pi / 2 or 90.0
    is_clockwise: bool = True  # on screen, which is from +x towards +y
    has_low: bool = True  # whether the range is [low, low + span) or (low, low + span]


LE90 = Convention(low=-math.pi / 2, span=math.pi, quarter_turn=math.pi / 2)
LE135 = Convention(low=-math.pi / 4, span=math.pi, quarter_turn=math.pi / 2)
OC = Convention(low=0.0, span=math.pi / 2, quarter_turn=math.pi / 2, has_low=False)
OPENCV = Convention(low=0.0, span=90.0, quarter_turn=90.0, has_low=False)
OPENCV_OLD = Convention(low=-90.0, span=90.0, quarter_turn=90.0)
DETECTRON2 = Convention(low=-90.0, span=180.0, quarter_turn=90.0, is_clockwise=False, has_low=False)
TORCHVISION = DETECTRON2


def cxcywha_from(boxes: Tensor, convention: Convention) -> Tensor:
    """Boxes written in a convention, in ours.

    Args:
        boxes: float[..., 5]: centre x, y, width, height (pixels), angle; any angle and sides are understood.

    Returns:
        float[..., 5], cxcywha in le90.
    """
    unit = math.pi / 2 / convention.quarter_turn * (1 if convention.is_clockwise else -1)
    return normalize_le90(torch.cat([boxes[..., :4], (boxes[..., 4:].double() * unit).to(boxes.dtype)], dim=-1))


def cxcywha_to(boxes: Tensor, convention: Convention) -> Tensor:
    """Our boxes as a convention writes them.

    Args:
        boxes: float[..., 5], cxcywha; need not be le90.

    Returns:
        float[..., 5], the same rectangles with the angle in the convention's unit, direction and range.
    """
    boxes = normalize_le90(boxes)
    unit = convention.quarter_turn / (math.pi / 2) * (1 if convention.is_clockwise else -1)
    angle = boxes[..., 4].double() * unit
    turns = (angle - convention.low) / convention.span
    near = torch.finfo(boxes.dtype).eps  # an angle this close to an end of the range is that end, rounded
    turns = torch.floor(turns + near) if convention.has_low else torch.ceil(turns - near) - 1
    low, high = convention.low, convention.low + convention.span
    angle = (angle - turns * convention.span).clamp(low, high).to(boxes.dtype)
    first, end = (low, high) if convention.has_low else (high, low)
    is_over = angle == torch.full_like(angle, end)  # rounded to the boxes' dtype it may still land on the wrong end
    angle = torch.where(is_over, first, angle)
    is_turned = (turns % 2 != 0) ^ is_over if convention.span == convention.quarter_turn else torch.zeros_like(is_over)
    w, h = boxes[..., 2], boxes[..., 3]
    sides = torch.stack([torch.where(is_turned, h, w), torch.where(is_turned, w, h)], dim=-1)
    return torch.cat([boxes[..., :2], sides, angle[..., None]], dim=-1)
