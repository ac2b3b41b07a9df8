"""Intersection over union of quads that need not be rectangles: annotations as they were drawn.

Convex quads are clipped to each other as boxes are in `vistruct.ops.oriented_iou`, by the integral along the edges.
A quad that is not convex is taken apart into two triangles, one of which may count negatively; so its area is that of
its winding number, as in the DOTA devkit, whose IoU this is for every quad, self-crossing ones included.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from vistruct.ops.hulls import overlapping_hulls
from vistruct.ops.oriented import quads_to_xyxy

CHUNK = 8_192  # pairs at a time: what they need stays in the cache, and memory is bounded
HAIR = 3e-9  # by how much a polygon is grown, of the thickness of the thinner one of the pair
PARALLEL = 1e-18  # px; an edge whose ends are this equally far from a line is parallel to it
FLAT = 1e-14  # area beside the square of the extent below which a quad is a line

Corners = list[tuple[Tensor, Tensor]]  # x and y of each corner, float64[P] each


def quad_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every quad of `a` with every quad of `b`.

    Differentiable wherever the IoU is. Corners may run either way round. Of a quad that crosses itself the parts run
    the other way round count negatively.

    Args:
        a: float[N, 4, 2], pixels.
        b: float[M, 4, 2], likewise.

    Returns:
        float[N, M] in [0, 1], in the dtype of the quads; 0 where a quad has no area or is not finite.

    Raises:
        ValueError: not [N, 4, 2] and [M, 4, 2].
    """
    for quads in (a, b):
        if quads.dim() != 3 or quads.shape[1:] != (4, 2):
            raise ValueError(f"expected [N, 4, 2], got {list(quads.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    (a, area_a, hulls_a, convex_a), (b, area_b, hulls_b, convex_b) = _prepared(a.double()), _prepared(b.double())
    rows, columns = overlapping_hulls(hulls_a, hulls_b)
    is_convex = convex_a[rows] & convex_b[columns]
    rows, columns = torch.cat([rows[is_convex], rows[~is_convex]]), torch.cat([columns[is_convex], columns[~is_convex]])
    parts = []
    for shared_area, part in (
        (_shared_convex, slice(0, int(is_convex.sum()))),
        (_shared_any, slice(int(is_convex.sum()), None)),
    ):
        for row, column in zip(rows[part].split(CHUNK), columns[part].split(CHUNK), strict=True):
            parts.append(shared_area(*_about_b(a[row], b[column])))
    shared = torch.cat(parts) if parts else area_a.new_zeros(0)
    shared = torch.minimum(shared.clamp(min=0), torch.minimum(area_a[rows], area_b[columns]))
    iou = shared / (area_a[rows] + area_b[columns] - shared)
    return torch.zeros(len(a), len(b), dtype=dtype, device=a.device).index_put_((rows, columns), iou.to(dtype))


# --- inside


def _prepared(quads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quads with positive area, float64[N] areas, hulls (NaN where there is no area), bool[N] whether convex."""
    local = quads - quads.mean(dim=1, keepdim=True)
    side = local.roll(-1, dims=1) - local  # [N, 4, 2]
    area = _cross(local, local.roll(-1, dims=1)).sum(dim=1) / 2
    turns = _cross(side, side.roll(-1, dims=1)) * area.sign()[:, None]  # [N, 4]
    hulls = quads_to_xyxy(quads)
    extent = (hulls[:, 2:] - hulls[:, :2]).amax(dim=1)
    is_real = quads.isfinite().all(dim=(1, 2)) & (area.abs() > FLAT * extent**2)
    quads = torch.where((area < 0)[:, None, None], quads.flip(1), quads)
    return quads, area.abs(), torch.where(is_real[:, None], hulls, torch.nan), (turns >= 0).all(dim=1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _about_b(a: Tensor, b: Tensor) -> tuple[Corners, Corners]:
    """float64[P, 4, 2] each, apart and about the centre of `b`, so that far away is as good as near."""
    origin = b.detach().mean(dim=1, keepdim=True)
    a, b = (a - origin).permute(1, 2, 0).contiguous(), (b - origin).permute(1, 2, 0).contiguous()  # [4, 2, P]
    return [(x, y) for x, y in a], [(x, y) for x, y in b]


def _shared_convex(a: Corners, b: Corners) -> Tensor:
    """float64[P]: area that convex polygons share; both run so that their area is positive."""
    hair = HAIR * torch.minimum(_thickness(a), _thickness(b)) + 1e-14 * torch.maximum(_extent(a), _extent(b))
    return (_integral(a, b, hair) + _integral(b, a, -hair)) / 2


def _shared_any(a: Corners, b: Corners) -> Tensor:
    """float64[P]: the integral of the product of the winding numbers."""
    shared = torch.zeros_like(a[0][0])
    for part_a, part_b in itertools.product(_triangles(a), _triangles(b)):
        (sign_a, triangle_a), (sign_b, triangle_b) = part_a, part_b
        shared = shared + sign_a * sign_b * _shared_convex(triangle_a, triangle_b)
    return shared


def _triangles(quad: Corners) -> list[tuple[Tensor, Corners]]:
    """Two triangles with positive area, and whether each counts as +1, -1, or 0 where it has none."""
    parts = []
    for first, second, third in ((quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3])):
        sign = _area([first, second, third]).detach().sign()
        swap = sign < 0
        second, third = (
            (torch.where(swap, third[0], second[0]), torch.where(swap, third[1], second[1])),
            (torch.where(swap, second[0], third[0]), torch.where(swap, second[1], third[1])),
        )
        parts.append((sign, [first, second, third]))
    return parts


def _integral(polygon: Corners, window: Corners, hair: Tensor) -> Tensor:
    """Twice the integral along the edges of `polygon` inside `window`, whose lines are moved outwards by `hair`."""
    outside = []  # for each line of the window, how far beyond it each corner of the polygon lies, px
    for (x1, y1), (x2, y2) in _edges(window):
        length = (x2 - x1).square() + (y2 - y1).square()
        scale = torch.where(length > 0, length, 1.0).rsqrt()
        normal_x, normal_y = (y2 - y1) * scale, (x1 - x2) * scale
        outside.append([(x - x1) * normal_x + (y - y1) * normal_y - hair for x, y in polygon])

    total = torch.zeros_like(hair)
    for i, ((x1, y1), (x2, y2)) in enumerate(_edges(polygon)):
        start, end = torch.zeros_like(hair), torch.ones_like(hair)
        for line in outside:
            rise = line[(i + 1) % len(polygon)] - line[i]
            rise = torch.where(rise.abs() < PARALLEL, PARALLEL, rise)
            crossing = -line[i] / rise
            leaves = rise > 0
            end = torch.where(leaves, torch.minimum(end, crossing), end)
            start = torch.where(leaves, start, torch.maximum(start, crossing))
        total = total + (end - start).clamp(min=0) * (x1 * y2 - x2 * y1)
    return total


def _edges(polygon: Corners) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    return list(zip(polygon, polygon[1:] + polygon[:1], strict=True))


def _area(polygon: Corners) -> Tensor:
    total = torch.zeros_like(polygon[0][0])
    for (x1, y1), (x2, y2) in _edges(polygon):
        total = total + (x1 * y2 - x2 * y1)
    return total / 2


def _extent(polygon: Corners) -> Tensor:
    """float64[P]: the longest edge, px; half the diameter at least."""
    lengths = [(x2 - x1).square() + (y2 - y1).square() for (x1, y1), (x2, y2) in _edges(polygon)]
    return torch.stack(lengths).detach().amax(dim=0).sqrt()


def _thickness(polygon: Corners) -> Tensor:
    """float64[P]: about the smallest width, px; 0 of a line."""
    extent = _extent(polygon)
    return torch.where(extent > 0, _area(polygon).detach() / extent.clamp(min=1e-300), 0.0)
