"""Boxes follow their pixels: paint a box, move the picture, and the paint must be where the box says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vistruct.contracts import Objects, Sample
from vistruct.transforms.crop import crop, random_crop
from vistruct.transforms.geometry import flip_horizontal, flip_vertical, rescale, resize, turn


@st.composite
def painted(draw: st.DrawFn, smallest: int = 1) -> Sample:
    """A black image with one white box, at least `smallest` pixels wide and high."""
    height, width = draw(st.integers(smallest, 40)), draw(st.integers(smallest, 40))
    x0, y0 = draw(st.integers(0, width - smallest)), draw(st.integers(0, height - smallest))
    x1, y1 = draw(st.integers(x0 + smallest, width)), draw(st.integers(y0 + smallest, height))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y0:y1, x0:x1] = 255
    return sample(image, [[x0, y0, x1, y1]])


def sample(image: Tensor, boxes: list[list[float]]) -> Sample:
    return Sample(
        id="a",
        image_id="a",
        seed=0,
        images=[image],
        objects=Objects(
            boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.arange(len(boxes)),
            is_crowd=torch.zeros(len(boxes), dtype=torch.bool),
        ),
    )


def paint(image: Tensor) -> list[int]:
    """xyxy of the bright pixels."""
    rows, columns = (image[0] > 127).nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


MOVES = [flip_horizontal, flip_vertical, *(lambda s, q=q: turn(s, q) for q in range(-1, 5))]


@settings(max_examples=60, deadline=None)
@given(painted(), st.sampled_from(MOVES))
def test_flips_and_turns_move_a_box_with_its_paint(before: Sample, move) -> None:
    after = move(before)
    assert after.objects.boxes_xyxy[0].tolist() == paint(after.images[0])
    assert after.images[0].dtype == torch.uint8


@settings(max_examples=60, deadline=None)
@given(painted(smallest=4), st.floats(0.5, 3))
def test_resizing_moves_a_box_with_its_paint_to_a_pixel(before: Sample, factor: float) -> None:
    after = rescale(before, factor)
    for edge, painted_edge in zip(after.objects.boxes_xyxy[0].tolist(), paint(after.images[0]), strict=True):
        assert abs(edge - painted_edge) <= max(1, factor / 2 + 0.5)


@settings(max_examples=60, deadline=None)
@given(painted(), st.data())
def test_a_crop_moves_a_box_with_its_paint_or_removes_both(before: Sample, data: st.DataObject) -> None:
    height, width = before.images[0].shape[1:]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    after = crop(before, window, min_kept=1e-6)
    if (after.images[0] > 0).any():
        assert after.objects.boxes_xyxy[0].tolist() == paint(after.images[0])
        assert after.objects.labels.tolist() == [0]
    else:
        assert len(after.objects.boxes_xyxy) == len(after.objects) == len(after.objects.is_crowd) == 0


@settings(max_examples=30, deadline=None)
@given(painted(), st.sampled_from([flip_horizontal, flip_vertical, lambda s: turn(s, 2)]))
def test_twice_is_as_before_and_the_first_sample_is_untouched(before: Sample, move) -> None:
    image, boxes = before.images[0].clone(), before.objects.boxes_xyxy.clone()
    after = move(move(before))
    for result in (after, before):
        assert torch.equal(result.images[0], image)
        assert torch.equal(result.objects.boxes_xyxy, boxes)


def test_four_quarter_turns_are_none_and_one_is_anticlockwise() -> None:
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[:, 0, 5] = 255  # top right
    before = sample(image, [[5, 0, 6, 1]])
    assert turn(before, 1).objects.boxes_xyxy.tolist() == [[0, 0, 1, 1]]  # goes to the top left
    assert turn(before, 1).images[0].shape == (3, 6, 4)
    assert torch.equal(turn(turn(turn(turn(before, 1), 1), 1), 1).images[0], image)


@settings(max_examples=60, deadline=None)
@given(painted(smallest=4), st.floats(0.5, 3), st.floats(0.5, 3), st.integers(0, 2), st.integers(0, 2))
def test_resizing_and_cropping_map_back_to_the_whole_image(
    before: Sample, first: float, second: float, left: int, top: int
) -> None:
    grown = rescale(before, first)
    height, width = grown.images[0].shape[1:]
    left, top = min(left, width - 1), min(top, height - 1)
    after = rescale(crop(grown, (left, top, width, height), min_kept=1e-6), second)
    back = after.objects.boxes_xyxy / torch.tensor(after.scale_xy * 2) + torch.tensor(after.origin_xy * 2)
    shown_from = torch.tensor([left, top]) / torch.tensor(grown.scale_xy)
    expected = before.objects.boxes_xyxy.clone()
    expected[:, :2] = torch.maximum(expected[:, :2], shown_from)
    if len(back):
        torch.testing.assert_close(back, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("move", [flip_horizontal, flip_vertical, lambda s: turn(s, 1)])
def test_after_a_flip_or_turn_there_is_no_way_back_and_it_shows(move) -> None:
    after = move(sample(torch.zeros(3, 4, 4, dtype=torch.uint8), []))
    assert all(math.isnan(value) for value in after.origin_xy)


def test_a_crop_removes_boxes_of_which_too_little_shows_but_keeps_crowds() -> None:
    before = sample(torch.zeros(3, 10, 10, dtype=torch.uint8), [[0, 0, 10, 10], [0, 0, 4, 10], [0, 0, 10, 10]])
    before.objects.is_crowd[2] = True
    after = crop(before, (0, 0, 10, 3), min_kept=0.31)
    assert after.objects.labels.tolist() == [2]
    assert crop(before, (0, 0, 10, 3), min_kept=0.3).objects.labels.tolist() == [0, 1, 2]
    assert crop(before, (5, 0, 10, 10)).objects.labels.tolist() == [0, 2]  # the second lies outside


@pytest.mark.parametrize("window", [(0, 0, 0, 4), (0, 0, 5, 4), (-1, 0, 2, 2), (3, 3, 1, 1)])
def test_a_crop_outside_the_image_is_an_error(window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="not inside"):
        crop(sample(torch.zeros(3, 4, 4, dtype=torch.uint8), []), window)


def test_a_random_crop_has_its_size_reaches_everywhere_and_follows_its_generator() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4).expand(3, 4, 4)
    generator = torch.Generator().manual_seed(0)
    firsts = {int(random_crop(sample(image, []), (2, 2), generator).images[0][0, 0, 0]) for _ in range(200)}
    assert firsts == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    assert random_crop(sample(image, []), (9, 3), generator).images[0].shape == (3, 4, 3)
    same = [random_crop(sample(image, []), (2, 2), torch.Generator().manual_seed(5)).origin_xy for _ in range(2)]
    assert same[0] == same[1]


def test_one_pixel_stays_one_pixel() -> None:
    before = sample(torch.full((3, 1, 1), 9, dtype=torch.uint8), [[0, 0, 1, 1]])
    assert rescale(before, 0.1).images[0].shape == (3, 1, 1)
    assert turn(flip_horizontal(before), 3).objects.boxes_xyxy.tolist() == [[0, 0, 1, 1]]
    assert rescale(sample(torch.full((3, 4, 4), 9, dtype=torch.uint8), []), 0.25).images[0].tolist() == [[[9]]] * 3
    assert resize(before, (2, 5)).objects.boxes_xyxy.tolist() == [[0, 0, 5, 2]]


def test_every_image_of_a_pair_moves() -> None:
    before = sample(torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4).expand(3, 1, 4), [])
    before.images.append(before.images[0] + 10)
    after = crop(flip_horizontal(before), (0, 0, 2, 1))
    assert [image[0, 0].tolist() for image in after.images] == [[3, 2], [13, 12]]
