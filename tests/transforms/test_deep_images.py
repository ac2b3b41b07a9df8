"""Images of 16 bits and of floats through everything that moves or changes pixels, against float64."""

from __future__ import annotations

import colorsys
import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.ops.values import from_unit, full_scale, to_unit
from vistruct.transforms.augment import Augment
from vistruct.transforms.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from vistruct.transforms.crop import crop, pad
from vistruct.transforms.distort import Distort
from vistruct.transforms.erase import erase
from vistruct.transforms.geometry import flip_diagonal, flip_horizontal, flip_vertical, resize, turn
from vistruct.transforms.jpeg import JpegReencode
from vistruct.transforms.photometric import jitter
from vistruct.transforms.rand_augment import RandAugment
from vistruct.transforms.rotate import rotate

RNG = np.random.default_rng(0)
DEEP = ["uint16", "float32"]


def of(values: np.ndarray) -> Sample:
    return Sample(id="a", image_id="a", seed=3, images=[torch.from_numpy(np.ascontiguousarray(values))])


def made(dtype: str, shape: tuple[int, int, int] = (3, 20, 30)) -> np.ndarray:
    """Values over all of the range, and of floats beyond it: in a unit of their own."""
    return (
        RNG.integers(0, 65536, shape).astype(np.uint16)
        if dtype == "uint16"
        else RNG.normal(0, 900, shape).astype(np.float32)
    )


