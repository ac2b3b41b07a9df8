"""Every move takes image, boxes, quads, masks and keypoints together: what is painted stays where the points say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vistruct.contracts import Objects, Sample
from vistruct.ops.oriented import cxcywha_to_quads, quads_to_cxcywha
from vistruct.transforms.crop import crop, mask_hulls, random_crop
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.geometry import (
    fit,
    flip_diagonal,
    flip_horizontal,
    flip_vertical,
    rescale,
    resize,
    turn,
)
from vistruct.transforms.points import hulls
from vistruct.transforms.rotate import rotate

Move = Callable[[Sample], Sample]


def filled(quad: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """bool[H, W], the pixels whose centres lie in a polygon; by shapely."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    return torch.from_numpy(shapely.contains_xy(shapely.Polygon(quad.double().numpy()), x, y))


def scene(boxes: Tensor, size_hw: tuple[int, int], *, quads: bool = True, masks: bool = True) -> Sample:
    """Bright rotated rectangles float[N, 5] on black, a keypoint in the middle of each and one at its first corner."""
    corners = cxcywha_to_quads(boxes)
    drawn = torch.stack([filled(quad, size_hw) for quad in corners]) if len(boxes) else torch.zeros(0, *size_hw).bool()
    points = torch.stack([boxes[:, :2], corners[:, 0]], dim=1)
    return Sample(
        id="a",
        image_id="a",
        seed=0,
        images=[(drawn.any(dim=0) * 255).to(torch.uint8).expand(3, *size_hw).clone()],
        objects=Objects(
            boxes_xyxy=hulls(corners),
            labels=torch.arange(len(boxes)),
            quads=corners if quads else None,
            masks=drawn if masks else None,
            keypoints=torch.cat([points, torch.full((len(boxes), 2, 1), 2.0)], dim=2),
        ),
    )


@st.composite
def scenes(draw: st.DrawFn, **kinds: bool) -> Sample:
    """One rectangle, whole inside an image whose sides differ; so large that a row of pixels is little of it."""
    height, width = draw(st.integers(60, 80)), draw(st.integers(70, 100))
    w, h = draw(st.floats(34, 44)), draw(st.floats(26, 32))
    angle = draw(st.floats(-1.57, 1.57))
    reach = math.hypot(w, h) / 2
    cx = draw(st.floats(reach, width - reach))
    cy = draw(st.floats(reach, height - reach))
    return scene(torch.tensor([[cx, cy, w, h, angle]]), (height, width), **kinds)


def iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


EXACT: dict[str, Move] = {
    "left and right": flip_horizontal,
    "top and bottom": flip_vertical,
    "both": flip_diagonal,
    "a quarter": lambda sample: turn(sample, 1),
    "three quarters": lambda sample: turn(sample, 3),
}
SMOOTH: dict[str, Move] = {
    "grown": lambda sample: rescale(sample, 1.7),
    "shrunk": lambda sample: rescale(sample, 0.8),
    "stretched": lambda sample: resize(sample, (120, 90)),
    "fitted": lambda sample: fit(sample, (150, 110)),
    "turned a little": lambda sample: rotate(sample, 0.3, min_kept=1e-6),
    "turned a lot": lambda sample: rotate(sample, -2.2, min_kept=1e-6),
}


@pytest.mark.parametrize("name", [*EXACT, *SMOOTH])
@settings(max_examples=10, deadline=None)
@given(before=scenes())
def test_quad_mask_and_paint_stay_one_thing(name: str, before: Sample) -> None:
    after = (EXACT | SMOOTH)[name](before)
    if len(after.objects) == 0:  # turned out of view
        assert name.startswith("turned")
        return
    assert after.objects.quads is not None
    assert after.objects.masks is not None
    paint, place = after.images[0][0] > 127, filled(after.objects.quads[0], tuple(after.images[0].shape[1:]))
    if name.startswith("turned"):
        paint &= (after.images[0].float() - torch.tensor(MEAN_COLOUR)[:, None, None]).abs().amax(dim=0) > 25
        if place.sum() < 500:  # a sliver at the border
            return
    # A pixel row that is decided the other way weighs more in a smaller picture.
    at_least = 1.0 if name in EXACT else 0.82 if name == "shrunk" else 0.9
    assert iou(paint, place) >= at_least
    assert iou(after.objects.masks[0], place) >= at_least
    assert after.objects.masks.dtype == torch.bool


