"""How much of a polygon lies in a window, or of a box in regions, in closed form: no clipping, any number at once."""

from __future__ import annotations

import torch
from torch import Tensor


def polygon_area(polygons: Tensor) -> Tensor:
    """Area of polygons of any winding; what a self-crossing one encloses twice over, or backwards, cancels.

    Args:
        polygons: float[..., K, 2], corners (x, y) one after the other, pixels.

    Returns:
        float64[...], pixels squared.
    """
    points = polygons.double()
    points = points - points[..., :1, :]  # near the origin, so that far away corners keep their digits
    following = points.roll(-1, dims=-2)
    cross = points[..., 0] * following[..., 1] - points[..., 1] * following[..., 0]
    return cross.sum(dim=-1).abs() / 2


def area_in_window(polygons: Tensor, windows_xyxy: Tensor) -> Tensor:
    """Area of the part of each polygon that lies in a window.

    A polygon is the sum of the signed strips between its edges and a level line, and cutting commutes with that
    sum: each edge adds the integral of its height above the window's bottom edge, held between 0 and the window's
    height, over the part of it between the window's left and right. That is exact for every simple polygon,
    convex or not.

    Args:
        polygons: float[..., K, 2], corners (x, y) one after the other, pixels.
        windows_xyxy: [..., 4], pixels; broadcast against the polygons.

    Returns:
        float64[...], pixels squared; 0 where the polygon has no area or lies outside.
    """
    windows = windows_xyxy.double()
    left, top, right, bottom = (windows[..., None, i] for i in range(4))  # [..., 1]
    start = polygons.double()
    end = start.roll(-1, dims=-2)
    (x0, y0), (x1, y1) = start.unbind(-1), end.unbind(-1)  # [..., K]
    from_x, to_x = (torch.minimum(torch.maximum(x, left), right) for x in (x0, x1))
    run = torch.where(x1 == x0, 1.0, x1 - x0)
    slope = (y1 - y0) / run
    from_y, to_y = y0 + slope * (from_x - x0), y0 + slope * (to_x - x0)
    above_top = _mean_positive(from_y - top, to_y - top)
    above_bottom = _mean_positive(from_y - bottom, to_y - bottom)
    return ((to_x - from_x) * (above_top - above_bottom)).sum(dim=-1).abs()


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """The largest part of each box's area that lies in one of the regions.

    Args:
        boxes: float[N, 4], xyxy.
        regions: float[K, 4], xyxy.

    Returns:
        float[N] in [0, 1]; 0 where there is no region or the box has no area.
    """
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])  # [N, K, 2]
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)  # [N, K], px^2
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)  # [N], px^2
    return (shared / area.clamp(min=1e-9)[:, None]).amax(dim=1)


def _mean_positive(a: Tensor, b: Tensor) -> Tensor:
    """Mean of max(0, f) where f goes straight from `a` to `b`."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    crossing = high.square() / (2 * torch.where(high > low, high - low, 1.0))
    return torch.where(low >= 0, (high + low) / 2, torch.where(high <= 0, 0.0, crossing))
