"""Intersection over union of oriented boxes, exact to about 1e-9 also where polygons coincide.

Source: the divergence theorem. The area of a region is half the integral of (position . outward normal) along its
boundary, and the boundary of the part two convex polygons share consists of the edges of each inside the other.
Clipping a straight edge to a convex polygon needs no sorting of points and no branch, so all pairs go at once.
Differs: a plain clip counts an edge that both polygons share twice or not at all. Here edges of A are clipped to B
grown by a hair and edges of B to A shrunk by the same hair, so that a shared edge counts once.

All in float64, in coordinates about one box of the pair, and only for pairs whose axis-aligned hulls overlap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vistruct.ops.hulls import overlapping_hulls
from vistruct.ops.oriented import cxcywha_to_xyxy
from vistruct.ops.quad_iou import quad_iou

__all__ = ["oriented_iou", "oriented_iou_aligned", "quad_iou"]

CHUNK = 32_768  # pairs at a time: what they need stays in the cache, and memory is bounded
HAIR = 1e-10  # by how much a box is grown, of half the thinner side of the pair
PARALLEL = 1e-18  # a sine or cosine below this is rounding: the lines are parallel


def oriented_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` with every box of `b`.

    Differentiable wherever the IoU is. Without gradients the memory is that of the result and about 50 bytes for each
    pair whose hulls overlap; with them, what autograd keeps of each such pair is about 1.1 KiB.

    Args:
        a: float[N, 5], cxcywha, pixels and radians; need not be le90.
        b: float[M, 5], likewise.

    Returns:
        float[N, M] in [0, 1], in the dtype of the boxes; 0 where a box has no area or is not finite.

    Raises:
        ValueError: not [N, 5] and [M, 5].
    """
    _check(a, b, (5,))
    a64, b64 = a.double(), b.double()
    rows, columns = overlapping_hulls(box_hulls(a64), box_hulls(b64))
    iou = pair_iou(box_table(a64), box_table(b64), rows, columns)
    dtype = _dtype(a, b)
    return torch.zeros(len(a), len(b), dtype=dtype, device=a.device).index_put_((rows, columns), iou.to(dtype))


