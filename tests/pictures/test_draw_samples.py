from __future__ import annotations

import numpy as np
import pytest
import torch
from map_samples import NAMES, Data, labels, map_sample, volume
from PIL import Image

from vistruct.contracts import (
    IGNORED,
    MapPrediction,
    Record,
    Sample,
)
from vistruct.pictures import samples as pictures
from vistruct.pictures.classes import draw_classes
from vistruct.pictures.in_sample import map_in_sample
from vistruct.pictures.maps import draw_map, draw_pair
from vistruct.pictures.samples import draw_case, draw_one


def mapped(label_map: torch.Tensor, name: str = "a", **fields) -> MapPrediction:
    return MapPrediction(id=name, image_id=name, label_map=label_map, class_names=NAMES, **fields)


def same(a: Image.Image | None, b: Image.Image) -> bool:
    return a is not None and np.array_equal(np.asarray(a), np.asarray(b))


def test_a_label_map_on_the_files_grid_is_put_on_the_samples() -> None:
    whole = torch.arange(48, dtype=torch.int16).reshape(6, 8)
    sample = map_sample(images=[torch.zeros(3, 4, 4, dtype=torch.uint8)], origin_xy=(3.0, 2.0), scale_xy=(2.0, 2.0))
    shown = whole[2:4, 3:5].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(map_in_sample(mapped(whole), sample), shown)
    window = mapped(whole[1:, 2:], window_xyxy=(2, 1, 8, 6))
    assert torch.equal(map_in_sample(window, sample), shown)


def test_a_sample_that_was_made_smaller_takes_the_pixels_in_the_middle() -> None:
    whole = torch.arange(81, dtype=torch.int16).reshape(9, 9)
    sample = map_sample(images=[torch.zeros(3, 3, 3, dtype=torch.uint8)], scale_xy=(1 / 3, 1 / 3))
    assert torch.equal(map_in_sample(mapped(whole), sample), whole[1::3, 1::3])


def test_where_nothing_was_predicted_is_ignored() -> None:
    sample = map_sample(images=[torch.zeros(3, 2, 4, dtype=torch.uint8)], origin_xy=(-2.0, 0.0))
    found = map_in_sample(mapped(torch.ones(1, 3, dtype=torch.int16)), sample)
    assert found.tolist() == [[IGNORED, IGNORED, 1, 1], [IGNORED] * 4]
    elsewhere = mapped(torch.ones(1, 1, dtype=torch.int16), window_xyxy=(90, 90, 91, 91))
    assert (map_in_sample(elsewhere, sample) == IGNORED).all()


def test_samples_are_drawn_as_what_they_are() -> None:
    palette = ((0, 0, 0), (1, 2, 3))
    one, pair, known = map_sample(), map_sample(num_images=2), map_sample(label_map=None, image_labels=(1,))
    dataset = Data([one], palette=palette)
    assert same(draw_one(one, dataset), draw_map(one.images[0], labels(), NAMES, palette))
    assert same(draw_one(pair, dataset), draw_pair(*pair.images, labels(), None, NAMES, palette))
    assert same(draw_one(known, dataset), draw_classes(known, None, NAMES))
    bands = map_sample(channels=7, label_map=None)
    assert draw_one(bands, dataset).width > 300


def test_a_slice_is_drawn_in_grey_with_its_neighbours_left_out() -> None:
    one = map_sample(label_map=torch.zeros(12, 16, dtype=torch.int16))
    one.images[0] = torch.stack([torch.full((12, 16), tone, dtype=torch.uint8) for tone in (0, 100, 255)])
    picture = draw_one(one, Data([one], [Record(id="a", images=(), slice=0)]))
    assert np.unique(np.asarray(picture)[:300]).tolist() == [100]


def test_of_a_case_only_slices_that_are_drawn_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = {}, []
    monkeypatch.setattr(pictures, "draw_volume", lambda *values, **named: drawn.update(named, slices=values[0]))

    def ask(sample: Sample) -> list[MapPrediction]:
        asked.append(sample.id)
        return [mapped(labels(seed=1), sample.id)]

    draw_case(volume(), "b", 3, ask)
    assert len(asked) == len(drawn["slices"]) == len(drawn["predictions"]) == 3
    assert all(name.startswith("b") and int(name[3:]) >= 20 for name in asked)
    assert drawn["numbers"] == [int(name[3:]) for name in asked]
    asked.clear()
    draw_case(volume(), "a", 3)
    assert drawn["predictions"] is None
