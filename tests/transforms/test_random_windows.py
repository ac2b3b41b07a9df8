"""Windows of one size: where they are drawn, what is put around what is too small, and which are drawn again."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from tables import assert_same

from vistruct.contracts import IGNORED, Objects, Sample
from vistruct.errors import UserError
from vistruct.transforms.augment import Augment
from vistruct.transforms.crop import MOST_REDRAWS, crop, pad, random_crop
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.resized_crop import ResizedCrop


def scene(seed: int = 0, size_hw: tuple[int, int] = (30, 50)) -> Sample:
    generator = torch.Generator().manual_seed(99)
    return Sample(
        id="a",
        image_id="a",
        seed=seed,
        images=[torch.randint(0, 256, (3, *size_hw), generator=generator, dtype=torch.uint8)],
        objects=Objects(
            boxes_xyxy=torch.tensor([[10.0, 8, 20, 16]]),
            labels=torch.tensor([0]),
            masks=torch.ones(1, *size_hw, dtype=torch.bool),
        ),
        label_map=torch.randint(-1, 3, size_hw, generator=generator, dtype=torch.int16),
    )


@pytest.mark.parametrize("size_hw", [(10, 12), (30, 50), (40, 20), (64, 64)])
def test_a_window_has_its_size_whatever_the_image(size_hw: tuple[int, int]) -> None:
    for seed in range(5):
        after = Augment(crop=size_hw)(scene(seed))
        assert after.images[0].shape == (3, *size_hw)
        assert after.label_map.shape == size_hw
        assert after.objects.masks.shape[1:] == size_hw


def test_what_is_too_small_gets_a_margin_of_the_mean_colour_that_is_ignored() -> None:
    before = scene()
    after = pad(before, (40, 60))
    assert torch.equal(after.images[0][:, :30, :50], before.images[0])
    assert torch.equal(after.label_map[:30, :50], before.label_map)
    assert (after.images[0][:, 30:] == torch.tensor(MEAN_COLOUR)[:, None, None]).all()
    assert (after.images[0][:, :, 50:] == torch.tensor(MEAN_COLOUR)[:, None, None]).all()
    assert (after.label_map[30:] == IGNORED).all()
    assert (after.label_map[:, 50:] == IGNORED).all()
    assert not after.objects.masks[:, :, 50:].any()
    assert torch.equal(after.objects.boxes_xyxy, before.objects.boxes_xyxy)
    assert after.origin_xy == (0, 0)


def test_a_margin_all_around_is_undone_by_a_crop() -> None:
    before = dataclasses.replace(scene(), scale_xy=(0.5, 0.25), origin_xy=(100.0, 40.0))
    around = pad(before, (41, 73), (4, 7))
    assert around.objects.boxes_xyxy.tolist() == [[17, 12, 27, 20]]
    assert around.origin_xy == (100 - 7 / 0.5, 40 - 4 / 0.25)
    back = crop(around, (7, 4, 57, 34))
    assert_same(back.objects, before.objects)
    assert torch.equal(back.label_map, before.label_map)
    assert torch.equal(back.images[0], before.images[0])
    assert back.origin_xy == before.origin_xy


def test_a_margin_that_would_cut_is_an_error() -> None:
    for size_hw, offset in [((29, 60), (0, 0)), ((40, 60), (11, 0)), ((40, 60), (-1, 0))]:
        with pytest.raises(ValueError, match="not inside"):
            pad(scene(), size_hw, offset)


def reference(sample: Sample, size: int, seed: int, max_share: float) -> tuple[int, int]:
    """The corner that MMSegmentation's rule takes of the same draws: one, and up to ten more while it does not fit."""
    generator = torch.Generator().manual_seed(seed)
    height, width = sample.label_map.shape

    def draw() -> tuple[int, int]:
        x = int(torch.randint(width - size + 1, (), generator=generator))
        return x, int(torch.randint(height - size + 1, (), generator=generator))

    corner = draw()
    for _ in range(10):
        x, y = corner
        counts = Counter(sample.label_map[y : y + size, x : x + size].flatten().tolist())
        del counts[IGNORED]
        if counts and max(counts.values()) / sum(counts.values()) <= max_share:
            break
        corner = draw()
    return corner


@pytest.mark.parametrize("max_share", [0.4, 0.75, 0.99])
def test_windows_of_one_class_are_drawn_again_as_mmsegmentation_does(max_share: float) -> None:
    before = scene(size_hw=(40, 60))
    before.label_map[:] = 0
    before.label_map[:, 40:] = 1
    before.label_map[:8] = IGNORED
    before.label_map[30:, 20:50] = 2
    again = 0
    for seed in range(40):
        corner = reference(before, 16, seed, max_share)
        after = random_crop(before, (16, 16), torch.Generator().manual_seed(seed), max_share=max_share)
        assert after.origin_xy == corner
        again += corner != reference(before, 16, seed, 1.0)
    assert again > 5


