"""Label maps as pictures: colours lie on the pixels they are about, and the legend says what is there."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score, multilabel_confusion_matrix

from vistruct.contracts import IGNORED
from vistruct.pictures import areas as draw_areas
from vistruct.pictures import maps as draw_maps
from vistruct.pictures import primitives as ink
from vistruct.pictures import volume as draw_volume
from vistruct.pictures.areas import LOUD, Key, overlap
from vistruct.pictures.maps import draw_map, draw_map_prediction, draw_pair
from vistruct.pictures.objects import FALSE_ALARM, FOUND, MISSED
from vistruct.pictures.primitives import to_rgb
from vistruct.pictures.volume import evenly

NAMES = ("background", "road", "water")
SIDE = 64  # becomes 448, seven times as large
GREY = 90
QUIET = 55  # of GREY, in a quiet picture: 0.62 of it


def grey(height: int = SIDE, width: int = SIDE, channels: int = 3) -> torch.Tensor:
    return torch.full((channels, height, width), GREY, dtype=torch.uint8)


def square(y: int, x: int, side: int, label: int = 1, into: torch.Tensor | None = None) -> torch.Tensor:
    labels = torch.zeros(SIDE, SIDE, dtype=torch.int16) if into is None else into.clone()
    labels[y : y + side, x : x + side] = label
    return labels


def random_maps(seed: int, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, truth = (torch.randint(num_classes, (SIDE, SIDE), generator=generator, dtype=torch.int16) for _ in "ab")
    truth[:5] = IGNORED
    return prediction, truth


@pytest.fixture
def legends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], str]]:
    """What every legend says, and its note."""
    said: list[tuple[list[Any], str]] = []
    real = ink.with_legend

    def noting(picture: Image.Image, entries: list[Any], note: str, **how: Any) -> Image.Image:
        said.append((list(entries), note))
        return real(picture, entries, note, **how)

    monkeypatch.setattr(draw_maps, "with_legend", noting)
    monkeypatch.setattr(draw_volume, "with_legend", noting)
    return said


def texts(legend: tuple[list[Any], str]) -> list[str]:
    return [text for _, text, _ in legend[0]]


def panel(picture: Image.Image, number: int, count: int = 3, gap: int = 8) -> np.ndarray:
    """Pixels [448, 448, 3] of one of several pictures side by side."""
    width = (picture.width - gap * (count - 1)) // count
    head = round(draw_areas.text_size(Image.new("RGB", (width, width))) * 1.9)
    left = number * (width + gap)
    return np.asarray(picture)[head : head + width, left : left + width]


def loud(colour: tuple[int, int, int]) -> np.ndarray:
    """That colour on a quiet picture."""
    return np.round(np.array(colour, np.float32) * LOUD + QUIET * (1 - LOUD))


def area(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Pixels of the map that are shown in a verdict's colour."""
    return (np.abs(pixels - loud(colour)) <= 1).all(axis=2).sum() / 49


def test_a_class_is_painted_on_its_pixels_and_nowhere_else() -> None:
    picture = np.asarray(draw_map(grey(), square(10, 20, 12), NAMES))[:448]
    rows, columns = np.nonzero((picture != GREY).any(axis=2))
    assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (70, 140, 154, 224)
    assert len(rows) == 84 * 84


def test_the_image_is_seen_through_an_area_and_not_through_its_edge() -> None:
    image = grey()
    image[:, 16, 26] = 200
    picture = np.asarray(draw_map(image, square(10, 20, 12), NAMES)).astype(int)
    inside, edge = picture[115, 185], picture[71, 141]
    assert np.abs(inside - picture[100, 165]).min() > 30
    assert np.abs(edge - ink.CLASS_COLOURS[0]).max() < 12


def test_without_a_background_every_class_is_painted() -> None:
    picture = np.asarray(draw_map(grey(), square(10, 20, 12), ("grass", "road")))[:448]
    assert (picture != GREY).any(axis=2).all()


