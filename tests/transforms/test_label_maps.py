"""A label map goes through every move with its image, and so do images of any number of channels, and pairs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vistruct.contracts import IGNORED, Objects, Sample
from vistruct.errors import UserError
from vistruct.transforms.augment import Augment
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.distort import Distort
from vistruct.transforms.fill import MEAN_COLOUR, fill_of
from vistruct.transforms.geometry import flip_diagonal, flip_horizontal, flip_vertical, nearest, resize, turn
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.photometric import jitter
from vistruct.transforms.rotate import rotate
from vistruct.transforms.sizing import Size, sized

VALUES = (0, 1, 7, 32_000)
MOVES = {
    "left and right": flip_horizontal,
    "top and bottom": flip_vertical,
    "both": flip_diagonal,
    "a quarter": lambda sample: turn(sample, 1),
    "three quarters": lambda sample: turn(sample, 3),
    "grown": lambda sample: resize(sample, (37, 61)),
    "shrunk": lambda sample: resize(sample, (9, 7)),
    "sized": lambda sample: sized(sample, Size(height=20, width=20)),
    "to a pixel": lambda sample: resize(sample, (1, 1)),
    "cut": lambda sample: crop(sample, (2, 3, 11, 9)),
    "padded": lambda sample: pad(sample, (40, 30), (4, 1)),
    "turned a little": lambda sample: rotate(sample, 0.4),
    "turned a lot": lambda sample: rotate(sample, -2.5),
}
EVERY_MOVE = Augment(
    hflip=True, vflip=True, rot90=True, rotate=0.5, fit=(20, 20), scale=(0.5, 2.0), crop=(18, 14), crop_max_share=0.7
)


def scene(channels: int = 3, size_hw: tuple[int, int] = (16, 24), seed: int = 0, images: int = 1) -> Sample:
    """Random pixels, random classes of any int16 and some IGNORED, and a mask of each class."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([IGNORED, *VALUES], dtype=torch.int16)
    labels = classes[torch.randint(5, size_hw, generator=generator)]
    return Sample(
        id="a",
        image_id="a",
        seed=seed,
        images=[
            torch.randint(0, 256, (channels, *size_hw), generator=generator, dtype=torch.uint8) for _ in range(images)
        ],
        objects=Objects(
            boxes_xyxy=torch.tensor([[0.0, 0, size_hw[1], size_hw[0]]]).repeat(4, 1),
            labels=torch.arange(4),
            is_crowd=torch.ones(4, dtype=torch.bool),
            masks=torch.stack([labels == one for one in classes[1:]]),
        ),
        # a crowd stays while any of it shows
        label_map=labels,
    )


@pytest.mark.parametrize("name", MOVES)
def test_a_class_is_where_its_mask_is_after_every_move(name: str) -> None:
    before = scene()
    kept = before.label_map.clone()
    after = MOVES[name](before)
    assert after.label_map.dtype == torch.int16
    assert after.label_map.shape == after.images[0].shape[1:]
    for number, mask in zip(after.objects.labels.tolist(), after.objects.masks, strict=True):
        assert torch.equal(after.label_map == VALUES[number], mask)
    shown = {VALUES[number] for number in after.objects.labels.tolist()}
    assert set(after.label_map.unique().tolist()) <= shown | {IGNORED}
    assert torch.equal(before.label_map, kept)


@pytest.mark.parametrize("angle", [0.4, 1.1, -2.5, math.pi])
def test_what_turns_into_view_is_ignored_and_nothing_else(angle: float) -> None:
    before = dataclasses.replace(scene(), label_map=torch.full((16, 24), 3, dtype=torch.int16))
    white = dataclasses.replace(before, images=[torch.full((1, 16, 24), 255, dtype=torch.uint8)])
    after = rotate(white, angle)
    outside = after.images[0][0] == 0
    assert (after.label_map[outside] == IGNORED).all()
    assert (after.label_map[after.images[0][0] == 255] == 3).all()
    assert (after.label_map == IGNORED).any() == (angle != math.pi)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 20)] * 2), st.tuples(*[st.integers(1, 40)] * 2), st.integers(0, 9))
