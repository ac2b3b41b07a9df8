"""Values of any kind as channels of 8 bits."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from vistruct.errors import UserError
from vistruct.files.decode import SAY
from vistruct.files.intake import CT_WINDOWS, Intake

RNG = np.random.default_rng(0)


def test_a_range_is_a_straight_line_between_0_and_255_and_clips_outside():
    values = RNG.integers(0, 65536, (2, 7, 9)).astype(np.uint16)
    intake = Intake(dtype="uint8", low=(1000, 2000), high=(30000, 2001))
    found = intake.taken(values, intake.ranges(values))
    for channel, (low, high) in enumerate([(1000, 30000), (2000, 2001)]):
        wanted = np.floor(np.interp(values[channel], [low, high], [0, 255]) + 0.5)
        assert np.abs(found[channel].numpy() - wanted).max() <= 1  # float32 at a half


def test_one_range_serves_all_channels():
    values = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    one, three = Intake(dtype="uint8", low=(-1,), high=(2,)), Intake(dtype="uint8", low=(-1, -1, -1), high=(2, 2, 2))
    assert torch.equal(one.taken(values, one.ranges(values)), three.taken(values, three.ranges(values)))


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_ct_windows_are_known_by_name(name):
    low, high = CT_WINDOWS[name]
    values = np.array([[[low - 100, low, (low + high) / 2, high, high + 100]]], np.float32)
    intake = Intake(dtype="uint8", window=name)
    assert intake.taken(values, intake.ranges(values))[0].flatten().tolist() == [0, 0, 128, 255, 255]


def test_percentiles_are_of_the_whole_and_leave_out_what_is_not_finite():
    whole = np.full((1, 10, 10), np.nan, np.float32)
    whole[0, 2:, :] = np.arange(80).reshape(8, 10)
    intake = Intake(dtype="uint8", percentiles=(5, 95))
    low, high = intake.ranges(whole)
    assert (low[0], high[0]) == (np.percentile(np.arange(80), 5), np.percentile(np.arange(80), 95))
    assert intake.taken(whole[:, :2], (low, high)).eq(0).all()


def test_a_constant_image_has_a_range_all_the_same():
    values = np.full((1, 3, 3), 7, np.int16)
    intake = Intake(dtype="uint8", percentiles=(1, 99))
    assert intake.taken(values, intake.ranges(values)).eq(0).all()


def test_bytes_stay_as_they_are_and_a_single_band_becomes_grey_in_colour_unless_told_otherwise():
    values = RNG.integers(0, 256, (1, 3, 4), np.uint8)
    assert np.array_equal(Intake(channels=1).taken(values).numpy(), values)
    for repeated in (Intake().taken(values), Intake(channels=3).taken(values)):
        assert repeated.shape == (3, 3, 4)
        assert all(np.array_equal(channel.numpy(), values[0]) for channel in repeated)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Intake(dtype="uint8", low=(0,), high=(1,), window="lung"), "two ranges"),
        (lambda: Intake(dtype="uint8", window="lungs"), "no CT window"),
        (lambda: Intake(dtype="uint8", low=(1,), high=(1,)), "are no ranges"),
        (lambda: Intake(dtype="uint8", low=(1, 2), high=(3,)), "are no ranges"),
        (lambda: Intake(dtype="uint8", percentiles=(99, 1)), "percentiles"),
        (lambda: Intake(dtype="uint8", bands=(0,)), "count from 1"),
        (lambda: Intake(dtype="uint8", low=(0, 0), high=(1, 1)).ranges(np.zeros((3, 1, 1))), "2 ranges for 3 channels"),
        (lambda: Intake(dtype="uint8", percentiles=(1, 99)).ranges(np.full((1, 2, 2), np.nan)), "no finite"),
        (lambda: Intake().taken(np.zeros((1, 2, 2), np.uint16)), "uint16, and no range"),
        (lambda: Intake(channels=3).taken(np.zeros((2, 2, 2), np.uint8)), "2 bands cannot become 3"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, what):
    with pytest.raises(UserError, match=what):
        make()


def test_what_is_suggested_for_values_without_a_range_fits_any_values() -> None:
    """No fixed range in the words: it would make scenes of other values all white or all black."""
    assert "--percentiles 1,99" in SAY
    assert not re.search(r"--(low|high) \d", SAY)
