"""Changes of colour against OpenCV's HSV, and what they leave alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.files.images import read_image
from vistruct.ops.seeds import derive
from vistruct.samples import trees
from vistruct.transforms.augment import Augment
from vistruct.transforms.distort import Distort

EVERY = Distort(chance=1.0)
NARROW = Distort(brightness=10, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=10, chance=1.0)  # ViTP, changes


def sample(*images: Tensor, seed: int = 0) -> Sample:
    return Sample(id="a", image_id="a", seed=seed, images=list(images))


@pytest.fixture(scope="module")
def scene() -> Tensor:
    return read_image(trees().test.with_suffix(".jpg"), (300, 300, 428, 396))


def by_opencv(image: Tensor, config: Distort, seed: int) -> np.ndarray:
    """float[H, W, 3], the same draws through MMSegmentation's steps: HSV as OpenCV has it, two degrees a step."""
    generator = torch.Generator().manual_seed(derive(seed, "augment", "distort", 0))
    draws = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    amounts, is_early = draws[4:8], draws[8] < 0.5
    pixels = image.permute(1, 2, 0).numpy().astype(np.float64)
    pixels = np.clip(pixels + config.brightness * (2 * amounts[0] - 1), 0, 255)
    contrast = config.contrast[0] + (config.contrast[1] - config.contrast[0]) * amounts[1]
    saturation = config.saturation[0] + (config.saturation[1] - config.saturation[0]) * amounts[2]
    if is_early:
        pixels = np.clip(pixels * contrast, 0, 255)
    hsv = cv2.cvtColor(pixels.round().astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float64)
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    hsv[..., 0] += config.hue * (2 * amounts[3] - 1)
    hsv = hsv.round() % [180, 256, 256]
    pixels = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(float)
    return pixels if is_early else np.clip(pixels * contrast, 0, 255)


@pytest.mark.parametrize("config", [EVERY, NARROW], ids=["usual", "narrow"])
def test_colours_are_those_of_opencv_to_a_few_levels(scene: Tensor, config: Distort) -> None:
    for seed in range(6):
        after = config(sample(scene, seed=seed)).images[0].permute(1, 2, 0).numpy().astype(float)
        error = np.abs(after - by_opencv(scene, config, seed))
        changed = np.abs(after - scene.permute(1, 2, 0).numpy()).mean()
        assert error.mean() < 1.6
        assert np.percentile(error, 99) <= 6
        assert changed > 3 * error.mean()


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({"brightness": 40}, lambda v, a: (v + 40 * (2 * a[0] - 1)).clip(0, 255)),
        ({"contrast": (0.5, 2.0)}, lambda v, a: (v * (0.5 + 1.5 * a[1])).clip(0, 255)),
    ],
)
def test_brightness_is_added_and_contrast_multiplied(only: dict[str, object], expected) -> None:
    nothing = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "chance": 1}
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    for seed in range(5):
        generator = torch.Generator().manual_seed(derive(seed, "augment", "distort", 0))
        amounts = torch.rand(9, generator=generator, dtype=torch.float64)[4:8].tolist()
        after = Distort(**{**nothing, **only})(sample(values, seed=seed)).images[0]
        wanted = expected(values.numpy().astype(float), amounts)
        assert np.abs(after.numpy() - wanted).max() <= 0.5


def test_a_hue_turned_by_a_third_makes_red_green() -> None:
    """60 steps of two degrees; drawn from -60 to 60, so that the turn itself is known from the draw."""
    red = torch.tensor([200, 20, 20], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    turns = []
    for seed in range(40):
        only = Distort(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=60, chance=1)
        pixel = only(sample(red, seed=seed)).images[0][:, 0, 0]
        generator = torch.Generator().manual_seed(derive(seed, "augment", "distort", 0))
        wanted = 120 * (2 * float(torch.rand(9, generator=generator, dtype=torch.float64)[7]) - 1)
        hue = cv2.cvtColor(pixel.numpy()[None, None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0, 0]
        assert abs((hue[0] - wanted + 180) % 360 - 180) < 2  # of 1.4 degrees a step, and whole numbers of colours
        assert abs(hue[2] * 255 - 200) <= 1  # the value stays
        assert abs(hue[1] - 0.9) < 0.01
        turns.append(wanted)
    assert min(turns) < -90
    assert max(turns) > 90


def test_each_change_comes_half_of_the_time_and_on_its_own(scene: Tensor) -> None:
    part = scene[:, :16, :16]
    kinds = {"brightness": {"brightness": 30}, "contrast": {"contrast": (1.5, 2)}, "hue": {"hue": 60}}
    nothing = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0}
    came = {
        name: [
            not torch.equal(Distort(**{**nothing, **kind})(sample(part, seed=seed)).images[0], part)
            for seed in range(200)
        ]
        for name, kind in kinds.items()
    }
    for one in came.values():
        assert 70 < sum(one) < 130
    both = sum(a and b for a, b in zip(came["brightness"], came["contrast"], strict=True))
    assert 25 < both < 75
    assert torch.equal(Distort(chance=0)(sample(part)).images[0], part)


def test_both_of_a_pair_are_drawn_each_or_together(scene: Tensor) -> None:
    each, other = EVERY(sample(scene, scene)).images
    assert not torch.equal(each, other)
    one, same = Distort(chance=1, together=True)(sample(scene, scene)).images
    assert torch.equal(one, same)
    assert torch.equal(one, each)


def test_bands_change_in_brightness_and_contrast_alone(scene: Tensor) -> None:
    bands = torch.cat([scene, scene[:1]])
    no_colours = Distort(saturation=(1, 1), hue=0, chance=1)
    for seed in range(5):
        four = EVERY(sample(bands, seed=seed)).images[0]
        assert (four[:3].int() - no_colours(sample(scene, seed=seed)).images[0].int()).abs().max() <= 5  # HSV and back
        assert torch.equal(four[3], four[0])


def test_grey_stays_grey_and_one_pixel_survives() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)
    for seed in range(10):
        after = EVERY(sample(grey, seed=seed)).images[0]
        assert torch.equal(after[0], after[1])
        assert torch.equal(after[0], after[2])
        assert EVERY(sample(grey[:, :1, :1], seed=seed)).images[0].shape == (3, 1, 1)


def test_distortion_is_a_function_of_the_seed_and_leaves_other_draws_as_they_were(scene: Tensor) -> None:
    plain, both = Augment(hflip=True), Augment(hflip=True, distort=Distort(chance=0))
    for seed in range(8):
        assert torch.equal(plain(sample(scene, seed=seed)).images[0], both(sample(scene, seed=seed)).images[0])
        again = [EVERY(sample(scene, seed=seed)).images[0] for _ in range(2)]
        assert torch.equal(*again)


@pytest.mark.parametrize("wrong", [{"contrast": (1.2, 0.8)}, {"saturation": (-0.5, 1)}])
def test_a_range_that_is_none_is_an_error(wrong: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(UserError, match="no range"):
        Distort(**wrong)


def test_two_ways_to_change_colours_are_an_error() -> None:
    with pytest.raises(UserError, match="both change the colours"):
        Augment(distort=Distort(), photometric=0.2)
