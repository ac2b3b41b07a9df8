"""JPEG compression: Pillow's pixels, a function of the seed, qualities equally often and within their range."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vistruct.contracts import Sample
from vistruct.errors import UserError
from vistruct.samples import trees
from vistruct.transforms import jpeg
from vistruct.transforms.augment import Augment
from vistruct.transforms.jpeg import JpegReencode, reencode

SCENE = np.asarray(Image.open(trees().test.with_suffix(".jpg")).convert("RGB").crop((0, 0, 75, 53)))
IMAGE = torch.from_numpy(SCENE.copy()).permute(2, 0, 1)


def sample(seed: int = 0, num_images: int = 1) -> Sample:
    return Sample(id="a", image_id="a", seed=seed, images=[IMAGE.clone() for _ in range(num_images)])


@pytest.mark.parametrize("quality", [1, 75, 88, 100])
@pytest.mark.parametrize("contiguous", [True, False])
def test_the_pixels_are_those_that_pillow_saves_and_reads(quality: int, contiguous: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(SCENE).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer)).astype(int)
    after = reencode(IMAGE.contiguous() if contiguous else IMAGE, quality)
    assert np.abs(after.permute(1, 2, 0).numpy() - expected).max() <= 1
    assert np.abs(SCENE - expected).max() > 1  # it does something


def test_the_same_seed_gives_the_same_image_whatever_happened_before() -> None:
    first = JpegReencode()(sample(7)).images[0]
    torch.manual_seed(99)
    assert torch.equal(JpegReencode()(sample(7)).images[0], first)


def test_qualities_come_equally_often_and_each_image_of_a_sample_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def note(image: torch.Tensor, quality: int) -> torch.Tensor:
        drawn.append(quality)
        return image

    monkeypatch.setattr(jpeg, "reencode", note)
    for seed in range(650):
        JpegReencode()(sample(seed, num_images=2))
    counts = Counter(drawn)
    assert set(counts) == set(range(75, 101))
    assert min(counts.values()) > 25  # of 50
    assert any(one != other for one, other in zip(drawn[::2], drawn[1::2], strict=True))


def test_it_comes_last_and_leaves_the_other_variations_as_they_were() -> None:
    plain = Augment(hflip=True, photometric=0.3)(sample(3))
    both = Augment(hflip=True, photometric=0.3, jpeg=JpegReencode(low=90, high=90))(sample(3))
    assert torch.equal(both.images[0], reencode(plain.images[0], 90))
    assert not Augment(jpeg=JpegReencode()).moves_things


def test_one_pixel_and_no_image_pass() -> None:
    one = dataclasses.replace(sample(), images=[torch.full((3, 1, 1), 9, dtype=torch.uint8)])
    assert JpegReencode()(one).images[0].flatten().tolist() == [9, 9, 9]
    assert JpegReencode()(dataclasses.replace(sample(), images=[])).images == []


def test_an_image_that_the_format_cannot_hold_is_named() -> None:
    long: Any = torch.zeros(3, 1, 65_501, dtype=torch.uint8)
    with pytest.raises(UserError, match="65501 x 1"):
        JpegReencode()(dataclasses.replace(sample(), images=[long]))


def test_a_range_of_qualities_that_is_none_is_an_error() -> None:
    with pytest.raises(UserError, match="no range"):
        JpegReencode(low=90, high=80)