def test_pixels_that_are_not_counted_are_hatched_and_the_image_is_seen_between() -> None:
    picture = np.asarray(draw_map(grey(), square(0, 0, SIDE, IGNORED), NAMES))[:448].astype(int)
    tones = np.unique(picture.reshape(-1, 3), axis=0)
    assert len(tones) == 2
    assert 0.3 < (picture[..., 0] > 120).mean() < 0.37


def test_shares_in_the_legend_are_of_the_pixels_that_count(legends: list[Any]) -> None:
    labels = square(0, 0, 32, 1, square(32, 0, 16, 2))  # 1024 and 256 of 4096
    labels[:, 48:] = IGNORED  # 1024 more
    draw_map(grey(), labels, NAMES)
    assert texts(legends[0]) == ["road 33.3%", "water 8.3%", "not counted 25.0%"]
    assert legends[0][1] == "background 58.3%"


def test_the_data_sets_own_colours_are_used(legends: list[Any]) -> None:
    palette = ((0, 0, 0), (10, 20, 30), (40, 50, 60))
    draw_map(grey(), square(0, 0, 9, 2), NAMES, palette)
    assert [colour for colour, _, _ in legends[0][0]] == [(40, 50, 60)]


def test_many_classes_are_cut_and_the_rest_counted(legends: list[Any]) -> None:
    labels = (torch.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 40).to(torch.int16)
    draw_map(grey(), labels, [f"c{i}" for i in range(40)])
    assert len(legends[0][0]) == draw_areas.MOST_CLASSES
    assert texts(legends[0])[-1] == "and 25 more classes"


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_are_those_of_scikit_learn(seed: int) -> None:
    prediction, truth = (one.numpy() for one in random_maps(seed))
    counted = truth != IGNORED
    table = multilabel_confusion_matrix(truth[counted], prediction[counted], labels=[0, 1, 2, 3])
    assert overlap(prediction, truth, 4).tolist() == [[t[1, 1], t[0, 1], t[1, 0]] for t in table]


def test_scores_in_the_legend_are_those_of_scikit_learn(legends: list[Any]) -> None:
    prediction, truth = random_maps(0)
    draw_map_prediction(grey(), prediction, truth, NAMES)
    counted = truth != IGNORED
    iou = jaccard_score(truth[counted], prediction[counted], average=None)
    assert texts(legends[0])[:3] == [f"{name} IoU {value:.2f}" for name, value in zip(NAMES, iou, strict=True)]
    assert legends[0][1] == f"{(truth == prediction)[counted].double().mean():.1%} of the pixels right"


def test_right_pixels_are_grey_and_wrong_ones_have_the_colour_of_what_was_said() -> None:
    truth, prediction = square(0, 0, 32, 1), square(0, 16, 32, 2)
    errors = panel(draw_map_prediction(grey(), prediction, truth, NAMES), 2)
    assert area(errors, ink.CLASS_COLOURS[1]) == 32 * 32  # water, said of road and of background
    assert area(errors, draw_areas.BARE) == 32 * 16  # background, said of road
    assert area(errors, ink.CLASS_COLOURS[0]) == 0
    assert (errors == QUIET).all(axis=2).sum() == 49 * (SIDE * SIDE - 48 * 32)


def test_a_single_class_is_found_or_a_false_alarm_or_missed(legends: list[Any]) -> None:
    truth, prediction = square(0, 0, 32), square(0, 8, 32)
    for picture in (
        draw_map_prediction(grey(), prediction, truth, ("background", "tree")),
        draw_pair(grey(), grey(), truth, prediction),
    ):
        verdicts = panel(picture, 2)
        assert area(verdicts, FOUND) == 32 * 24
        assert area(verdicts, FALSE_ALARM) == area(verdicts, MISSED) == 32 * 8
    assert texts(legends[-1]) == ["found 768 px", "false alarm 256 px", "missed 256 px"]
    f1 = f1_score(truth.ravel(), prediction.ravel())
    assert legends[-1][1] == f"changed: F1 {f1:.2f}, IoU {768 / 1280:.2f}"


