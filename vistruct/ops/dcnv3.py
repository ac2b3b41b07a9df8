"""Deformable convolution v3: every place reads a few places around it, each shifted and weighed by what lies there.

Source: Wang et al., InternImage, arXiv:2211.05778, equation 2 (without the projections around it); conventions of the
    published code, which its weights want: x is the outer loop over the points, offsets are pairs (x, y), and the
    offset scale stretches the kernel's own grid too.
Differs: no compiled operator. A read is a bag of rows: 4 cells of each of P points of a padded map, weighed and summed
    by `embedding_bag`, which keeps none of them. The backward pass finds places and weights again, and sums gradients
    of the map as bags too, sorted by cell: no atomic additions, so that the same step gives the same bits.
Shapes: B images, H x W cells in, h x w places out, G groups of D channels, P = kernel * kernel points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_ON_CPU = 1 << 14, 1 << 9  # places of a group in a part, and in a piece of it: a piece's cells stay in the cache
_ELSEWHERE = 1 << 18, 1 << 16


def dcnv3(
    value: Tensor,
    offset: Tensor,
    weights: Tensor,
    *,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    pad: int = 1,
    offset_scale: float = 1.0,
) -> Tensor:
    """Weighted sums of bilinear samples; what lies outside of the map is 0.

    Args:
        value: float[B, H, W, G * D].
        offset: float[B, h, w, G * P * 2], x and y of every point in cells, before the scale. Computed in float32 at
            least.
        weights: float[B, h, w, G * P]; usually a softmax over P.
        kernel: points along a side.
        pad: cells, on every side; it only says where the first place lies.

    Returns:
        float[B, h, w, G * D] in the value's dtype; differentiable (once) in value, offset and weights.

    Raises:
        ValueError: shapes that do not belong together.
    """
    (batch, height, width, channels), points = value.shape, kernel * kernel
    reach = dilation * (kernel - 1)
    out_hw = tuple((side + 2 * pad - reach - 1) // stride + 1 for side in (height, width))
    groups = weights.shape[-1] // points
    if (
        weights.shape != (batch, *out_hw, groups * points)
        or offset.shape != (batch, *out_hw, groups * points * 2)
        or channels % max(groups, 1)
    ):
        raise ValueError(
            f"values {[*value.shape]}, offsets {[*offset.shape]}, weights {[*weights.shape]} do not belong together; "
            f"kernel={kernel} reads {points} points a group at {out_hw[0]} x {out_hw[1]} places"
        )
    dtype = torch.promote_types(value.dtype, torch.float32)
    tap = offset_scale * (torch.arange(kernel, device=value.device, dtype=dtype) * dilation - reach // 2)
    y, x = (torch.arange(side, device=value.device, dtype=dtype) * stride + (reach // 2 - pad) for side in out_hw)
    return _Read.apply(
        value.unflatten(3, (groups, -1)),
        offset.unflatten(3, (groups, points, 2)),
        weights.unflatten(3, (groups, points)),
        _Geometry(
            middles=(x[:, None, None], y[:, None, None, None]),
            taps=(tap.repeat_interleave(kernel), tap.repeat(kernel)),
            scale=offset_scale,
        ),
    ).flatten(3)


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    """Where points lie that nothing shifts, in cells; each a pair for x and y."""

    middles: tuple[Tensor, Tensor]  # float[w, 1, 1] and float[h, 1, 1, 1], of the places: whole numbers
    taps: tuple[Tensor, Tensor]  # float[P], from there to the points
    scale: float  # of offsets; it is in `taps` already


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where a part reads: each point between four cells of a map with a border of zeros, its rows end to end."""

    first: Tensor  # int32[b, h, w, g, P], row of the upper left cell
    right: Tensor  # float[b, h, w, g, P] in [0, 1), how far on to the next column
    down: Tensor  # likewise, to the next row
    is_held_x: Tensor  # bool[b, h, w, g, P], outside of the map and put at its border
    is_held_y: Tensor
    steps: tuple[int, int, int, int]  # rows from the first cell to the four

    @classmethod
    def of(cls, offset: Tensor, geometry: _Geometry, size_hw: tuple[int, int]) -> _Places:
        """
        Args:
            offset: float[b, h, w, g, P, 2].
        """
        (height, width), (batch, _, _, groups, _, _) = size_hw, offset.shape
        x, y = geometry.middles  # added to whole cells only: what is behind the point keeps all of its digits
        to_x, to_y = (torch.add(t, offset[..., i], alpha=geometry.scale) for i, t in enumerate(geometry.taps))
        held_x, held_y = to_x.clamp(-1 - x, width - x), to_y.clamp(-1 - y, height - y)
        left, top = held_x.floor(), held_y.floor()
        across = width + 3  # one cell of zeros before the map, two behind
        cell = ((top + (y + 1)) * across + (left + (x + 1))).nan_to_num_(0)  # NaN spoils the sum and names no cell
        image = torch.arange(batch, device=x.device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * ((height + 3) * across)
        group = torch.arange(groups, device=x.device, dtype=torch.int32).view(-1, 1)
        return cls(
            first=(cell.int() + image) * groups + group,
            right=held_x - left,
            down=held_y - top,
            is_held_x=to_x != held_x,
            is_held_y=to_y != held_y,
            steps=(0, groups, across * groups, (across + 1) * groups),
        )

    @property
    def rows(self) -> Tensor:
        """int32[n, P * 4], of all four cells of every point; n = b * h * w * g."""
        four = torch.stack([self.first + step for step in self.steps], dim=-1)
        return four.view(-1, 4 * self.first.shape[-1])

    def shares(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of the points -> of their four cells, in the order of `steps`; each float[b, h, w, g, P]."""
        low = weights * self.down
        high = weights - low
        high_right, low_right = high * self.right, low * self.right
        return high - high_right, high_right, low - low_right, low_right


def _bordered(value: Tensor) -> Tensor:
    """float[b, H, W, g, D] -> float[b * (H + 3) * (W + 3) * g, D]."""
    return F.pad(value, (0, 0, 0, 0, 1, 2, 1, 2)).flatten(0, 3)


def _parts(weights: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and groups that are worked on at once, so that what is needed on the way stays small."""
    batch, height, width, groups, _ = weights.shape
    room = (_ON_CPU if weights.device.type == "cpu" else _ELSEWHERE)[0] // max(height * width, 1)
    some_groups = max(min(room, groups), 1)
    some_images = max(room // groups, 1)
    for image in range(0, batch, some_images):
        for group in range(0, groups, some_groups):
            yield slice(image, image + some_images), slice(group, group + some_groups)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, offset: Tensor, weights: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(value, offset, weights)
        ctx.geometry = geometry
        out = value.new_empty(*weights.shape[:4], value.shape[-1])
        for images, groups in _parts(weights):
            part, shift, share = (t[images, :, :, groups].to(geometry.taps[0].dtype) for t in (value, offset, weights))
            places = _Places.of(shift, geometry, (value.shape[1], value.shape[2]))
            shares = torch.stack(places.shares(share), dim=-1).view(-1, 4 * share.shape[-1])
            read = F.embedding_bag(places.rows, _bordered(part), mode="sum", per_sample_weights=shares)
            out[images, :, :, groups] = read.view(*share.shape[:4], part.shape[-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (value, offset, weights), geometry = ctx.saved_tensors, ctx.geometry
        to_value, to_offset, to_weights = (torch.empty_like(t) for t in (value, offset, weights))
        for images, groups in _parts(weights):
            at = images, slice(None), slice(None), groups
            part, shift, share, arrived = (t[at].to(geometry.taps[0].dtype) for t in (value, offset, weights, grad))
            places = _Places.of(shift, geometry, (value.shape[1], value.shape[2]))
            arrived = arrived.flatten(0, 3)  # [n, D]
            to_offset[at], to_weights[at] = _to_places(places, share, _bordered(part), arrived, geometry.scale)
            to_value[at] = _to_map(places, share, arrived, part.shape)
        return to_value, to_offset, to_weights, None


def _to_places(places: _Places, weights: Tensor, cells: Tensor, arrived: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of offsets float[b, h, w, g, P, 2] and of weights float[b, h, w, g, P]."""
    rows = places.rows
    seen = torch.empty(rows.shape, dtype=cells.dtype, device=cells.device)  # of each cell, along the gradient
    size = (_ON_CPU if cells.device.type == "cpu" else _ELSEWHERE)[1]
    for some, along, out in zip(rows.split(size), arrived.split(size), seen.split(size), strict=True):
        read = cells.index_select(0, some.flatten()).view(*some.shape, -1)
        torch.bmm(along[:, None], read.mT, out=out[:, None])
    a, b, c, d = seen.view(*weights.shape, 4).unbind(-1)
    high, low = a.lerp(b, places.right), c.lerp(d, places.right)
    to_x = (b - a).lerp(d - c, places.down).mul_(weights).masked_fill_(places.is_held_x, 0)
    to_y = (low - high).mul_(weights).masked_fill_(places.is_held_y, 0)
    return torch.stack([to_x, to_y], dim=-1).mul_(scale), high.lerp(low, places.down)


def _to_map(places: _Places, weights: Tensor, arrived: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of the map, float[b, H, W, g, D]: of each cell, the sum over all places that have read it."""
    batch, height, width, groups, _ = shape
    first, order = places.first.flatten().sort()
    num_rows = batch * (height + 3) * (width + 3) * groups
    ends = torch.searchsorted(first, torch.arange(num_rows + 1, dtype=first.dtype, device=first.device))
    place = order // weights.shape[-1]
    total = arrived.new_zeros(num_rows, arrived.shape[-1])
    for step, share in zip(places.steps, places.shares(weights), strict=True):
        sums = F.embedding_bag(
            place,
            arrived,
            ends,
            mode="sum",
            per_sample_weights=share.flatten().index_select(0, order),
            include_last_offset=True,
        )  # of the upper left cells; the others lie a step further on
        total[step:] += sums[: num_rows - step]
    return total.view(batch, height + 3, width + 3, groups, -1)[:, 1 : height + 1, 1 : width + 1]