def oriented_iou_aligned(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` with the box of `b` in the same row.

    Args:
        a: float[N, 5], cxcywha, pixels and radians.
        b: float[N, 5], likewise.

    Returns:
        float[N] in [0, 1], in the dtype of the boxes; 0 where a box has no area, NaN where one has a NaN (so that a
        loss made of it does not hide it).

    Raises:
        ValueError: not [N, 5] both.
    """
    _check(a, b, (5,))
    if len(a) != len(b):
        raise ValueError(f"{len(a)} boxes beside {len(b)}: aligned IoU needs as many")
    return _box_iou(box_table(a.double()), box_table(b.double())).to(_dtype(a, b))


def pair_iou(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """float64[P]: IoU of box `rows[i]` of table `a` with box `columns[i]` of table `b`, in chunks."""
    parts = [
        _box_iou(_columns(a, row), _columns(b, column))
        for row, column in zip(rows.split(CHUNK), columns.split(CHUNK), strict=True)
    ]
    return torch.cat(parts) if parts else a.new_zeros(0)


# --- inside


def _check(a: Tensor, b: Tensor, shape: tuple[int, ...]) -> None:
    for boxes in (a, b):
        if boxes.shape[1:] != shape or boxes.dim() != 1 + len(shape):
            raise ValueError(f"expected [N, {', '.join(map(str, shape))}], got {list(boxes.shape)}")


def _dtype(a: Tensor, b: Tensor) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def box_hulls(boxes: Tensor) -> Tensor:
    """float64[N, 4]; NaN, which overlaps nothing, where a box has no area or is not finite."""
    is_real = boxes.isfinite().all(dim=1) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    return torch.where(is_real[:, None], cxcywha_to_xyxy(boxes), torch.nan)


def box_table(boxes: Tensor) -> Tensor:
    """float64[9, N], each row contiguous: as taken apart in `_box_iou`."""
    cx, cy, w, h, angle = boxes.unbind(1)
    rounding = 1e-14 * (w + h) + 1e-15 * (cx.abs() + cy.abs())  # px; what float64 may be off by, several times over
    return torch.stack([cx, cy, w / 2, h / 2, angle, angle.cos(), angle.sin(), torch.minimum(w, h) / 2, rounding])


def _columns(table: Tensor, numbers: Tensor) -> Tensor:
    """float64[9, P]: `table[:, numbers]`, three times as fast."""
    return table.gather(1, numbers.expand(len(table), -1))


def _box_iou(a: Tensor, b: Tensor) -> Tensor:
    """float64[P] of tables float64[9, P]. A's axes are called u and n, B's e and m; the origin is B's centre."""
    ax, ay, u, n, a_angle, _, _, a_thin, a_rounding = a.unbind(0)
    bx, by, e, m, b_angle, b_cos, b_sin, b_thin, b_rounding = b.unbind(0)
    thin = torch.minimum(a_thin, b_thin)
    hair = (HAIR * thin + a_rounding + b_rounding).detach()

    # A's angle in B's frame, brought into [0, pi/2] by half turns and by a mirror, which change no area.
    angle = a_angle - b_angle  # before its sine is taken: that of a tiny angle has to be right in itself
    cos, sin = angle.cos(), angle.sin()
    cos_sign, sin_sign = _sign(cos), _sign(sin)
    cos, sin = cos * cos_sign, sin * sin_sign
    per_cos, per_sin = 1 / cos.clamp(min=PARALLEL), 1 / sin.clamp(min=PARALLEL)
    dx, dy = ax - bx, ay - by
    pe, pm = dx * b_cos + dy * b_sin, (dy * b_cos - dx * b_sin) * (cos_sign * sin_sign)  # A's centre
    pu, pn = pe * cos + pm * sin, pm * cos - pe * sin

    turn = cos, sin, per_cos, per_sin
    far_n, near_n, far_u, near_u = _edges_inside((u, n), (e, m), (pe, pm), hair, turn)
    area = far_n * (n + pn) + near_n * (n - pn) + far_u * (u + pu) + near_u * (u - pu)
    far_m, near_m, far_e, near_e = _edges_inside((e, m), (u, n), (-pu, pn), -hair, turn)
    area = area + (far_m + near_m) * m + (far_e + near_e) * e
    return _over_union(area / 2, 4 * u * n, 4 * e * m, ~(thin <= 0))


def _sign(value: Tensor) -> Tensor:
    """1 or -1; of 0 it is 1, so that gradients go through there too."""
    return 1 - 2 * (value < 0).to(value.dtype)


def _edges_inside(
    half: tuple[Tensor, Tensor],
    window: tuple[Tensor, Tensor],
    centre: tuple[Tensor, Tensor],
    hair: Tensor,
    turn: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """How much of each edge of a box lies inside a window about the origin that is grown by a hair.

    An edge is offset + t * direction with t in [-limit, limit], and each side of the window bounds t on one side.
    Terms that nearly cancel where edges nearly coincide are subtracted before anything is added to them.

    Args:
        half: float64[P] half width and height of the box, whose angle in the window's frame is in [0, pi/2].
        window: float64[P] half width and height of the window.
        centre: float64[P] x and y of the box in the window's frame.
        hair: float64[P], px; negative to shrink the window.
        turn: float64[P] cosine and sine of the angle, and one over them.

    Returns:
        float64[P] lengths: the edges along the width on the far and near side of the centre, those along the height.
    """
    (u, n), (e, m), (x, y), (cos, sin, per_cos, per_sin) = half, window, centre, turn
    u_cos, u_sin, n_cos, n_sin = u * cos, u * sin, n * cos, n * sin
    right, left, top, bottom = hair - x, hair + x, hair - y, hair + y
    less, more = e - n_sin, e + n_sin
    y_less, y_more = m - n_cos, m + n_cos
    far_width = _length(
        (more + right) * per_cos, (y_less + top) * per_sin, (less + left) * per_cos, (y_more + bottom) * per_sin, u
    )
    near_width = _length(
        (less + right) * per_cos, (y_more + top) * per_sin, (more + left) * per_cos, (y_less + bottom) * per_sin, u
    )
    less, more = e - u_cos, e + u_cos
    y_less, y_more = m - u_sin, m + u_sin
    far_height = _length(
        (more + left) * per_sin, (y_less + top) * per_cos, (less + right) * per_sin, (y_more + bottom) * per_cos, n
    )
    near_height = _length(
        (less + left) * per_sin, (y_more + top) * per_cos, (more + right) * per_sin, (y_less + bottom) * per_cos, n
    )
    return far_width, near_width, far_height, near_height


def _length(ahead_1: Tensor, ahead_2: Tensor, behind_1: Tensor, behind_2: Tensor, limit: Tensor) -> Tensor:
    """From the least of what is left ahead to the least of what is left behind; 0 where nothing is."""
    ahead = torch.minimum(torch.minimum(ahead_1, ahead_2), limit)
    behind = torch.minimum(torch.minimum(behind_1, behind_2), limit)
    return (ahead + behind).clamp(min=0)


def _over_union(shared: Tensor, area_a: Tensor, area_b: Tensor, is_real: Tensor) -> Tensor:
    shared = torch.where(is_real, shared, 0.0)
    union = torch.where(is_real, area_a + area_b - shared, 1.0)
    return (shared / union).clamp(0, 1)
