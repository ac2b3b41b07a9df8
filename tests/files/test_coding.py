"""Label rasters in numbers and colours, and the traps among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistruct.contracts import IGNORED
from vistruct.errors import UserError
from vistruct.files.coding import Coding

NAMES = ("ground", "road", "water")
COLOURS = ((0, 0, 0), (255, 255, 0), (0, 0, 255))


@pytest.mark.parametrize(
    "coding",
    [
        Coding(classes=NAMES),
        Coding(classes=NAMES, values=(1, 2, 7), ignored=(0,)),
        Coding(classes=NAMES, values=(10, 500, 40000)),
        Coding(classes=NAMES, colours=COLOURS, ignored_colours=((255, 255, 255),)),
    ],
)
@given(seed=st.integers(0, 999))
def test_decode_reads_back_what_encode_wrote(coding, seed):
    label_map = np.random.default_rng(seed).integers(-1, 3, (5, 7)).astype(np.int16)
    found = coding.decode(coding.encode(label_map), "here")
    assert found.dtype == np.int16
    assert np.array_equal(found, label_map)


def test_without_a_word_values_are_the_classes_numbers_and_255_is_ignored():
    found = Coding(classes=NAMES).decode(np.array([[0, 1], [2, 255]], np.uint8), "here")
    assert found.tolist() == [[0, 1], [2, IGNORED]]


def test_zero_can_be_the_value_that_is_not_counted():
    coding = Coding(classes=NAMES, values=(1, 2, 3), ignored=(0,))
    assert coding.decode(np.array([[0, 1, 2, 3]], np.uint8), "here").tolist() == [[IGNORED, 0, 1, 2]]


def test_a_mask_of_0_and_255_read_as_numbers_of_classes_counts_no_pixel_of_the_object_and_so_needs_a_coding():
    raster = np.array([[0, 255]], np.uint8)
    assert Coding(classes=("no", "yes"), ignored=()).values is None
    with pytest.raises(UserError, match="labels of no class: 255"):
        Coding(classes=("no", "yes"), ignored=()).decode(raster, "mask.png")
    assert Coding(classes=("no", "yes"), values=(0, 255), ignored=()).decode(raster, "mask.png").tolist() == [[0, 1]]


def test_lossy_masks_are_told_apart_by_a_threshold():
    raster = np.array([[0, 3, 127, 128, 250, 255]], np.uint8)
    coding = Coding(classes=("unchanged", "changed"), threshold=128)
    assert coding.decode(raster, "mask.jpg").tolist() == [[0, 0, 0, 1, 1, 1]]
    assert coding.decode(np.stack([raster] * 3, axis=-1), "mask.jpg").tolist() == [[0, 0, 0, 1, 1, 1]]


def test_numbers_written_three_times_are_numbers():
    raster = np.stack([np.array([[0, 1, 2]], np.uint8)] * 3, axis=-1)
    assert Coding(classes=NAMES).decode(raster, "here").tolist() == [[0, 1, 2]]


def test_strange_values_stop_by_name_or_are_ignored_where_asked_for():
    raster = np.array([[0, 9, 77]], np.uint8)
    with pytest.raises(UserError, match="labels of no class: 9, 77") as caught:
        Coding(classes=NAMES).decode(raster, "a.png")
    assert caught.value.where == "a.png"
    assert Coding(classes=NAMES, others="ignored").decode(raster, "a.png").tolist() == [[0, IGNORED, IGNORED]]
    with pytest.raises(UserError, match="#010203"):
        Coding(classes=NAMES, colours=COLOURS).decode(np.array([[[1, 2, 3]]], np.uint8), "a.png")


def test_colours_and_numbers_are_not_taken_for_each_other():
    with pytest.raises(UserError, match="written in colours, and numbers are meant"):
        Coding(classes=NAMES).decode(np.array([[[0, 0, 9]]], np.uint8), "a.png")
    with pytest.raises(UserError, match="written in numbers, and colours are meant"):
        Coding(classes=NAMES, colours=COLOURS).decode(np.zeros((2, 2), np.uint8), "a.png")


def test_pixels_without_a_class_need_a_value_that_says_so():
    with pytest.raises(UserError, match="no value says so"):
        Coding(classes=NAMES, ignored=()).encode(np.array([[IGNORED]]))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"values": (1, 2)}, "2 values for 3"),
        ({"colours": COLOURS[:1]}, "1 colours"),
        ({"palette": COLOURS[:1]}, "1 palette"),
        ({"threshold": 128}, "two classes"),
        ({"others": "drop"}, "others"),
    ],
)
def test_codings_that_do_not_fit_are_refused(values, what):
    with pytest.raises(UserError, match=what):
        Coding(classes=NAMES, **values)
