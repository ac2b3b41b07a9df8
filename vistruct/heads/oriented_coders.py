"""How an oriented box is written relative to another box: the two coders of Oriented R-CNN.

Source: Xie et al., "Oriented R-CNN for Object Detection", arXiv:2108.05699, section 3.1 (midpoint offsets), and
    `MidpointOffsetCoder` and `DeltaXYWHAOBBoxCoder` of mmrotate 0.3.4.
Differs: `MidpointOffsets` asks once whether a box is parallel to the image. The published code asks for its top and for
    its right side apart, each within 0.1 px; where only the short one of the two passes as parallel, the box that comes
    back is a line (0.6 % of boxes of 8 to 20 px). `compatible=True` gives the published numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vistruct.ops.oriented import normalize_le90

LARGEST_LOG = math.log(1000 / 16)  # of a size ratio; what a network says beyond it is clamped, as published
PARALLEL = 0.1  # pixels: a side that leaves the horizontal or vertical by at most this counts as parallel to it


@dataclass(frozen=True, kw_only=True)
class MidpointOffsets:
    """Horizontal anchors <-> oriented boxes: the hull's four deltas, and where the box touches its hull.

    The last two numbers are the offsets of the topmost corner from the middle of the hull's top side and of the
    rightmost corner from the middle of its right side, as shares of the side, in [-0.5, 0.5]. A parallel box is its own
    hull, written as (0.5, 0.5).
    """

    stds: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
    compatible: bool = False  # the published rule for almost parallel boxes

    def encode(self, anchors_xyxy: Tensor, boxes: Tensor) -> Tensor:
        """Write boxes relative to their anchors.

        Args:
            anchors_xyxy: float[N, 4], pixels, each with an area.
            boxes: float[N, 5], cxcywha, each with an area.

        Returns:
            float[N, 6], finite.
        """
        place, size = _centre_and_size(anchors_xyxy)
        offsets, hull = _touching(boxes, compatible=self.compatible)
        deltas = torch.cat([(boxes[:, :2] - place) / size, (hull / size).log(), offsets], dim=1)
        return deltas / deltas.new_tensor(self.stds)

    def decode(self, anchors_xyxy: Tensor, deltas: Tensor) -> Tensor:
        """The boxes that are meant; any deltas give a rectangle.

        The four touching points of arbitrary deltas make a parallelogram; its shorter diagonal is stretched to the
        longer one, which makes it a rectangle.

        Args:
            anchors_xyxy: float[N, 4], pixels.
            deltas: float[N, 6].

        Returns:
            float[N, 5], cxcywha in le90; without an area where the touching points lie on one line.
        """
        place, size = _centre_and_size(anchors_xyxy)
        deltas = deltas * deltas.new_tensor(self.stds)
        centre = place + size * deltas[:, :2]
        width, height = (size * deltas[:, 2:4].clamp(-LARGEST_LOG, LARGEST_LOG).exp()).unbind(dim=1)  # of the hull
        at_top, at_right = deltas[:, 4:].clamp(-0.5, 0.5).unbind(dim=1)
        top = torch.stack([at_top * width, -height / 2], dim=1)  # [N, 2], from the centre
        right = torch.stack([width / 2, at_right * height], dim=1)
        lengths = torch.stack([top.norm(dim=1), right.norm(dim=1)])  # [2, N], half diagonals
        longest = lengths.amax(dim=0)
        top, right = top * (longest / lengths[0])[:, None], right * (longest / lengths[1])[:, None]
        sides = torch.stack([right - top, right + top])  # [2, N, 2], at right angles
        short, long = sides.norm(dim=2).sort(dim=0)[0]
        longer = torch.where((sides[0].norm(dim=1) >= sides[1].norm(dim=1))[:, None], sides[0], sides[1])
        angle = torch.atan2(longer[:, 1], longer[:, 0])  # of the longer one: the other may have no direction
        return normalize_le90(torch.stack([*centre.unbind(dim=1), long, short, angle], dim=1))


@dataclass(frozen=True, kw_only=True)
class OrientedDeltas:
    """Oriented proposals <-> oriented boxes: centre, sides and angle in the proposal's own frame.

    The box's sides are named so that the angle between the two is at most pi/4, whichever is the longer one.
    """

    stds: tuple[float, float, float, float, float] = (0.1, 0.1, 0.2, 0.2, 0.1)

    def encode(self, proposals: Tensor, boxes: Tensor) -> Tensor:
        """Write boxes relative to their proposals.

        Args:
            proposals: float[N, 5], cxcywha, each with an area.
            boxes: float[N, 5], likewise.

        Returns:
            float[N, 5], finite; the angle before division by its deviation is in [-pi/4, pi/4].
        """
        turn = _half_turns(boxes[:, 4] - proposals[:, 4])
        swap = turn.abs() >= _half_turns(turn + math.pi / 2).abs()
        turn = torch.where(swap, _half_turns(turn + math.pi / 2), turn)
        sides = torch.where(swap[:, None], boxes[:, 2:4].flip(1), boxes[:, 2:4])
        place = _turned(boxes[:, :2] - proposals[:, :2], -proposals[:, 4]) / proposals[:, 2:4]
        deltas = torch.cat([place, (sides / proposals[:, 2:4]).log(), turn[:, None]], dim=1)
        return deltas / deltas.new_tensor(self.stds)

    def decode(self, proposals: Tensor, deltas: Tensor, max_size_hw: tuple[int, int] | None = None) -> Tensor:
        """The boxes that are meant.

        Args:
            proposals: float[N, 5], cxcywha.
            deltas: float[N, 5].
            max_size_hw: height and width in pixels; centres beyond the last pixel are moved onto it, as in the
                published code. None: they stay where they are.

        Returns:
            float[N, 5], cxcywha in le90.
        """
        deltas = deltas * deltas.new_tensor(self.stds)
        centre = proposals[:, :2] + _turned(deltas[:, :2] * proposals[:, 2:4], proposals[:, 4])
        if max_size_hw is not None:
            height, width = max_size_hw
            centre = centre.clamp(min=0).minimum(centre.new_tensor([width - 1, height - 1]))
        sides = proposals[:, 2:4] * deltas[:, 2:4].clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        angle = proposals[:, 4] + deltas[:, 4]
        return normalize_le90(torch.cat([centre, sides, angle[:, None]], dim=1))


def _centre_and_size(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]


def _half_turns(angle: Tensor) -> Tensor:
    """The same direction of a side in [-pi/2, pi/2)."""
    return torch.remainder(angle + math.pi / 2, math.pi) - math.pi / 2


def _turned(points: Tensor, angle: Tensor) -> Tensor:
    """float[N, 2] turned by float[N] radians about the origin."""
    cos, sin = angle.cos(), angle.sin()
    x, y = points.unbind(dim=1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)


def _touching(boxes: Tensor, *, compatible: bool) -> tuple[Tensor, Tensor]:
    """Offsets float[N, 2] of the topmost and the rightmost corner, and sizes float[N, 2] of the hull."""
    # Name the sides so that the first one runs down to the right, at an angle in [0, pi/2): its start is the
    # topmost corner of the box and its end the rightmost.
    angle = torch.remainder(boxes[:, 4], math.pi)
    steep = angle >= math.pi / 2
    angle = torch.where(steep, angle - math.pi / 2, angle).clamp(min=0)
    first, second = torch.where(steep[:, None], boxes[:, 2:4].flip(1), boxes[:, 2:4]).unbind(dim=1)
    cos, sin = angle.cos(), angle.sin()
    run, rise = first * cos, first * sin  # of the first side
    back, fall = second * sin, second * cos  # of the second, which runs down to the left
    hull = torch.stack([run + back, rise + fall], dim=1)
    exact = torch.stack([(back - run), (rise - fall)], dim=1) / (2 * hull)
    flat = (
        torch.stack([rise, back], dim=1) <= PARALLEL
    )  # the first side as good as level, the second as good as upright
    if not compatible:
        flat = flat.all(dim=1, keepdim=True)
    # Published: of the corners within 0.1 px of the top (right) the one farthest right (down), which is the hull's own.
    return torch.where(flat, 0.5, exact), hull