def test_uncounted_pixels_are_no_verdict(legends: list[Any]) -> None:
    truth = square(0, 0, SIDE, IGNORED)
    verdicts = panel(draw_pair(grey(), grey(), truth, square(0, 0, 32)), 2)
    assert area(verdicts, FOUND) == area(verdicts, FALSE_ALARM) == 0
    assert texts(legends[0])[-1] == "not counted 100.0%"
    assert legends[0][1] == "changed: nothing, and none said"


def test_a_pair_shows_before_and_after_as_they_are() -> None:
    before, after = grey(), grey() + 50
    picture = draw_pair(before, after, square(0, 0, 9))
    assert (panel(picture, 0) == GREY).all()
    assert (panel(picture, 1) == GREY + 50).all()
    assert draw_pair(before, after).width == 2 * 448 + 8


def test_kinds_of_change_have_their_own_colours(legends: list[Any]) -> None:
    names = ("unchanged", "built", "felled")
    errors = panel(draw_pair(grey(), grey(), square(0, 0, 32, 1), square(0, 0, 32, 2), names), 2)
    assert area(errors, ink.CLASS_COLOURS[1]) == 32 * 32
    assert texts(legends[0]) == ["unchanged IoU 1.00", "built IoU 0.00", "felled IoU 0.00"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 3)])
def test_slivers_and_single_pixels_are_drawn(size: tuple[int, int]) -> None:
    labels = torch.ones(size, dtype=torch.int16)
    for picture in (draw_map(grey(*size), labels, NAMES), draw_map_prediction(grey(*size), labels, labels, NAMES)):
        assert min(picture.size) > 20


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_images_of_any_number_of_channels_are_drawn(channels: int) -> None:
    image, labels = grey(channels=channels), square(0, 0, 9)
    assert draw_map(image, labels, NAMES).width == 448
    assert draw_pair(image, image, labels, labels).width > 1300
    assert draw_volume.draw_volume([image], [labels], NAMES).width > 300


def test_a_large_image_is_drawn_smaller_and_that_is_said(legends: list[Any]) -> None:
    picture = draw_map(grey(2048, 1024), torch.zeros(2048, 1024, dtype=torch.int16), NAMES)
    assert picture.width == 512
    assert "drawn at 50% of its size" in legends[0][1]


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels of \(3, 3\) for an image of \(64, 64\)"):
        draw_map(grey(), torch.zeros(3, 3, dtype=torch.int16), NAMES)
    with pytest.raises(ValueError, match="labels from 0 to 3 of 3 classes"):
        draw_map(grey(), square(0, 0, 2, 3), NAMES)
    with pytest.raises(ValueError, match="2 colours for 3 classes"):
        draw_map(grey(), square(0, 0, 2), NAMES, ink.PALETTE[:2])


def test_three_channels_stay_and_others_become_three() -> None:
    image = torch.arange(13, dtype=torch.uint8)[:, None, None].expand(13, 2, 2)
    for channels, shown in ((1, [0, 0, 0]), (2, [0, 1, 0]), (3, [0, 1, 2]), (13, [0, 1, 2])):
        assert to_rgb(image[:channels])[:, 0, 0].tolist() == shown
    assert to_rgb(image, [12, 7, 3])[:, 0, 0].tolist() == [12, 7, 3]
    assert to_rgb(image, [5])[:, 0, 0].tolist() == [5, 5, 5]
    for bad in ([0, 1], [13], [-1]):
        with pytest.raises(ValueError, match="choose one or three"):
            to_rgb(image, bad)


