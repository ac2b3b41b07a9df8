"""Rotated varied-size window attention (RVSA): each head of each window looks where it chose to, turned, scaled, moved.

Source: Wang et al., "Advancing Plain Vision Transformer Toward Remote Sensing Foundation Model", arXiv:2208.03987; the
    numbers are those of MTP's weights (Wang et al., arXiv:2403.13430), from which two habits come that no formula asks
    for: queries are not scaled in the terms of relative positions here (in full attention they are), and what a window
    moves across is divided by the *rows* of windows, what it moves down by the columns. Both are constants, because the
    weights learned with them.
Differs: a grid smaller than a window counts as one window where published code divides by zero; keys and values are
    read from the grid itself, for beyond it there is nothing but zeros either way; places are computed in float32 at
    least, because bfloat16 cannot tell neighbouring patches of a large grid apart.
Shapes: B images, h x w patches, L = h * w, n windows an image, N = window * window places, H heads of d numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.backbones.windows import from_windows, to_windows
from vistruct.ops.precision import at_least_float32


class RotatedWindowAttention(nn.Module):
    """float[B, L, D] -> float[B, L, D]; a grid of no whole number of windows is filled up with zeros at both ends.

    What fills up is seen as zeros and hidden from nobody. The layers that choose the places keep torch's own first
    weights, as published: with zeros every place would begin exactly on a patch, where its gradient knows one
    neighbour only.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        sides = 2 * window - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(sides, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(sides, width // heads))
        self.relative_position_bias_table = nn.Parameter(torch.empty(sides**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
        index = (y[:, None] - y + window - 1) * sides + (x[:, None] - x + window - 1)  # [N, N], query and key
        self.register_buffer("relative_position_index", index)
        self.sampling_offsets, self.sampling_scales, self.sampling_angles = (
            nn.Sequential(nn.AvgPool2d(window), nn.LeakyReLU(), nn.Conv2d(width, k * heads, 1)) for k in (2, 2, 1)
        )

    def forward(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        b, d, (h, w) = len(x), x.shape[2] // self.heads, grid_hw
        left, right, top, bottom = filling = self.filling(grid_hw)
        filled_hw = (h + top + bottom, w + left + right)
        q, kv = self.qkv(x).split([x.shape[2], 2 * x.shape[2]], dim=-1)
        q = F.pad(q.unflatten(1, grid_hw), (0, 0, *filling)).flatten(1, 2)
        q = to_windows(q, filled_hw, self.window)[0].unflatten(2, (self.heads, d)).transpose(1, 2)  # [B * n, H, N, d]
        places = self.places(x, grid_hw).flatten(0, 1)  # [B * H, n, N, 2]
        maps = kv.view(b, h, w, 2, self.heads, d).permute(0, 4, 3, 5, 1, 2).reshape(b * self.heads, 2 * d, h, w)
        read = F.grid_sample(maps.to(places.dtype), places, align_corners=False).to(kv.dtype)  # [B * H, 2 * d, n, N]
        read = read.unflatten(1, (2, d)).unflatten(0, (b, self.heads)).permute(2, 0, 4, 1, 5, 3).flatten(1, 2)
        k, v = read.unbind()  # each [B * n, H, N, d]
        out = F.scaled_dot_product_attention(q, k, v, self.bias(q))
        out = from_windows(out.transpose(1, 2).flatten(2), filled_hw, self.window).unflatten(1, filled_hw)
        return self.proj(out[:, top : top + h, left : left + w].flatten(1, 2))

    def filling(self, grid_hw: tuple[int, int]) -> tuple[int, int, int, int]:
        """Patches of zeros at the left, right, top and bottom; an odd one is at the right and bottom."""
        h, w = grid_hw
        more_h, more_w = -h % self.window, -w % self.window
        return more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2

    def places(self, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """float[B, H, n, N, 2], x and y where the heads read: -1 and 1 are the outer edges, as in `grid_sample`."""
        (h, w), (left, right, top, bottom) = grid_hw, self.filling(grid_hw)
        filled_h, filled_w = h + top + bottom, w + left + right
        map_ = F.pad(x.transpose(1, 2).unflatten(2, grid_hw), (left, right, top, bottom))
        layers = (self.sampling_offsets, self.sampling_scales, self.sampling_angles)
        pooled = F.leaky_relu(F.avg_pool2d(at_least_float32(map_), self.window))  # [B, D, rows, columns]
        with torch.autocast(x.device.type, enabled=False):
            moves, scales, angles = (
                at_least_float32(one[2](pooled.to(self.rel_pos_h.dtype))).unflatten(1, (self.heads, -1)).flatten(3)
                for one in layers
            )  # [B, H, 2 or 1, n]
        # Half the width and height of the filled grid between the centres of its outer patches: a move's unit.
        unit = moves.new_tensor([filled_w - 1, filled_h - 1]) / 2
        inside = torch.arange(self.window, device=x.device, dtype=moves.dtype) - (self.window - 1) / 2
        across, down = inside.repeat(self.window), inside.repeat_interleave(self.window)  # [N], row by row
        turn = angles.transpose(2, 3)  # [B, H, n, 1]
        across = across / unit[0] * (1 + scales[:, :, 0, :, None])  # [B, H, n, N]
        down = down / unit[1] * (1 + scales[:, :, 1, :, None])
        turned = torch.stack(
            [across * turn.cos() - down * turn.sin(), across * turn.sin() + down * turn.cos()], dim=-1
        )  # in units that differ where the grid is not square, as published
        window_y, window_x = torch.meshgrid(
            torch.arange(filled_h // self.window, device=x.device),
            torch.arange(filled_w // self.window, device=x.device),
            indexing="ij",
        )
        centre = torch.stack([window_x.flatten(), window_y.flatten()], dim=-1) * self.window + (self.window - 1) / 2
        swapped = moves.new_tensor([max(h // self.window, 1), max(w // self.window, 1)])  # rows for x, columns for y
        moved = (moves.transpose(2, 3) / swapped)[:, :, :, None]  # [B, H, n, 1, 2]
        patch = centre[:, None] + (turned + moved) * unit - moves.new_tensor([left, top])  # 0: centre of the first
        return (2 * patch + 1) / moves.new_tensor([w, h]) - 1

    def bias(self, q: Tensor) -> Tensor:
        """float[B * n, H, N, d] -> float[B * n, H, N, N], what relative positions add to each pair."""
        side = self.window
        apart = torch.arange(side, device=q.device)
        apart = apart[:, None] - apart + side - 1  # [query, key]
        across = q.unflatten(2, (side, side))  # [..., row, column, d]
        by_row = torch.einsum("bhyxd,ykd->bhyxk", across, self.rel_pos_h[apart].to(q.dtype))
        by_column = torch.einsum("bhyxd,xkd->bhyxk", across, self.rel_pos_w[apart].to(q.dtype))
        table = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # [H, N, N]
        pairs = by_row[..., :, None] + by_column[..., None, :]  # [..., row, column, row, column]
        return pairs.flatten(4).flatten(2, 3) + table.to(q.dtype)