def unit(dtype: str, shape: tuple[int, int, int] = (3, 20, 30)) -> np.ndarray:
    share = RNG.random(shape).astype(np.float32)
    return share if dtype == "float32" else np.rint(share * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", DEEP)
def test_flips_turns_windows_and_margins_change_no_value(dtype):
    values = made(dtype, (2, 20, 30))
    for move, wanted in [
        (flip_horizontal, values[:, :, ::-1]),
        (flip_vertical, values[:, ::-1]),
        (flip_diagonal, values[:, ::-1, ::-1]),
        (lambda s: turn(s, 1), np.rot90(values, 1, (1, 2))),
        (lambda s: turn(s, 3), np.rot90(values, 3, (1, 2))),
        (lambda s: crop(s, (3, 4, 17, 15)), values[:, 4:15, 3:17]),
        (lambda s: pad(s, (24, 33), (1, 2)), np.pad(values, ((0, 0), (1, 3), (2, 1)))),
    ]:
        found = move(of(values)).images[0].numpy()
        assert found.dtype == values.dtype
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", DEEP)
@pytest.mark.parametrize("size_hw", [(10, 15), (7, 31), (40, 60), (1, 1), (20, 30)])
def test_resizing_is_that_of_float64_up_to_its_rounding(dtype, size_hw):
    values = made(dtype)
    wanted = F.interpolate(
        torch.from_numpy(values.astype(np.float64))[None], size_hw, mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()
    found = resize(of(values), size_hw).images[0].numpy()
    assert found.dtype == values.dtype
    assert np.abs(found.astype(np.float64) - wanted).max() <= (0.75 if dtype == "uint16" else 0.02)


@pytest.mark.parametrize("dtype", DEEP)
def test_rotation_is_opencvs_inside_of_the_picture(dtype):
    y, x = np.mgrid[:40, :40]
    smooth = (np.sin(x / 9) + np.cos(y / 7) + 2) / 4
    values = np.stack([smooth, smooth.T]).astype(np.float64)
    values = (
        np.rint(values * 65535).astype(np.uint16) if dtype == "uint16" else (values * 3000 - 1000).astype(np.float32)
    )
    found = rotate(of(values), 0.4).images[0].numpy().astype(np.float64)
    matrix = cv2.getRotationMatrix2D((19.5, 19.5), -np.degrees(0.4), 1.0)
    for own, channel in zip(found, values, strict=True):
        wanted = cv2.warpAffine(channel.astype(np.float64), matrix, (40, 40), flags=cv2.INTER_LINEAR)
        inside = np.hypot(x - 19.5, y - 19.5) < 18
        assert np.abs(own - wanted)[inside].max() < 0.01 * (channel.max() - channel.min().astype(float))
    assert rotate(of(values), 0.4).images[0].dtype == torch.from_numpy(values).dtype


@pytest.mark.parametrize("dtype", DEEP)
def test_brightness_and_contrast_follow_their_formula_without_losing_a_level(dtype):
    values = unit(dtype, (2, 9, 9))
    scale = full_scale(torch.from_numpy(values).dtype)
    brightness, contrast, _ = (
        1 + 0.2 * (2 * torch.rand(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1)
    ).tolist()
    found = jitter(of(values), 0.2, torch.Generator().manual_seed(5)).images[0].numpy().astype(np.float64) / scale
    bright = np.clip(values.astype(np.float64) / scale * brightness, 0, 1)
    mean = bright.mean(axis=(1, 2), keepdims=True)
    assert np.abs(found - np.clip(mean + contrast * (bright - mean), 0, 1)).max() < 1e-5


@pytest.mark.parametrize("dtype", DEEP)
def test_a_distortion_of_deep_images_is_that_of_their_8_bits_up_to_the_steps_of_those(dtype):
    share = RNG.random((3, 16, 16))
    coarse = np.rint(share * 255)
    deep = (coarse / 255).astype(np.float32)
    deep = np.rint(deep * 65535).astype(np.uint16) if dtype == "uint16" else deep
    for seed in range(12):
        samples = [dataclasses.replace(of(one), seed=seed) for one in (coarse.astype(np.uint8), deep)]
        few, many = (to_unit(Distort()(sample).images[0]) for sample in samples)
        assert (few - many).abs().max() <= 10 / 255  # a step of Pillow's 256 hues is six levels, and contrast adds half
        assert (few - many).abs().mean() <= 1.5 / 255


@given(st.tuples(*[st.integers(0, 65535)] * 3), st.floats(0, 3), st.floats(-90, 90))
def test_saturation_and_hue_are_those_of_hsv(colour, saturation, turn):
    from vistruct.transforms.distort import _in_float_hsv

    shares = [level / 65535 for level in colour]
    hue, strength, value = colorsys.rgb_to_hsv(*shares)
    wanted = colorsys.hsv_to_rgb((hue + turn / 180) % 1, min(1.0, strength * saturation), value)
    found = _in_float_hsv(torch.tensor(shares, dtype=torch.float64).view(3, 1, 1), saturation, turn / 180)
    assert np.allclose(found.flatten(), wanted, atol=1e-6)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("dtype", DEEP)
def test_damage_to_deep_images_is_that_to_8_bits_and_finer(name, dtype):
    coarse = torch.from_numpy(RNG.integers(0, 256, (3, 40, 40)).astype(np.uint8))
    deep = from_unit(to_unit(coarse), torch.uint16 if dtype == "uint16" else torch.float32)
    for severity in SEVERITIES[::2]:
        few, many = (
            corrupt(Sample(id="a", image_id="a", seed=1, images=[one]), name, severity).images[0]
            for one in (coarse, deep)
        )
        assert many.dtype == deep.dtype
        assert (to_unit(few) - to_unit(many)).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("dtype", DEEP)
def test_a_hole_has_the_noise_of_the_picture(dtype):
    values = unit(dtype, (4, 64, 64))
    found = erase(of(values), seed=1).images[0].numpy()
    hole = (found != values).any(axis=0)
    assert 0.02 <= hole.mean() <= 0.34
    spread = values.astype(np.float64).std()
    assert found[:, hole].astype(np.float64).std() == pytest.approx(spread, rel=0.25)


def test_the_margin_of_colours_is_the_mean_colour_in_every_type():
    for dtype in ("uint8", "uint16", "float32"):
        corner = to_unit(pad(of(unit(dtype)), (30, 40)).images[0])[:, -1, -1]
        assert torch.allclose(corner, torch.tensor([124, 116, 104]) / 255, atol=1e-5)


@pytest.mark.parametrize("change", [JpegReencode(), RandAugment()])
@pytest.mark.parametrize("dtype", DEEP)
def test_what_has_8_bits_only_refuses_others(change, dtype):
    with pytest.raises(UserError, match="8"):
        change(of(unit(dtype)))


@pytest.mark.parametrize("change", [
    lambda sample: jitter(sample, 0.2, torch.Generator()), Distort(), lambda sample: corrupt(sample, "haze", 1),
])  # fmt: skip
def test_colours_are_not_changed_where_there_is_no_black_and_white(change):
    with pytest.raises(UserError, match=r"--low"):
        change(of(made("float32")))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"jpeg": JpegReencode()}, "uint16", "`jpeg` is for 8-bit images, and here are uint16"),
    ({"randaug": RandAugment()}, "float32", "`randaug` is for 8-bit"),
    ({"photometric": 0.1}, "raw", "`photometric` changes colours between black and white"),
    ({"distort": Distort()}, "raw", "`distort` changes colours"),
]


@pytest.mark.parametrize(("settings", "pixels", "what"), REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_read(settings, pixels, what):
    with pytest.raises(UserError, match=what):
        Augment(**settings).check(pixels)
    Augment(**settings).check("uint8")


def test_moves_and_holes_are_for_every_type():
    varied = Augment(hflip=True, rot90=True, rotate=1.0, scale=(0.7, 1.3), crop=(16, 16), erase=1.0)
    for pixels in ("uint8", "uint16", "float32", "raw"):
        varied.check(pixels)
    for values in (unit("uint16"), made("float32")):
        after = varied(of(values)).images[0]
        assert after.dtype == torch.from_numpy(values).dtype
        assert tuple(after.shape) == (3, 16, 16)
        assert torch.equal(after, varied(of(values)).images[0])
