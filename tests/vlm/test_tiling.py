"""Tiles of the public preprocessing: counts worked out there for its default policy, pixels against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.vlm.tiling import Tiling, choose_grid, tile


@pytest.mark.parametrize(
    ("size_wh", "max_tiles", "grid"),
    [
        ((600, 600), 12, (1, 1)), ((800, 800), 12, (2, 2)), ((1024, 1024), 6, (2, 2)), ((1024, 1024), 12, (3, 3)),
        ((1024, 768), 12, (4, 3)), ((448, 448), 12, (1, 1)), ((1000, 100), 12, (10, 1)), ((1, 1), 12, (1, 1)),
        ((1, 5000), 12, (1, 12)), ((5000, 5000), 1, (1, 1)),
    ],
)  # fmt: skip
def test_grid_is_that_of_the_public_preprocessing(size_wh, max_tiles, grid):
    width, height = size_wh
    assert choose_grid((height, width), Tiling(), max_tiles) == grid


def test_tiles_are_the_resized_image_row_by_row_and_the_thumbnail_is_last():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    image = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)
    tiles = tile(image, Tiling(size=32))
    assert tiles.shape == (4 * 3 + 1, 3, 32, 32)

    def by_pillow(width, height):
        return np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC)).astype(int)

    whole = by_pillow(128, 96)
    for index in range(12):
        row, column = divmod(index, 4)
        expected = whole[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        assert np.abs(tiles[index].permute(1, 2, 0).numpy() - expected).max() <= 1
    assert np.abs(tiles[12].permute(1, 2, 0).numpy() - by_pillow(32, 32)).max() <= 1


def test_several_images_share_the_tiles():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    counts = [len(tile(image, Tiling(size=16, max_tiles=8), num_images)) for num_images in (1, 2, 4, 8, 100)]
    assert counts == [5, 5, 1, 1, 1]  # 2 x 2 and a thumbnail of 8 or 4 tiles, else the image alone


def test_one_tile_has_no_thumbnail_and_keeps_its_pixels():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(tile(image, Tiling(size=32))[0], image)
    assert len(tile(torch.zeros(3, 1, 1, dtype=torch.uint8), Tiling(size=32))) == 1
