"""Which axis-aligned hulls overlap: the cheap question asked before any polygon is clipped.

Few are compared all with all. Of many, both sides are sorted from left to right, so that a block of neighbours is
compared only with the stretch of the other side that can reach it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK_CPU, BLOCK_DEVICE = 128, 4096  # rows compared at a time
SORTED = 262_144  # pairs above which sorting pays
COMPARED = 4_194_304  # pairs compared at a time at most, which bounds the memory


def overlapping_hulls(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the pairs whose axis-aligned hulls share an area, and of some that only touch, to float32.

    Args:
        a: float[N, 4], xyxy; one with a NaN overlaps nothing.
        b: float[M, 4], likewise.

    Returns:
        int64[P] into `a`, int64[P] into `b`: every pair once, in a fixed order that means nothing.
    """
    if not len(a) or not len(b):
        none = torch.zeros(0, dtype=torch.int64, device=a.device)
        return none, none
    a, b = _outwards(a), _outwards(b)
    if len(a) * len(b) <= SORTED:
        return _overlapping(a.T, b.T)
    order_a, order_b = a[:, 0].argsort(stable=True), b[:, 0].argsort(stable=True)
    a, b = a[order_a].T.contiguous(), b[order_b].T.contiguous()  # float32[4, N]: x1, y1, x2, y2
    block = max(1, min(BLOCK_CPU if a.device.type == "cpu" else BLOCK_DEVICE, COMPARED // len(order_b)))
    rightmost = torch.stack([part.amax() for part in a[2].split(block)])
    firsts = torch.searchsorted(b[2].cummax(0).values, a[0, ::block].contiguous(), right=True).tolist()
    lasts = torch.searchsorted(b[0], rightmost).tolist()

    rows, columns = [], []
    for i, (first, last) in enumerate(zip(firsts, lasts, strict=True)):  # others of `b` end before or begin after it
        if first < last:
            start = i * block
            row, column = _overlapping(a[:, start : start + block], b[:, first:last])
            rows.append(row + start)
            columns.append(column + first)
    if not rows:
        return order_a[:0], order_b[:0]
    return order_a[torch.cat(rows)], order_b[torch.cat(columns)]


def _outwards(hulls: Tensor) -> Tensor:
    """float32[N, 4], rounded outwards; those with a NaN are empty."""
    hulls = hulls.detach()
    low, high = hulls[:, :2].float(), hulls[:, 2:].float()
    endless = torch.full_like(low, torch.inf)
    is_nan = hulls.isnan().any(dim=1, keepdim=True)
    low = torch.where(is_nan, endless, low.nextafter(-endless))
    high = torch.where(is_nan, -endless, high.nextafter(endless))
    return torch.cat([low, high], dim=1)


def _overlapping(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """As above, of float32[4, N] and float32[4, M], all with all."""
    ax1, ay1, ax2, ay2 = a[:, :, None]
    bx1, by1, bx2, by2 = b
    # The least of four differences is positive where both ranges overlap; cheaper than four comparisons.
    gap = torch.minimum(bx2 - ax1, ax2 - bx1)  # [N, M]
    gap = torch.minimum(gap, torch.minimum(by2 - ay1, ay2 - by1))
    found = gap > 0
    if found.device.type != "cpu":
        row, column = found.nonzero(as_tuple=True)
        return row, column
    # NumPy's is several times as fast as torch's on a processor, and so is a division of 32 bits.
    flat, width = np.flatnonzero(found.numpy()).astype(np.uint32), np.uint32(found.shape[1])
    row = flat // width
    return torch.from_numpy(row.astype(np.int64)), torch.from_numpy((flat - row * width).astype(np.int64))
