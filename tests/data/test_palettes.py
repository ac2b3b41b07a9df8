"""Indexed masks: a number whose colour differs from file to file is a question, and colours that are told decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistruct.data.checks.check import check
from vistruct.data.maps import MapDataConfig
from vistruct.errors import UserError
from vistruct.files.coding import Coding

LABELS = np.arange(48).reshape(6, 8).astype(np.uint8) // 8 % 3  # two rows of each class
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


def masks(root: Path, *orders: tuple[int, int, int]) -> Path:
    """The same labels, with the colours of the classes at other places of the palette of each."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, order in enumerate(orders):
        Image.fromarray(np.full((6, 8, 3), 40 * number, np.uint8)).save(root / "images" / f"{number}.png")
        place = np.argsort(order).astype(np.uint8)  # of each class
        indexed = Image.fromarray(place[LABELS]).convert("P")
        indexed.putpalette(COLOURS[list(order)].tobytes())
        indexed.save(root / "masks" / f"{number}.png")
        assert (np.array(indexed.convert("RGB")) == COLOURS[LABELS]).all()
    return root


def test_one_palette_is_numbers_as_ever(tmp_path: Path) -> None:
    dataset = MapDataConfig(root=masks(tmp_path, (0, 1, 2), (0, 1, 2)), classes=("ground", "roof", "water")).build()
    assert (dataset.truth(1).numpy() == LABELS).all()


def test_palettes_that_differ_are_a_question_and_either_answer_works(tmp_path: Path) -> None:
    root = masks(tmp_path, (0, 1, 2), (0, 2, 1))
    names = ("ground", "roof", "water")
    differ = r"palettes differ, 1 of 2: 1 is #ff0000 in 0\.png and #0000ff in 1\.png"
    with pytest.raises(UserError, match=differ) as caught:
        MapDataConfig(root=root, classes=names).build()
    assert "--classes ground,roof,water --values 0,1,2" in caught.value.fix
    assert "ground,0,0,0 roof,255,0,0 water,0,0,255" in caught.value.fix
    assert not check(root).ok
    by_number = MapDataConfig(root=root, coding=Coding(classes=names, values=(0, 1, 2))).build()
    assert (by_number.truth(1).numpy() == np.array([0, 2, 1])[LABELS]).all()
    (root / "class_dict.csv").write_text("ground,0,0,0\nroof,255,0,0\nwater,0,0,255\n")
    by_colour = MapDataConfig(root=root).build()
    assert by_colour.info.class_names == names
    assert by_colour.class_pixels == {0: 32, 1: 32, 2: 32}
    for index in range(2):
        assert (by_colour.truth(index).numpy() == LABELS).all()
    assert check(root).ok


def test_a_gif_of_one_white_value_is_not_background(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, label in enumerate((LABELS.clip(0, 1) * 255, np.full((6, 8), 255, np.uint8))):
        Image.fromarray(np.full((6, 8, 3), 40 * number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(label).save(tmp_path / "masks" / f"{number}.gif")
    with pytest.raises(UserError, match="palettes differ"):
        MapDataConfig(root=tmp_path).build()
    (tmp_path / "class_dict.csv").write_text("ground,0,0,0\nroof,255,255,255\n")
    assert (MapDataConfig(root=tmp_path).build().truth(1).numpy() == 1).all()
