"""Tiles of the public preprocessing: counts worked out there for its default policy, pixels against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from vistruct.vlm.tiling import Tiling, choose_grid, normalise, num_tiles, tile


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


def published_grid(width: int, height: int, most: int, side: int) -> tuple[int, int]:
    """The rule as it is stated: the nearest aspect ratio; of several, the last one whose half the image outgrows."""
    every = [(c, r) for c in range(1, most + 1) for r in range(1, most // c + 1)]
    distance = {(c, r): abs(width / height - c / r) for c, r in every}
    nearest = sorted((g for g in every if distance[g] == min(distance.values())), key=lambda g: g[0] * g[1])
    return [g for g in nearest if g is nearest[0] or width * height > side * side * g[0] * g[1] / 2][-1]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 24), st.integers(1, 5), st.booleans())
@example(448, 448, 12, 1, True)  # half of a larger grid's pixels exactly
@example(896, 448, 12, 1, True)
@example(1024, 1024, 12, 1, True)
def test_grids_and_counts_are_those_of_the_published_rule(width, height, most, num_images, thumbnail):
    tiling = Tiling(max_tiles=most, thumbnail=thumbnail)
    share = max(1, most // num_images)
    columns, rows = published_grid(width, height, share, 448)
    assert choose_grid((height, width), tiling, share) == (columns, rows)
    expected = columns * rows + (1 if thumbnail and columns * rows > 1 else 0)
    assert num_tiles((height, width), tiling, num_images) == expected
    assert num_tiles((height, width), Tiling(max_tiles=99, thumbnail=thumbnail), num_images, most) == expected


@pytest.mark.parametrize(
    ("size_wh", "max_tiles", "count"),
    [((600, 600), 12, 1), ((800, 800), 12, 5), ((1024, 1024), 6, 5), ((1024, 1024), 12, 10), ((1024, 768), 12, 13)],
)
def test_counts_are_those_known_of_the_published_code(size_wh, max_tiles, count):
    width, height = size_wh
    assert num_tiles((height, width), Tiling(max_tiles=3), max_tiles=max_tiles) == count  # the sample's own limit


@pytest.mark.parametrize("size_hw", [(448, 448), (333, 500), (500, 333), (1, 1), (1, 900), (640, 640)])
@pytest.mark.parametrize(("num_images", "max_tiles"), [(1, None), (2, None), (1, 4), (3, 12), (5, 2)])
def test_as_many_tiles_are_cut_as_were_counted(size_hw, num_images, max_tiles):
    tiling = Tiling(size=16, max_tiles=9)
    tiles = tile(torch.zeros(3, *size_hw, dtype=torch.uint8), tiling, num_images, max_tiles)
    assert len(tiles) == num_tiles(size_hw, tiling, num_images, max_tiles)


def test_the_layout_in_memory_changes_no_pixel():
    image = torch.randint(0, 256, (3, 90, 130), dtype=torch.uint8)
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as images are decoded
    one, other = tile(image, Tiling(size=32)), tile(last, Tiling(size=32))
    assert (one.int() - other.int()).abs().max() <= 1
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert other.is_contiguous(memory_format=torch.channels_last)


def test_no_thumbnail_if_none_is_wanted():
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with_it, without = tile(image, Tiling(size=32)), tile(image, Tiling(size=32, thumbnail=False))
    assert torch.equal(with_it[:-1], without)


def test_several_images_share_the_tiles():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    counts = [len(tile(image, Tiling(size=16, max_tiles=8), num_images)) for num_images in (1, 2, 4, 8, 100)]
    assert counts == [5, 5, 1, 1, 1]  # 2 x 2 and a thumbnail of 8 or 4 tiles, else the image alone


def test_one_tile_has_no_thumbnail_and_keeps_its_pixels():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(tile(image, Tiling(size=32))[0], image)
    assert len(tile(torch.zeros(3, 1, 1, dtype=torch.uint8), Tiling(size=32))) == 1


def test_tiles_are_normalised_as_torchvision_does_it_into_channels_first():
    tiles = tile(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), Tiling(size=32))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = normalise(tiles, mean.view(3, 1, 1), std.view(3, 1, 1))
    torch.testing.assert_close(
        pixels, F.normalize(F.to_dtype(tiles, torch.float32, scale=True), mean.tolist(), std.tolist())
    )
    assert pixels.is_contiguous()
    assert normalise(tiles[:0], mean.view(3, 1, 1), std.view(3, 1, 1)).shape == (0, 3, 32, 32)
