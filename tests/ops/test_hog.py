"""Oriented gradients beside a slow count, pixel by pixel, in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch

from vistruct.ops.hog import oriented_gradients


def counted(image: np.ndarray, cell: int, bins: int) -> np.ndarray:
    """[H, W] -> [H / cell, W / cell, bins]."""
    wide = np.pad(image.astype(np.float64), 1, mode="reflect")
    kernel = np.outer([1, 2, 1], [1, 0, -1])
    found = np.zeros((image.shape[0] // cell, image.shape[1] // cell, bins))
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            part = wide[y : y + 3, x : x + 3]
            gx, gy = float((part * kernel).sum()), float((part * kernel.T).sum())
            at = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
            found[y // cell, x // cell, at] += math.hypot(gx, gy)
    length = np.linalg.norm(found, axis=2, keepdims=True)
    return np.divide(found, length, out=np.zeros_like(found), where=length > 0)


def test_it_is_the_count_of_every_pixel() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[0, 1, :8, :8] = 7  # of one value, so that a cell has no gradient but at its border
    images[1, 2] = torch.arange(24, dtype=torch.uint8)  # a slope without any down
    found = oriented_gradients(images, 8, 9)
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(found[b, c], counted(images[b, c].numpy(), 8, 9), atol=1e-5)
    assert oriented_gradients(torch.full((1, 1, 8, 8), 3.0), 8).abs().sum() == 0


def test_light_and_contrast_change_nothing_and_half_a_turn_moves_cells_alone() -> None:
    image = torch.randint(0, 256, (1, 1, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    found = oriented_gradients(image, 4)
    torch.testing.assert_close(oriented_gradients(2 * image + 10, 4), found)
    torch.testing.assert_close(oriented_gradients(image.flip(2, 3), 4), found.flip(2, 3))