def test_colours_of_classes_differ_to_normal_and_to_colour_blind_eyes() -> None:
    """Distances in CIELAB; deuteranopia and protanopia as Machado, Oliveira and Fernandes (2009) simulate them."""
    eyes = {
        "normal": (np.eye(3), 15.0),
        "protanopia": (np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                                 [-0.003882, -0.048116, 1.051998]]), 10.0),
        "deuteranopia": (np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                   [-0.011820, 0.042940, 0.968881]]), 10.0),
    }  # fmt: skip
    assert len(set(ink.CLASS_COLOURS)) == 20
    for matrix, least in eyes.values():
        seen = [_lab(np.array(colour), matrix) for colour in ink.CLASS_COLOURS]
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > least


def _lab(colour: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = to_xyz @ np.clip(matrix @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_even_a_hundred_classes_have_a_colour_each() -> None:
    key = Key.of([f"c{i}" for i in range(100)])
    assert len(set(key.colours)) == 100


def volume(depth: int = 9, labelled: tuple[int, ...] = (3, 4, 5)) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    slices = [grey() + z for z in range(depth)]
    return slices, [square(0, 0, 16, 1 if z in labelled else 0) for z in range(depth)]


def shown_slices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    captions: list[str] = []
    real = draw_volume.beside
    monkeypatch.setattr(draw_volume, "beside", lambda cells: captions.extend(name for name, _ in cells) or real(cells))
    return captions


def test_of_a_volume_slices_with_labels_are_shown_with_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = shown_slices(monkeypatch)
    draw_volume.draw_volume(*volume(), NAMES, numbers=range(100, 109), most=2)
    assert captions == ["slice 103", "slice 105"]


def test_of_a_volume_without_labels_slices_that_are_not_empty_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.uint8, torch.uint16):
        slices = [one.to(dtype) for one in volume(4)[0]]
        slices[2][0, 0, 0] = 255
        captions = shown_slices(monkeypatch)
        draw_volume.draw_volume(slices, [None] * 4, NAMES)
        assert captions == ["slice 2"]
    draw_volume.draw_volume(volume(2)[0], [None] * 2, NAMES)  # all empty: all of them
    assert captions[1:] == ["slice 0", "slice 1"]


def test_dice_of_a_volume_is_over_all_its_slices(legends: list[Any]) -> None:
    slices, truth = volume()
    prediction = [square(0, 8, 16, 1 if z == 3 else 0) for z in range(9)]
    draw_volume.draw_volume(slices, truth, NAMES, predictions=prediction, most=1)
    dice = f1_score(torch.stack(truth).ravel(), torch.stack(prediction).ravel(), average=None)
    assert texts(legends[0]) == [f"background Dice {dice[0]:.2f}", f"road Dice {dice[1]:.2f}"]
    assert "1 of 9 slices" in legends[0][1]


def test_the_middle_channel_of_a_slice_is_shown() -> None:
    image = torch.stack([torch.full((SIDE, SIDE), tone, dtype=torch.uint8) for tone in (10, 100, 200)])
    picture = np.asarray(draw_volume.draw_volume([image], [None], NAMES))
    assert (picture[60:300, 60:300] == 100).all()


def test_a_volume_without_slices_or_with_too_few_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="0 slices"):
        draw_volume.draw_volume([], [], NAMES)
    with pytest.raises(ValueError, match="9 slices, 8 label maps"):
        draw_volume.draw_volume(volume()[0], volume()[1][:8], NAMES)


@pytest.mark.parametrize(("number", "most"), [(0, 3), (1, 1), (2, 5), (10, 1), (10, 2), (10, 3), (97, 12)])
def test_choosing_evenly_takes_the_ends_and_no_one_twice(number: int, most: int) -> None:
    chosen = evenly(range(number), most)
    assert len(set(chosen)) == len(chosen) == min(number, most)
    if 2 <= most < number:
        assert (chosen[0], chosen[-1]) == (0, number - 1)
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 1
