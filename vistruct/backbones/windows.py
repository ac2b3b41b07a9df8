"""A grid of tokens cut into windows, and put together again.

Shapes: B images, L = h * w tokens of a grid, n windows an image, N tokens a window, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_windows(x: Tensor, grid_hw: tuple[int, int], window: int) -> tuple[Tensor, Tensor | None]:
    """Cut into windows of `window` x `window` tokens; those at the right and bottom are filled up with zeros.

    Args:
        x: float[B, L, D], row by row.
        grid_hw: L = h * w.
        window: tokens; along a side that is shorter than this the window is as long as the side.

    Returns:
        float[B * n, N, D], and bool[B * n, N], false at the filling; None where nothing had to be filled.
    """
    (h, w), (window_h, window_w) = grid_hw, _sides(grid_hw, window)
    more_h, more_w = -h % window_h, -w % window_w
    grid = F.pad(x.unflatten(1, grid_hw), (0, 0, 0, more_w, 0, more_h))
    cut = _cut(grid, window_h, window_w)
    if not (more_h or more_w):
        return cut, None
    is_real = torch.zeros(len(x), h + more_h, w + more_w, 1, dtype=torch.bool, device=x.device)
    is_real[:, :h, :w] = True
    return cut, _cut(is_real, window_h, window_w).squeeze(-1)


def from_windows(windows: Tensor, grid_hw: tuple[int, int], window: int) -> Tensor:
    """The way back: float[B * n, N, D] -> float[B, L, D]; the filling falls away."""
    (h, w), (window_h, window_w) = grid_hw, _sides(grid_hw, window)
    rows, columns = -(-h // window_h), -(-w // window_w)
    grid = windows.view(-1, rows, columns, window_h, window_w, windows.shape[-1]).transpose(2, 3)
    grid = grid.reshape(len(grid), rows * window_h, columns * window_w, windows.shape[-1])  # [B, H, W, D]
    return grid[:, :h, :w].flatten(1, 2)


def _sides(grid_hw: tuple[int, int], window: int) -> tuple[int, int]:
    return min(window, grid_hw[0]), min(window, grid_hw[1])


def _cut(grid: Tensor, window_h: int, window_w: int) -> Tensor:
    b, h, w, d = grid.shape
    parts = grid.view(b, h // window_h, window_h, w // window_w, window_w, d).transpose(2, 3)
    return parts.reshape(-1, window_h * window_w, d)
