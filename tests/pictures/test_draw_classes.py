"""Classes of images as pictures: bars are as long as scores, colours say who was right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vistruct.contracts import ClassPrediction, Sample
from vistruct.pictures.classes import SIDE, draw_classes
from vistruct.pictures.objects import FALSE_ALARM, FOUND, MISSED
from vistruct.pictures.primitives import FAINT, INK, Colour

NAMES = tuple(f"class {i}" for i in range(8))


def sample(truth: tuple[int, ...] | None, size: tuple[int, int] = (32, 32), channels: int = 3) -> Sample:
    return Sample(id="a", image_id="a", seed=0, images=[torch.zeros(channels, *size, dtype=torch.uint8)],
                  image_labels=truth)  # fmt: skip


def said(*scores: float, multi_label: bool = False) -> ClassPrediction:
    return ClassPrediction(
        id="a", image_id="a", scores=torch.tensor(scores), class_names=NAMES[: len(scores)], is_multi_label=multi_label
    )


def bars(picture) -> list[tuple[Colour, int]]:
    """Colour and length of every bar, from top to bottom: they begin in the middle."""
    pixels = np.asarray(picture)[SIDE:]
    found = []
    for row in pixels[1:][(pixels[1:, SIDE // 2 + 6] != pixels[:-1, SIDE // 2 + 6]).any(axis=1)]:
        colour = tuple(int(v) for v in row[SIDE // 2 + 6])
        if colour in (FOUND, FALSE_ALARM, MISSED, FAINT, INK):
            found.append((colour, int((row[SIDE // 2 : SIDE - 64] == colour).all(axis=1).sum())))
    return found


@pytest.mark.parametrize(
    ("truth", "colours"),
    [
        ((0,), [FOUND, FAINT, FAINT]),
        ((1,), [FALSE_ALARM, MISSED, FAINT]),
        ((), [FALSE_ALARM, FAINT, FAINT]),
        (None, [INK, FAINT, FAINT]),
    ],
)
def test_the_colour_says_whether_the_highest_score_is_right(
    truth: tuple[int, ...] | None, colours: list[Colour]
) -> None:
    assert [colour for colour, _ in bars(draw_classes(sample(truth), said(0.5, 0.3, 0.2)))] == colours


def test_of_several_labels_all_from_one_half_on_are_said() -> None:
    picture = draw_classes(sample((0, 2)), said(0.9, 0.5, 0.4, 0.2, multi_label=True))
    assert [colour for colour, _ in bars(picture)] == [FOUND, FALSE_ALARM, MISSED, FAINT]


def test_bars_are_as_long_as_the_scores() -> None:
    long, short = bars(draw_classes(sample((0,)), said(0.8, 0.4)))
    assert long[1] == pytest.approx(2 * short[1], abs=6)


def test_a_true_class_below_the_five_highest_is_shown_too() -> None:
    scores = (0.3, 0.2, 0.15, 0.12, 0.1, 0.09, 0.04)
    assert len(bars(draw_classes(sample((0,)), said(*scores)))) == 5
    assert [colour for colour, _ in bars(draw_classes(sample((5,)), said(*scores)))][-1] == MISSED


@pytest.mark.parametrize("truth", [(0,), (0, 1, 2), (), None])
def test_without_a_prediction_the_truth_is_written(truth: tuple[int, ...] | None) -> None:
    picture = np.asarray(draw_classes(sample(truth), None, NAMES))
    assert picture.shape[0] > SIDE + 20
    assert len(np.unique(picture[SIDE:].reshape(-1, 3), axis=0)) > 2


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_shape_are_drawn_in_one_width(size: tuple[int, int], channels: int) -> None:
    assert draw_classes(sample((0,), size, channels), said(0.9, 0.1)).width == SIDE


def test_a_sample_without_an_image_is_drawn() -> None:
    assert draw_classes(Sample(id="a", image_id="a", seed=0, images=[], image_labels=(1,)), None, NAMES).width == SIDE
