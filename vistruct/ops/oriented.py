"""Oriented boxes `cxcywha`, their corners and their hulls: the one inner convention, and every way into it.

A box is float[..., 5]: centre x, centre y, width, height (pixels) and angle (radians, positive from +x towards +y,
which is clockwise on a screen). In the canonical form, "le90", width >= height and the angle is in [-pi/2, pi/2).
Corners are (-w/2, -h/2), (+w/2, -h/2), (+w/2, +h/2), (-w/2, +h/2), rotated about the centre.

How others write the same boxes: `vistruct.ops.conventions`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Every pair of a quad's corners. Its minimum-area rectangle lies along a side of its convex hull, and each of those
# joins two corners; a pair that is no side of the hull also gives a rectangle around it, only not a smaller one.
FROM, TO = (0, 1, 2, 3, 0, 1), (1, 2, 3, 0, 2, 3)


def cxcywha_to_quads(boxes: Tensor) -> Tensor:
    """Corners of any boxes, also of those that are not le90.

    Args:
        boxes: float[..., 5], cxcywha.

    Returns:
        float[..., 4, 2], in the order above.
    """
    cx, cy, w, h, angle = _columns(boxes)
    cos, sin = angle.cos() / 2, angle.sin() / 2
    along = torch.stack([w * cos, w * sin], dim=-1)  # [..., 2], half the width
    across = torch.stack([-h * sin, h * cos], dim=-1)
    centre = torch.stack([cx, cy], dim=-1)
    return torch.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across], dim=-2
    )


def quads_to_cxcywha(quads: Tensor) -> Tensor:
    """The smallest rectangle around each quad, in le90.

    Corners may come in any order, cross, coincide or lie on a line. Which corner comes first does not matter, to
    rounding: a square (to rounding of the corners) gets the angle in [-pi/4, pi/4), and of several rectangles of the
    same area the one with the largest angle is taken.

    Args:
        quads: float[..., 4, 2].

    Returns:
        float[..., 5], cxcywha; of a line its length, height 0 and direction; of a point zeros and angle 0. NaN where
        a corner is NaN.
    """
    if quads.shape[-2:] != (4, 2):
        raise ValueError(f"quads are [..., 4, 2], not {list(quads.shape)}")
    origin = quads.mean(dim=-2, keepdim=True).double()
    points = quads.double() - origin  # [..., 4, 2]; float64 and local, so that 1e4 px away costs nothing
    side = points[..., TO, :] - points[..., FROM, :]  # [..., 6, 2]
    length = side.square().sum(dim=-1, keepdim=True)
    side = torch.where(length > 0, side / length.clamp(min=1e-300).sqrt(), side.new_tensor([1.0, 0.0]))
    x, y = points[..., None, :, 0], points[..., None, :, 1]  # [..., 1, 4]
    u, v = x * side[..., 0:1] + y * side[..., 1:2], y * side[..., 0:1] - x * side[..., 1:2]  # [..., 6, 4]
    low_u, high_u, low_v, high_v = u.amin(-1), u.amax(-1), v.amin(-1), v.amax(-1)  # torch 2.9 has no aminmax backward

    width, height = high_u - low_u, high_v - low_v
    centre_u, centre_v = (high_u + low_u) / 2, (high_v + low_v) / 2
    cx = centre_u * side[..., 0] - centre_v * side[..., 1]
    cy = centre_u * side[..., 1] + centre_v * side[..., 0]
    angle = torch.atan2(side[..., 1], side[..., 0])
    boxes = _canonical_squares(torch.stack([cx, cy, width, height, angle], dim=-1), _rounding(quads))  # [..., 6, 5]

    area = width * height
    smallest = area.amin(dim=-1, keepdim=True)
    is_smallest = area <= smallest * (1 + 1e-9)
    best = torch.where(is_smallest, boxes[..., 4], -math.inf).argmax(dim=-1)  # [...]
    box = boxes.gather(-2, best[..., None, None].expand(*best.shape, 1, 5)).squeeze(-2)
    box = torch.cat([box[..., :2] + origin.squeeze(-2), box[..., 2:]], dim=-1)
    return _wrap(box.to(quads.dtype))


def cxcywha_to_xyxy(boxes: Tensor) -> Tensor:
    """Axis-aligned hulls: float[..., 5] -> float[..., 4], x1, y1, x2, y2."""
    cx, cy, w, h, angle = _columns(boxes)
    cos, sin = angle.cos().abs() / 2, angle.sin().abs() / 2
    half_x, half_y = w.abs() * cos + h.abs() * sin, w.abs() * sin + h.abs() * cos
    return torch.stack([cx - half_x, cy - half_y, cx + half_x, cy + half_y], dim=-1)


def xyxy_to_cxcywha(boxes: Tensor) -> Tensor:
    """Horizontal boxes as oriented ones: float[..., 4] -> float[..., 5], le90: angle 0, or -pi/2 where it is taller."""
    if boxes.shape[-1] != 4:
        raise ValueError(f"xyxy boxes are [..., 4], not {list(boxes.shape)}")
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    angle = torch.where(w >= h, torch.zeros_like(w), -math.pi / 2)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, torch.maximum(w, h), torch.minimum(w, h), angle], dim=-1)


def quads_to_xyxy(quads: Tensor) -> Tensor:
    """Axis-aligned hulls: float[..., 4, 2] -> float[..., 4], x1, y1, x2, y2."""
    if quads.shape[-2:] != (4, 2):
        raise ValueError(f"quads are [..., 4, 2], not {list(quads.shape)}")
    return torch.cat([quads.amin(dim=-2), quads.amax(dim=-2)], dim=-1)


def normalize_le90(boxes: Tensor) -> Tensor:
    """The same rectangles in le90, whatever their sides and angle; what is le90 stays as it is, bit by bit.

    Args:
        boxes: float[..., 5], cxcywha; a negative width or height counts by its size.

    Returns:
        float[..., 5]. A square keeps its angle up to half turns.
    """
    cx, cy, w, h, angle = _columns(boxes)
    w, h = w.abs(), h.abs()
    is_tall = w < h
    angle = torch.where(is_tall, angle + math.pi / 2, angle)
    w, h = torch.where(is_tall, h, w), torch.where(is_tall, w, h)
    return _wrap(torch.stack([cx, cy, w, h, angle], dim=-1))


# --- inside


def _columns(boxes: Tensor) -> tuple[Tensor, ...]:
    if boxes.shape[-1] != 5:
        raise ValueError(f"cxcywha boxes are [..., 5], not {list(boxes.shape)}")
    return boxes.unbind(-1)


def _wrap(boxes: Tensor) -> Tensor:
    """Angles into [-pi/2, pi/2), as the boxes' own dtype has these bounds, by whole half turns."""
    angle = boxes[..., 4]
    angle = angle - torch.floor(angle / math.pi + 0.5) * math.pi
    angle = torch.where(angle < -math.pi / 2, angle + math.pi, angle)  # what rounding leaves over
    angle = torch.where(angle >= math.pi / 2, torch.full_like(angle, -math.pi / 2), angle)
    return torch.cat([boxes[..., :4], angle[..., None]], dim=-1)


def _rounding(quads: Tensor) -> Tensor:
    """float64[..., 1]: by how many pixels the length of a side may be off because its corners were rounded."""
    return 4 * torch.finfo(quads.dtype).eps * quads.double().abs().amax(dim=(-2, -1))[..., None]


def _canonical_squares(boxes: Tensor, rounding: Tensor) -> Tensor:
    """le90 where squares, which have two angles there, take the one in [-pi/4, pi/4)."""
    w, h = boxes[..., 2], boxes[..., 3]
    boxes = normalize_le90(boxes)
    angle = boxes[..., 4]
    folded = angle - torch.floor(angle / (math.pi / 2) + 0.5) * (math.pi / 2)
    angle = torch.where((w - h).abs() <= rounding, folded, angle)
    return torch.cat([boxes[..., :4], angle[..., None]], dim=-1)