@pytest.mark.parametrize("value", [IGNORED, 2])
def test_where_no_window_fits_the_eleventh_is_taken(value: int) -> None:
    before = scene()
    before.label_map[:] = value
    generator, other = (torch.Generator().manual_seed(3) for _ in range(2))
    after = random_crop(before, (9, 9), generator, max_share=0.5)
    for _ in range(MOST_REDRAWS):
        random_crop(before, (9, 9), other)
    assert after.origin_xy == random_crop(before, (9, 9), other).origin_xy
    assert torch.equal(generator.get_state(), other.get_state())


def test_a_share_that_every_window_meets_changes_no_draw() -> None:
    for seed in range(10):
        before = scene(seed)
        plain, strict = Augment(crop=(12, 12))(before), Augment(crop=(12, 12), crop_max_share=0.9)(before)
        assert plain.origin_xy == strict.origin_xy


def test_windows_fall_anywhere() -> None:
    corners = {Augment(crop=(10, 10))(scene(seed)).origin_xy for seed in range(300)}
    assert {x for x, _ in corners} >= {0, 40}
    assert {y for _, y in corners} >= {0, 20}
    assert len(corners) > 200


def test_mmsegmentations_random_resize_is_a_fit_with_an_even_scale() -> None:
    """RandomResize(scale=(20, 20), ratio_range=(.5, 2), keep_ratio): the longer side is 10 to 40, each as often."""
    augment = Augment(fit=(20, 20), scale=(0.5, 2.0), scale_draw="even", crop=(64, 64))
    longer = torch.tensor([augment(scene(seed)).scale_xy[0] * 50 for seed in range(250)])
    assert longer.min() >= 9.5
    assert longer.max() <= 40.5
    assert abs(float(longer.mean()) - 25) < 1.2
    assert abs(float(longer.std()) - 30 / 12**0.5) < 0.8
    log = Augment(fit=(20, 20), scale=(0.5, 2.0), crop=(64, 64))
    factors = torch.tensor([log(scene(seed)).scale_xy[0] * 50 / 20 for seed in range(250)])
    assert 0.4 < float((factors < 1).float().mean()) < 0.6  # half and double are equally far away


def test_a_scale_without_a_window_is_cropped_to_the_size_that_was_fitted() -> None:
    for seed in range(20):
        height, width = Augment(fit=(20, 20), scale=(0.5, 2.0))(scene(seed)).images[0].shape[1:]
        assert height <= 12
        assert width <= 20


def test_a_resized_window_is_torchvisions_at_its_size_with_its_labels() -> None:
    part = ResizedCrop(height=16, width=12, area=(0.2, 0.5))
    windows = set()
    for seed in range(60):
        before = scene(seed)
        after = Augment(resized_crop=part)(before)
        assert after.images[0].shape == (3, 16, 12)
        assert after.label_map.shape == (16, 12)
        width, height = 12 / after.scale_xy[0], 16 / after.scale_xy[1]
        assert 0.2 * 0.9 < width * height / 1500 < 0.5 * 1.1
        assert 0.75 * 0.85 < width / height < 4 / 3 * 1.15
        windows.add((after.origin_xy, width, height))
    assert len(windows) > 50


def test_draws_of_torchvision_leave_the_global_state_and_do_not_follow_it() -> None:
    part = ResizedCrop(height=9, width=9)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = part(scene(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(part(scene(1)).images[0], first.images[0])
    assert not torch.equal(part(scene(2)).images[0], first.images[0])


def test_a_resized_window_of_one_pixel_is_that_pixel() -> None:
    dot = Sample(id="a", image_id="a", seed=0, images=[torch.full((3, 1, 1), 7, dtype=torch.uint8)])
    assert (ResizedCrop(height=4, width=4)(dot).images[0] == 7).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": (0, 5)},
        {"crop_max_share": 0.5},
        {"resized_crop": {"height": 8, "width": 8}, "crop": (8, 8)},
        {"resized_crop": {"height": 8, "width": 8}, "scale": (0.5, 1.0)},
    ],
)
def test_windows_that_contradict_each_other_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Augment(**wrong)


@pytest.mark.parametrize("wrong", [{"area": (0.0, 1.0)}, {"area": (0.5, 1.5)}, {"aspect": (2.0, 1.0)}])
def test_a_resized_window_without_a_range_is_an_error(wrong: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(UserError, match="no range"):
        ResizedCrop(height=8, width=8, **wrong)