def test_labels_are_resized_as_pillow_does(halves: tuple[int, int], size_hw: tuple[int, int], seed: int) -> None:
    height, width = (2 * half + 1 for half in halves)  # of an odd size no new centre lies between two old pixels
    h, w = size_hw
    grid = torch.randint(-1, 100, (height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    expected = np.array(Image.fromarray(grid.numpy()).resize((w, h), Image.Resampling.NEAREST))
    assert torch.equal(nearest(grid.to(torch.int16), (h, w)).int(), torch.from_numpy(expected))


def test_labels_shrunk_to_a_third_are_those_at_the_centres() -> None:
    grid = torch.arange(81, dtype=torch.int16).reshape(9, 9)
    assert torch.equal(nearest(grid, (3, 3)), grid[1::3, 1::3])
    assert torch.equal(nearest(nearest(grid, (27, 18)), (9, 9)), grid)
    assert nearest(grid[None, None] > 3, (5, 4)).shape == (1, 1, 5, 4)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_any_number_of_channels_moves_as_so_many_pictures(name: str, channels: int) -> None:
    before = scene(channels)
    after = MOVES[name](before).images[0]
    assert after.shape[0] == channels
    for number, channel in enumerate(before.images[0]):
        alone = MOVES[name](dataclasses.replace(before, images=[channel[None]])).images[0]
        assert torch.equal(after[number], alone[0])


def test_colours_rotate_as_their_channels_do() -> None:
    before = scene()
    together = rotate(before, 0.7, fill=(10, 20, 30)).images[0]
    for number, value in enumerate((10, 20, 30)):
        one = dataclasses.replace(before, images=[before.images[0][number : number + 1]])
        assert torch.equal(together[number], rotate(one, 0.7, fill=(value,)).images[0][0])


def test_outside_of_a_picture_there_is_the_mean_colour_and_black_where_none_is_known() -> None:
    assert fill_of(torch.zeros(3, 1, 1, dtype=torch.uint8)) == MEAN_COLOUR
    assert fill_of(torch.zeros(5, 1, 1)) == (0,) * 5
    assert rotate(scene(5), math.pi / 4).images[0][:, 0, 0].tolist() == [0] * 5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_both_of_a_pair_move_alike(seed: int) -> None:
    pair = scene(4, seed=seed, images=2)
    both = EVERY_MOVE(pair)
    for number, image in enumerate(pair.images):
        alone = EVERY_MOVE(dataclasses.replace(pair, images=[image]))
        assert torch.equal(both.images[number], alone.images[0])
        assert torch.equal(both.label_map, alone.label_map)


def test_one_pixel_and_an_all_ignored_map_survive_everything() -> None:
    for seed in range(10):
        dot = scene(2, (1, 1), seed)
        assert EVERY_MOVE(dot).label_map.shape == (18, 14)
        nothing = dataclasses.replace(scene(seed=seed), label_map=torch.full((16, 24), IGNORED, dtype=torch.int16))
        assert (EVERY_MOVE(nothing).label_map == IGNORED).all()


def test_jitter_of_bands_is_that_of_each_band_and_leaves_grey_images_grey() -> None:
    before = scene(4)
    after = jitter(before, 0.4, torch.Generator().manual_seed(3)).images[0]
    for number, band in enumerate(before.images[0]):
        alone = dataclasses.replace(before, images=[band[None]])
        assert torch.equal(after[number], jitter(alone, 0.4, torch.Generator().manual_seed(3)).images[0][0])
    assert not torch.equal(after, before.images[0])


def test_jpeg_is_for_colours_and_says_so() -> None:
    with pytest.raises(UserError, match="4 channels"):
        Augment(jpeg=JpegReencode())(scene(4))


def test_colour_changes_leave_labels_alone() -> None:
    before = scene()
    after = Augment(distort=Distort(), jpeg=JpegReencode())(before)
    assert torch.equal(after.label_map, before.label_map)


def labels_of(sample: Sample) -> Tensor:
    assert sample.label_map is not None
    return sample.label_map


@pytest.mark.parametrize("angle", [0.3, 1.2])
def test_labels_turn_with_the_paint(angle: float) -> None:
    paint = torch.zeros(3, 60, 80, dtype=torch.uint8)
    paint[:, 20:35, 30:60] = 255
    sample = Sample(id="a", image_id="a", seed=0, images=[paint], label_map=(paint[0] > 0).to(torch.int16))
    after = rotate(sample, angle, fill=(0, 0, 0))
    seen, said = after.images[0][0] > 127, labels_of(after) == 1
    assert (seen & said).sum() / (seen | said).sum() > 0.93
