"""What labels mean is read where it is written, guessed where nothing else can be, and otherwise asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vistruct.contracts import IGNORED
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding

LABELS = np.random.default_rng(0).integers(0, 3, (6, 8)).astype(np.uint8)


def data(root: Path, *labels: np.ndarray, **config: Any) -> MapDataConfig:
    for number, label in enumerate(labels):
        for folder, pixels in (("images", np.zeros((*label.shape[:2], 3), np.uint8)), ("masks", label)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return MapDataConfig(root=root, **config)


def test_labels_without_a_word_are_a_mistake_with_a_coding_to_copy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no word of what the labels mean; there are values .*\(\d.* %\)") as caught:
        data(tmp_path, LABELS * 2).build()
    coding = Coding(**yaml.safe_load(caught.value.fix.partition("in a run file ")[2])["coding"])
    assert coding.values == (0, 2, 4)
    dataset = MapDataConfig(root=tmp_path, coding=coding).build()
    np.testing.assert_array_equal(dataset.truth(0).numpy(), LABELS)


def test_colours_without_a_word_are_a_mistake_with_a_coding_to_copy(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [0, 200, 10], [9, 9, 9]], np.uint8)
    with pytest.raises(UserError, match=r"colours #.*000000") as caught:
        data(tmp_path, colours[LABELS]).build()
    coding = Coding(**yaml.safe_load(caught.value.fix.removeprefix("for example: "))["coding"])
    assert coding.colours == ((0, 0, 0), (0, 200, 10), (9, 9, 9))


@pytest.mark.parametrize("high", [1, 255])
def test_two_values_are_two_classes_and_that_is_said(tmp_path: Path, high: int) -> None:
    mask = (LABELS > 0).astype(np.uint8) * high
    dataset = data(tmp_path, mask).build()
    assert dataset.info.class_names == ("background", "foreground")
    np.testing.assert_array_equal(dataset.truth(0).numpy(), LABELS > 0)
    said = f"coding not said: values of 0 and {high} taken as the first and the second class"
    assert list(dataset.info.dropped) == [said]
    named = MapDataConfig(root=tmp_path, classes=("ground", "roof")).build()
    assert named.info.class_names == ("ground", "roof")
    np.testing.assert_array_equal(named.truth(0).numpy(), LABELS > 0)


def test_one_value_alone_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no word"):
        data(tmp_path, np.zeros((4, 4), np.uint8)).build()


def test_names_of_classes_alone_number_from_0(tmp_path: Path) -> None:
    dataset = data(tmp_path, np.where(LABELS == 1, 255, LABELS).astype(np.uint8), classes=("a", "b", "c")).build()
    np.testing.assert_array_equal(dataset.truth(0).numpy(), np.where(LABELS == 1, IGNORED, LABELS.astype(int)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "sky\nroad\ncar\n"),
        ("masks/classes.txt", "sky\n\nroad\ncar"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,0\nroad,0,200,10\ncar, 9, 9, 9\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:0,200,10::\ncar:9,9,9::\n"),
        ("label_colors.txt", "0 0 0\tsky\n0 200 10\troad\n9 9 9\tcar\n"),
    ],
)
def test_a_list_of_classes_beside_the_labels_is_believed(tmp_path: Path, name: str, text: str) -> None:
    colours = np.array([[0, 0, 0], [0, 200, 10], [9, 9, 9]], np.uint8)
    config = data(tmp_path, LABELS if name.endswith("classes.txt") else colours[LABELS])
    (tmp_path / name).write_text(text)
    dataset = config.build()
    assert dataset.info.class_names == ("sky", "road", "car")
    np.testing.assert_array_equal(dataset.truth(0).numpy(), LABELS)
    (tmp_path / name).write_text(text + "1.5 sky\n")
    if not name.endswith("classes.txt"):
        with pytest.raises(UserError, match="no class with its colour"):
            config.build()


def test_a_value_that_nobody_said_names_its_file(tmp_path: Path) -> None:
    strange = LABELS.copy()
    strange[0, 0] = 9
    with pytest.raises(UserError, match="labels of no class: 9 in 1 of 2 label maps") as caught:
        data(tmp_path, LABELS, strange, classes=("a", "b", "c")).build()
    assert caught.value.where.endswith("1.png")


def test_16_bit_labels_have_values_above_255(tmp_path: Path) -> None:
    values = np.array([0, 300, 65535], np.uint16)
    coding = Coding(classes=("a", "b"), values=(0, 300), ignored=(65535,))
    dataset = data(tmp_path, values[LABELS], coding=coding).build()
    np.testing.assert_array_equal(dataset.truth(0).numpy(), np.array([0, 1, IGNORED])[LABELS])
