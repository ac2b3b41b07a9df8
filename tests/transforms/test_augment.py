"""Random variation: a function of the sample's seed, within its bounds, and off when it is off."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from vistruct.contracts import Objects, Sample
from vistruct.errors import UserError
from vistruct.transforms.augment import Augment
from vistruct.transforms.photometric import jitter

EVERYTHING = Augment(hflip=True, vflip=True, rot90=True, photometric=0.3, scale=(0.7, 1.5))


def sample(seed: int = 0, size_hw: tuple[int, int] = (24, 24)) -> Sample:
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    image[:, 4:12, 2:8] = 200
    return Sample(
        id="a",
        image_id="a",
        seed=seed,
        images=[image],
        objects=Objects(
            boxes_xyxy=torch.tensor([[2.0, 4, 8, 12]]), labels=torch.tensor([0]), is_crowd=torch.tensor([False])
        ),
    )


def test_the_same_seed_gives_the_same_sample_whatever_happened_before() -> None:
    first = EVERYTHING(sample(7))
    torch.rand(5)
    torch.manual_seed(99)
    second = EVERYTHING(sample(7))
    assert torch.equal(first.images[0], second.images[0])
    assert torch.equal(first.objects.boxes_xyxy, second.objects.boxes_xyxy)


def test_another_seed_gives_another_sample() -> None:
    assert len({EVERYTHING(sample(seed)).images[0].float().mean().item() for seed in range(20)}) > 15


def test_a_box_stays_on_its_paint_through_everything() -> None:
    for seed in range(60):
        after = EVERYTHING(sample(seed))
        rows, columns = (after.images[0].float().mean(0) > 70).nonzero(as_tuple=True)
        if len(after.objects.boxes_xyxy) == 0:  # too little of it is left
            continue
        expected = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert (after.objects.boxes_xyxy[0] - torch.tensor(expected)).abs().max() <= 1.5


def test_nothing_asked_for_changes_nothing() -> None:
    before = sample(3)
    after = Augment()(before)
    assert torch.equal(after.images[0], before.images[0])
    assert torch.equal(after.objects.boxes_xyxy, before.objects.boxes_xyxy)
    assert after.origin_xy == (0, 0)


def test_all_eight_ways_up_come_equally_often() -> None:
    image = torch.arange(4, dtype=torch.uint8).reshape(1, 2, 2).expand(3, 2, 2)
    ways = Counter()
    for seed in range(800):
        before = dataclasses.replace(sample(seed), images=[image])
        ways[tuple(Augment(hflip=True, rot90=True)(before).images[0][0].flatten().tolist())] += 1
    assert len(ways) == 8
    assert min(ways.values()) > 60


def test_switching_one_variation_on_leaves_the_others_as_they_were() -> None:
    for seed in range(20):
        flipped = Augment(hflip=True)(sample(seed))
        both = Augment(hflip=True, photometric=0.5)(sample(seed))
        assert torch.equal(flipped.objects.boxes_xyxy, both.objects.boxes_xyxy)


def test_scales_stay_in_their_range_and_never_grow_beyond_the_old_size() -> None:
    factors = []
    for seed in range(60):
        after = Augment(scale=(0.5, 2.0))(sample(seed))
        factors.append(after.scale_xy[0])
        assert max(after.images[0].shape[1:]) <= 24
    assert 0.5 <= min(factors) < 0.7
    assert 1.4 < max(factors) <= 2


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (1.2, 0.8)])
def test_a_range_of_factors_that_is_none_is_an_error(scale: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="no range"):
        Augment(scale=scale)


def test_text_without_an_image_passes() -> None:
    before = Sample(id="a", image_id="a", seed=0, images=[])
    assert EVERYTHING(before) is before


def test_colours_change_by_no_more_than_asked_and_alike_in_a_pair() -> None:
    before = dataclasses.replace(sample(), images=[torch.full((3, 8, 8), 100, dtype=torch.uint8)] * 2)
    shades = set()
    for seed in range(40):
        one, other = jitter(before, 0.2, torch.Generator().manual_seed(seed)).images
        assert torch.equal(one, other)
        assert one.dtype == torch.uint8
        shades.add(int(one[0, 0, 0]))  # contrast and saturation leave an even grey as it is
    assert min(shades) >= 79
    assert max(shades) <= 120
    assert len(shades) > 15


def test_each_colour_change_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8, generator=generator)
    draws = 1 + 0.4 * (2 * torch.rand(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1)
    brightness, contrast, saturation = draws.tolist()
    expected = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, brightness), contrast), saturation)
    after = jitter(dataclasses.replace(sample(), images=[image]), 0.4, torch.Generator().manual_seed(5))
    assert torch.equal(after.images[0], expected)


def test_one_pixel_survives_everything() -> None:
    for seed in range(10):
        before = dataclasses.replace(sample(seed), images=[torch.full((3, 1, 1), 9, dtype=torch.uint8)])
        before.objects = dataclasses.replace(before.objects, boxes_xyxy=torch.tensor([[0.0, 0, 1, 1]]))
        assert EVERYTHING(before).images[0].shape == (3, 1, 1)


OLD_DRAWS = [[11.5, 1.083, 19.833, 7.333], [9.5, 1.583, 15.833, 6.333], [12.0, 20.0, 24.0, 24.0]]


def wide(seed: int, label: int = 0) -> Sample:
    """An image whose pixels all differ, with one oriented object in the middle."""
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    quad = torch.tensor([[[20.0, 10], [30, 10], [30, 18], [20, 18]]])
    return Sample(
        id="a",
        image_id="a",
        seed=seed,
        images=[image],
        objects=Objects(boxes_xyxy=torch.tensor([[20.0, 10, 30, 18]]), labels=torch.tensor([label]), quads=quad),
    )


def test_new_variations_leave_the_draws_of_the_old_ones_as_they_were() -> None:
    """The values were drawn before rotation, sizes and the third flip were there."""
    after = [Augment(hflip=True, vflip=True, rot90=True, scale=(0.7, 1.5))(sample(seed)) for seed in (0, 1, 2)]
    drawn = [[round(float(v), 3) for v in one.objects.boxes_xyxy.flatten()] for one in after]
    assert drawn == OLD_DRAWS


def test_one_flip_at_most_each_a_quarter_of_the_time() -> None:
    before = wide(0).images[0]
    ways = Counter()
    for seed in range(400):
        after = Augment(hflip=True, vflip=True, dflip=True, flips="one")(wide(seed)).images[0]
        axes = [axes for axes in ([], [2], [1], [1, 2]) if torch.equal(after, before.flip(axes))]
        ways[tuple(axes[0])] += 1
    assert sum(ways.values()) == 400
    assert set(ways) == {(), (2,), (1,), (1, 2)}
    assert min(ways.values()) > 70
    only = {Augment(hflip=True, flips="one")(wide(seed)).images[0][0, 0, 0].item() for seed in range(40)}
    assert only == {before[0, 0, 0].item(), before[0, 0, -1].item()}


def test_what_is_not_rotated_is_mirrored_half_of_the_time_in_one_of_four_ways() -> None:
    """MMSegmentation's RandomRotFlip: a small rotation, or quarter turns and a flip, or neither."""
    before = wide(0).images[0]
    mirror = [torch.rot90(before.flip(axis), k, (1, 2)) for axis in (1, 2) for k in (0, 1)]
    ways = Counter()
    for seed in range(400):
        after = Augment(rotate=0.5, rotate_range=(-20, 20), rot_flip=0.5)(wide(seed))
        is_turned = float((after.objects.quads[0, 1] - after.objects.quads[0, 0]).abs().min()) > 1e-3
        found = [k for k, one in enumerate(mirror) if one.shape == after.images[0].shape and one.equal(after.images[0])]
        ways["rotated" if is_turned else "as it was" if after.images[0].equal(before) else found[0]] += 1
    assert set(ways) == {"rotated", "as it was", 0, 1, 2, 3}
    assert 160 < ways["rotated"] < 240
    assert 70 < ways["as it was"] < 130
    assert min(ways[k] for k in range(4)) > 10
    plain = [Augment(rotate=0.5)(wide(seed)).images[0] for seed in range(20)]
    also = [Augment(rotate=0.5, rot_flip=0.0)(wide(seed)).images[0] for seed in range(20)]
    assert all(map(torch.equal, plain, also))


