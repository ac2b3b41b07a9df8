"""What two views of an image show both: cells of their maps on one place, and regions.

Source: cells as PixPro pairs them (arXiv:2011.10043), by where they lie; regions drawn in what both crops have, as in
    SCRL (arXiv:2103.06122).
Differs: a cell has one partner, the cell that its centre lies in; objects may take the place of what is drawn.
Shapes: views of S pixels, maps of g * g = L cells, R regions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vistruct.transforms.points import affine, move_points
from vistruct.transforms.views import View

SIDES = (0.2, 0.6)  # least and largest side of a region that is drawn, as part of what both views show
LEAST = 0.5  # part of an object's area that both views must show


def partners(first: View, second: View, grid: int) -> Tensor:
    """int64[L], of each cell of a view the cell of another that its centre lies in; -1: it lies outside."""
    side = second.pixels.shape[-1] / grid
    at = (first.cells_in(second, grid) / side).floor().long().flatten(0, 1)  # [L, 2], column and row
    is_inside = ((at >= 0) & (at < grid)).all(dim=1)
    return torch.where(is_inside, at[:, 1] * grid + at[:, 0], -1)


def drawn_regions(first: View, second: View, number: int, seed: int) -> Tensor:
    """float64[R, 4], xyxy in pixels of the image, within what both views show; none where that is empty."""
    corner, size = _both(first, second)
    if not (size > 0).all():
        return torch.zeros(0, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(2, number, 2, generator=generator, dtype=torch.float64)
    sides = size * (SIDES[0] + (SIDES[1] - SIDES[0]) * draw[0])
    corners = corner + (size - sides) * draw[1]
    return torch.cat([corners, corners + sides], dim=1)


def shown_objects(first: View, second: View, boxes: Tensor) -> Tensor:
    """float64[R, 4], those of boxes float[N, 4] (xyxy, pixels of the image) of which both views show half and more, as
    far as both show them."""
    corner, size = _both(first, second)
    boxes = boxes.double()
    low = torch.maximum(boxes[:, :2], corner)
    high = torch.minimum(boxes[:, 2:], corner + size)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    is_shown = (high > low).all(dim=1) & ((high - low).prod(dim=1) >= LEAST * area)
    return torch.cat([low, high], dim=1)[is_shown]


def in_view(view: View, boxes: Tensor) -> Tensor:
    """float64[R, 4] in pixels of the image -> in pixels of the view: flips and quarter turns leave boxes boxes."""
    inverse = torch.linalg.inv(torch.cat([view.to_image(), affine([[0, 0, 1]])]))[:2]
    ends = move_points(boxes.view(-1, 2, 2), inverse)
    return torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1)


def _both(first: View, second: View) -> tuple[Tensor, Tensor]:
    """float64[2] each, the corner and the size of what both show, in pixels of the image; a size may be negative."""
    a, b = (torch.tensor(view.xyxy, dtype=torch.float64) for view in (first, second))
    corner = torch.maximum(a[:2], b[:2])
    return corner, torch.minimum(a[2:], b[2:]) - corner
