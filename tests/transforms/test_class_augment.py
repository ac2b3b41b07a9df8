"""What classifiers are trained with: RandAugment, erasing; and pairs whose images change places."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from vistruct.contracts import Objects, Sample
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.maps import MapDataConfig
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.ops.seeds import derive
from vistruct.transforms.augment import Augment
from vistruct.transforms.erase import erase
from vistruct.transforms.fill import MEAN_COLOUR
from vistruct.transforms.rand_augment import RandAugment
from vistruct.transforms.seeded import seeded_python, seeded_torch


def noise(seed: int, channels: int = 3, size_hw: tuple[int, int] = (24, 32)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, *size_hw), generator=generator, dtype=torch.uint8)


def sample(*images: Tensor, seed: int = 0, **fields: object) -> Sample:
    return Sample(id="a", image_id="a", seed=seed, images=list(images), **fields)


def test_randaugment_is_timms_of_the_same_draws() -> None:
    """The name is how timm writes n=2, m=9, a spread of 0.5, and the operations that grow stronger."""
    timms = rand_augment_transform("rand-m9-n2-mstd0.5-inc1", {"img_mean": MEAN_COLOUR})
    changed = 0
    for seed in range(20):
        image = noise(seed)
        state = derive(seed, "augment", "randaug")
        random.seed(state)
        np.random.seed(state % 2**32)  # noqa: NPY002
        expected = np.array(timms(Image.fromarray(image.permute(1, 2, 0).numpy())))
        after = RandAugment()(sample(image, seed=seed)).images[0]
        assert np.array_equal(after.permute(1, 2, 0).numpy(), expected)
        changed += not torch.equal(after, image)
    assert changed >= 10  # each of the two operations half of the time


def test_no_draw_of_randaugment_fails_and_none_is_all_black() -> None:
    """A full magnitude, which the spread reaches once in a while, would leave no bits of a colour."""
    image = noise(0, size_hw=(8, 8))
    for magnitude in (9, 10):
        vary = RandAugment(magnitude=magnitude)
        assert all(vary(sample(image, seed=seed)).images[0].any() for seed in range(300))


def test_randaugment_leaves_the_global_states_and_does_not_follow_them() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    first = RandAugment()(sample(noise(0), seed=4)).images[0]
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])  # noqa: NPY002
    random.random()
    np.random.rand()  # noqa: NPY002
    assert torch.equal(RandAugment()(sample(noise(0), seed=4)).images[0], first)


def test_states_come_back_after_an_error_too() -> None:
    before = random.getstate(), torch.random.get_rng_state()

    def fail() -> None:
        with seeded_python(3), seeded_torch(3):
            random.random()
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (sample(noise(0), objects=Objects(labels=torch.tensor([1]))), "boxes"),
        (sample(noise(0), label_map=torch.zeros(24, 32, dtype=torch.int16)), "boxes"),
        (sample(noise(0, 4)), "4 channels"),
    ],
)
def test_randaugment_refuses_what_has_a_place_and_what_has_no_colours(wrong: Sample, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Augment(randaug=RandAugment())(wrong)


def test_data_that_say_where_something_is_refuse_randaugment_before_anything_is_read() -> None:
    augment = Augment(randaug=RandAugment())
    for make in (
        lambda: BoxDataConfig(annotation=Path("a.json"), augment=augment),
        lambda: MapDataConfig(root=Path("a"), augment=augment),
        lambda: VolumeDataConfig(root=Path("a"), augment=augment),
    ):
        with pytest.raises(UserError, match="randaug"):
            make()
    assert BoxDataConfig(annotation=Path("a.json"), augment=Augment(hflip=True, erase=0.2)).augment.hflip


def test_erasing_covers_one_rectangle_of_the_promised_size() -> None:
    shares = []
    for seed in range(60):
        black = torch.zeros(3, 40, 50, dtype=torch.uint8)
        after = erase(sample(black), seed).images[0]
        rows, columns = (after != 0).any(dim=0).nonzero(as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        shares.append(height * width / 2000)
        covered = after[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].float()
        if covered[0].numel() > 200:
            for channel, mean in zip(covered, MEAN_COLOUR, strict=True):
                assert abs(float(channel.mean()) - mean) < 20
                assert 40 < float(channel.std()) < 75
        assert not black.any()
    assert 0.01 < min(shares) < 0.1
    assert 0.25 < max(shares) < 0.36


def test_erasing_comes_as_often_as_asked_and_at_one_place_of_a_pair() -> None:
    images = noise(0), noise(1)
    came = [not torch.equal(Augment(erase=0.25)(sample(images[0], seed=s)).images[0], images[0]) for s in range(200)]
    assert 30 < sum(came) < 70
    one, other = erase(sample(*images), 5).images
    changed = [(a != b).any(dim=0) for a, b in zip((one, other), images, strict=True)]
    assert torch.equal(one[:, changed[0] & changed[1]], other[:, changed[0] & changed[1]])


def test_bands_are_covered_with_their_own_mean_and_one_pixel_is_left_alone() -> None:
    bands = torch.stack([torch.full((40, 50), value, dtype=torch.uint8) for value in (3, 90, 250, 7, 8)])
    assert torch.equal(erase(sample(bands), 1).images[0], bands)  # no spread: noise is the mean itself
    dot = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    assert torch.equal(erase(sample(dot), 1).images[0], dot)


def test_before_and_after_change_places_as_often_as_asked_and_the_labels_stay() -> None:
    before, after = noise(0), noise(1)
    labels = torch.zeros(24, 32, dtype=torch.int16)
    swapped = 0
    for seed in range(200):
        found = Augment(exchange=0.5)(sample(before, after, seed=seed, label_map=labels))
        pair = (after, before) if torch.equal(found.images[0], after) else (before, after)
        assert all(torch.equal(a, b) for a, b in zip(found.images, pair, strict=True))
        assert torch.equal(found.label_map, labels)
        swapped += pair[0] is after
    assert 70 < swapped < 130
    always = Augment(exchange=1.0)(sample(before, after))
    assert torch.equal(always.images[0], after)


@pytest.mark.parametrize("number", [1, 3])
def test_what_is_no_pair_cannot_be_exchanged(number: int) -> None:
    with pytest.raises(UserError, match="images"):
        Augment(exchange=0.5)(sample(*[noise(0)] * number))


@pytest.mark.parametrize(
    "one", [{"crop": (9, 9)}, {"resized_crop": {"height": 8, "width": 8}}, {"exchange": 0.5}, {"randaug": {}}]
)
def test_whatever_makes_words_about_an_image_untrue_says_that_it_moves_things(one: dict[str, object]) -> None:
    assert Augment(**one).moves_things
    assert not Augment(erase=0.3, distort={}).moves_things


def test_every_setting_survives_being_written_down() -> None:
    settings = [
        Augment(fit=(20, 30), scale=(0.5, 2), scale_draw="even", crop=(16, 16), crop_max_share=0.75, exchange=0.5),
        Augment(distort={"hue": 10, "together": True}, erase=0.25, randaug={"magnitude": 5, "spread": 0.1}),
        Augment(resized_crop={"height": 8, "width": 9, "area": (0.2, 1)}),
    ]
    for one in settings:
        assert Augment.model_validate(json.loads(json.dumps(one.model_dump(mode="json")))) == one


def test_a_sample_is_not_changed_by_what_is_made_of_it() -> None:
    everything = Augment(
        hflip=True, rotate=1.0, fit=(20, 20), crop=(16, 16), exchange=1.0, distort={"chance": 1}, erase=1.0
    )
    before = sample(noise(0), noise(1), label_map=torch.zeros(24, 32, dtype=torch.int16))
    kept = dataclasses.replace(before, images=[image.clone() for image in before.images])
    everything(before)
    assert all(torch.equal(a, b) for a, b in zip(before.images, kept.images, strict=True))