@pytest.mark.parametrize("name", [*EXACT, *SMOOTH])
@settings(max_examples=6, deadline=None)
@given(before=scenes(masks=False))
def test_boxes_are_the_hulls_of_quads_and_keypoints_stay_on_theirs(name: str, before: Sample) -> None:
    after = (EXACT | SMOOTH)[name](before)
    for quad, box, points in zip(after.objects.quads, after.objects.boxes_xyxy, after.objects.keypoints, strict=True):
        torch.testing.assert_close(box, torch.cat([quad.amin(dim=0), quad.amax(dim=0)]))
        for point, expected in zip(points, (quad.mean(dim=0), quad[0]), strict=True):
            if point[2] > 0:
                torch.testing.assert_close(point[:2], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("angle", [0.4, -1.1, 3.0])
def test_rotation_turns_the_angle_of_a_box_by_as_much_and_keeps_its_sides(angle: float) -> None:
    before = torch.tensor([[48.0, 40, 20, 8, 0.2], [40, 44, 12, 10, -0.9]])
    after = rotate(scene(before, (84, 92)), angle)
    boxes = quads_to_cxcywha(after.objects.quads)
    torch.testing.assert_close(boxes[:, 2:4], before[:, 2:4], atol=1e-3, rtol=0)
    turned = (boxes[:, 4] - before[:, 4] - angle + math.pi / 2) % math.pi - math.pi / 2
    assert turned.abs().max() < 1e-3


def test_rotation_is_clockwise_about_the_middle() -> None:
    image = torch.zeros(3, 21, 21, dtype=torch.uint8)
    image[:, 10, 18] = 255  # on the right
    sample = Sample(id="a", image_id="a", seed=0, images=[image])
    after = rotate(sample, math.pi / 2, fill=(0, 0, 0)).images[0]
    assert (after[0] > 127).nonzero().tolist() == [[18, 10]]  # goes to the bottom


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotating_a_square_by_quarters_is_turning_it(quarters: int) -> None:
    before = scene(torch.tensor([[30.0, 22, 20, 8, 0.4]]), (48, 48))
    before.images[0] = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    turned, rotated = turn(before, quarters), rotate(before, -quarters * math.pi / 2)
    assert (turned.images[0].int() - rotated.images[0].int()).abs().max() <= 1
    assert torch.equal(turned.objects.masks, rotated.objects.masks)
    for field in ("quads", "keypoints", "boxes_xyxy"):
        torch.testing.assert_close(getattr(turned.objects, field), getattr(rotated.objects, field), atol=1e-3, rtol=0)


def test_there_and_back_again_is_where_it_was() -> None:
    before = scene(torch.tensor([[40.0, 32, 20, 8, 0.7]]), (64, 80))
    for there, back in [
        (lambda s: rotate(s, 0.5), lambda s: rotate(s, -0.5)),
        (lambda s: resize(s, (128, 240)), lambda s: resize(s, (64, 80))),
        (lambda s: turn(s, 1), lambda s: turn(s, 3)),
        (flip_diagonal, flip_diagonal),
    ]:
        after = back(there(before))
        torch.testing.assert_close(after.objects.quads, before.objects.quads, atol=1e-3, rtol=0)
        torch.testing.assert_close(after.objects.keypoints, before.objects.keypoints, atol=1e-3, rtol=0)
        assert iou(after.objects.masks[0], before.objects.masks[0]) > 0.9


def test_what_turns_into_view_has_the_mean_colour_and_the_origin_is_gone() -> None:
    before = Sample(id="a", image_id="a", seed=0, images=[torch.full((3, 40, 40), 9, dtype=torch.uint8)])
    after = rotate(before, math.pi / 4)
    assert after.images[0][:, 0, 0].tolist() == list(MEAN_COLOUR)
    assert after.images[0][:, 20, 20].tolist() == [9, 9, 9]
    assert all(math.isnan(value) for value in after.origin_xy)
    assert rotate(before, 0.0) is before


def test_objects_that_turn_out_of_view_are_removed_and_those_half_in_view_stay_whole() -> None:
    before = scene(torch.tensor([[4.0, 4, 6, 4, 0.0], [48, 40, 20, 10, 0.0]]), (80, 96))
    after = rotate(before, math.pi / 4)
    assert after.objects.labels.tolist() == [1]
    edge = scene(torch.tensor([[10.0, 40, 20, 10, 0.0]]), (80, 80))
    assert rotate(edge, math.pi / 4).objects.labels.tolist() == [0]
    inside = rotate(scene(torch.tensor([[60.0, 8, 20, 10, 0.0]]), (80, 160)), 0.2)
    assert (inside.objects.quads < 0).any()


@settings(max_examples=20, deadline=None)
@given(scenes(quads=False), st.floats(-3, 3))
def test_a_horizontal_box_rotates_to_the_hull_of_its_mask(before: Sample, angle: float) -> None:
    if angle == 0:  # nothing moves
        return
    after = rotate(before, angle, min_kept=1e-6)
    if len(after.objects) and after.objects.masks.any():
        assert after.objects.boxes_xyxy.tolist() == mask_hulls(after.objects.masks).float().tolist()


@settings(max_examples=20, deadline=None)
@given(scenes(quads=False, masks=False), st.floats(-3, 3))
def test_a_horizontal_box_without_a_mask_grows_and_still_covers_its_paint(before: Sample, angle: float) -> None:
    after = rotate(before, angle, fill=(0, 0, 0), min_kept=1e-6)
    rows, columns = (after.images[0][0] > 200).nonzero(as_tuple=True)
    if len(rows) and len(after.objects):
        x0, y0, x1, y1 = after.objects.boxes_xyxy[0].tolist()
        slack = 0.5 + 0.75**0.5  # centre of a pixel; paint that is whole pixels, turned
        assert x0 <= columns.min() + slack
        assert y0 <= rows.min() + slack
        assert x1 >= columns.max() + 1 - slack
        assert y1 >= rows.max() + 1 - slack
        height, width = after.images[0].shape[1:]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


@settings(max_examples=40, deadline=None)
@given(scenes(), st.data())
def test_a_crop_keeps_quads_whole_by_the_share_of_them_that_shows(before: Sample, data: st.DataObject) -> None:
    height, width = before.images[0].shape[1:]
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    window = x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    min_kept = data.draw(st.sampled_from([0.1, 0.4, 0.7]))
    polygon = shapely.Polygon(before.objects.quads[0].double().numpy())
    share = polygon.intersection(shapely.box(*window)).area / polygon.area
    if abs(share - min_kept) < 1e-4:
        return
    after = crop(before, window, min_kept)
    assert len(after.objects) == (share > min_kept)
    if len(after.objects):
        moved = before.objects.quads - torch.tensor([x0, y0])
        torch.testing.assert_close(after.objects.quads, moved, atol=1e-4, rtol=0)
        assert torch.equal(after.objects.masks, before.objects.masks[:, window[1] : window[3], window[0] : window[2]])
        inside = (after.objects.keypoints[..., :2] >= 0) & (
            after.objects.keypoints[..., :2] < torch.tensor([window[2] - x0, window[3] - y0])
        )
        assert inside.all()  # those outside are at (0, 0), not annotated
        assert ((after.objects.keypoints[..., 2] == 0) <= (after.objects.keypoints[..., :2] == 0).all(dim=-1)).all()


def test_a_keypoint_outside_a_crop_is_no_longer_annotated() -> None:
    before = scene(torch.tensor([[20.0, 20, 30, 10, 0.0]]), (40, 40))
    after = crop(before, (10, 0, 40, 40))
    assert after.objects.keypoints.tolist() == [[[10, 20, 2], [0, 0, 0]]]
    assert flip_horizontal(after).objects.keypoints.tolist() == [[[20, 20, 2], [0, 0, 0]]]  # nor moved


def test_a_box_with_a_mask_is_cut_to_the_mask_that_shows_and_gone_without_any() -> None:
    before = scene(torch.tensor([[20.0, 20, 20, 20, math.pi / 4]]), (40, 40), quads=False)
    box = before.objects.boxes_xyxy[0].tolist()
    assert crop(before, (0, 0, 40, 40)).objects.boxes_xyxy[0].tolist() == box  # whole: as annotated
    half = crop(before, (0, 0, 18, 40))
    assert half.objects.boxes_xyxy.tolist() == mask_hulls(half.objects.masks).float().tolist()
    corner = crop(before, (0, 0, 12, 12), min_kept=0.01)  # in the box, and none of the mask
    assert len(corner.objects) == 0


def test_an_object_cut_too_short_can_be_ignored_instead_of_being_background() -> None:
    before = scene(torch.tensor([[20.0, 20, 30, 10, 0.0], [36, 4, 4, 4, 0.0]]), (40, 40))
    after = crop(before, (0, 0, 12, 40), min_kept=0.4, else_ignore=True)
    assert after.objects.labels.tolist() == [0]
    assert after.objects.is_ignored.tolist() == [True]
    assert not after.objects.is_crowd.any()
    assert not before.objects.is_ignored.any()
    assert crop(before, (0, 0, 12, 40), min_kept=0.4).objects.labels.tolist() == []


@pytest.mark.parametrize(
    "move",
    [*EXACT.values(), *SMOOTH.values(), lambda s: crop(s, (3, 4, 30, 20)), lambda s: resize(s, (1, 1))],
)
def test_nothing_at_all_moves_too(move: Move) -> None:
    before = scene(torch.zeros(0, 5), (40, 50))
    after = move(before)
    assert after.objects.quads.shape == (0, 4, 2)
    assert after.objects.keypoints.shape == (0, 2, 3)
    assert after.objects.masks.shape == (0, *after.images[0].shape[1:])
    assert after.objects.boxes_xyxy.shape == (0, 4)


def test_flags_go_with_their_objects() -> None:
    before = scene(torch.tensor([[10.0, 10, 8, 6, 0.1], [60, 40, 8, 6, 0.1], [50, 12, 8, 6, 0.1]]), (60, 80))
    before.objects = replace(before.objects, is_difficult=torch.tensor([True, False, True]))
    after = crop(before, (30, 0, 80, 60))
    assert after.objects.labels.tolist() == [1, 2]
    assert after.objects.is_difficult.tolist() == [False, True]


def test_fitting_fills_one_side_and_keeps_the_aspect() -> None:
    before = scene(torch.tensor([[40.0, 32, 20, 8, 0.7]]), (50, 100))
    assert fit(before, (200, 120)).images[0].shape[1:] == (60, 120)
    assert fit(before, (30, 500)).images[0].shape[1:] == (30, 60)
    assert fit(before, (30, 500)).scale_xy == (0.6, 0.6)


def test_a_random_crop_of_oriented_objects_stays_inside_and_maps_back() -> None:
    before = scene(torch.tensor([[40.0, 32, 20, 8, 0.7]]), (64, 80))
    for seed in range(10):
        after = random_crop(before, (40, 50), torch.Generator().manual_seed(seed), min_kept=0.01)
        if len(after.objects):
            back = after.objects.quads + torch.tensor(after.origin_xy)
            torch.testing.assert_close(back, before.objects.quads, atol=1e-4, rtol=0)