def test_a_rotation_comes_as_often_as_asked_within_its_range() -> None:
    angles = []
    for seed in range(200):
        quad = Augment(rotate=0.4, rotate_range=(-10, 20))(wide(seed)).objects.quads[0]
        angles.append(round(float(torch.rad2deg(torch.atan2(*(quad[1] - quad[0]).flip(0)))), 3))
    turned = [angle for angle in angles if angle]
    assert 50 < len(turned) < 110
    assert -10 <= min(turned) < -8
    assert 18 < max(turned) <= 20


def test_images_with_an_upright_class_are_turned_by_quarters_only() -> None:
    augment = Augment(rotate=1.0, upright_classes=(3, 7))
    sizes = Counter()
    for seed in range(80):
        after = augment(wide(seed, label=7))
        sides = (after.objects.quads[0, 1] - after.objects.quads[0, 0]).abs()
        assert sides.min() < 1e-4
        sizes[tuple(after.images[0].shape[1:])] += 1
    assert set(sizes) == {(30, 50), (50, 30)}
    assert min(sizes.values()) > 20
    other = augment(wide(3, label=2))
    assert (other.objects.quads[0, 1] - other.objects.quads[0, 0]).abs().min() > 0.1


def test_one_of_the_sizes_is_drawn_for_the_shorter_side_and_never_more_than_fits() -> None:
    sides = Counter(tuple(Augment(sizes=(15, 60, 90))(wide(seed)).images[0].shape[1:]) for seed in range(90))
    assert set(sides) == {(15, 25), (60, 100), (90, 150)}
    assert min(sides.values()) > 15
    fitted = {tuple(Augment(sizes=(15, 60), fit=(70, 80))(wide(seed)).images[0].shape[1:]) for seed in range(20)}
    assert fitted == {(15, 25), (48, 80)}
    assert Augment(fit=(70, 80))(wide(0)).images[0].shape == (3, 48, 80)


@pytest.mark.parametrize(
    "wrong", [{"rotate_range": (20, 10)}, {"rotate_range": (0, 900)}, {"sizes": (0,)}, {"fit": (5, 0)}]
)
def test_ranges_and_sizes_that_are_none_are_errors(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UserError):
        Augment(**wrong)


@pytest.mark.parametrize("one", [{"dflip": True}, {"rotate": 0.1}, {"rot_flip": 0.1}, {"sizes": (9,)}, {"fit": (9, 9)}])
def test_whatever_moves_things_says_so(one: dict[str, object]) -> None:
    assert Augment(**one).moves_things
    assert not Augment(photometric=0.5, rotate_range=(-5, 5), upright_classes=(1,), flips="one").moves_things
