from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from toy_engine import toy_run

from vistruct.contracts import AnswerPrediction, BoxPrediction, Sample
from vistruct.engine import pictures
from vistruct.engine.draw import draw_prediction
from vistruct.engine.pictures import draw_first_batch, draw_predicted
from vistruct.engine.run import build


def box(xyxy: list[float]) -> BoxPrediction:
    return BoxPrediction(
        id="w",
        image_id="a",
        boxes_xyxy=torch.tensor([xyxy]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.int64),
        class_names=("tree",),
    )


def test_a_prediction_in_the_whole_image_is_drawn_where_it_is_in_the_window():
    sample = Sample(
        id="w",
        image_id="a",
        seed=0,
        images=[torch.zeros(3, 64, 64, dtype=torch.uint8)],
        boxes_xyxy=torch.tensor([[20.0, 20.0, 40.0, 40.0]]),
        labels=torch.zeros(1, dtype=torch.int64),
        origin_xy=(100.0, 200.0),
        scale_xy=(2.0, 2.0),
    )
    drawn = draw_predicted(sample, [box([110.0, 210.0, 120.0, 220.0])])
    expected = draw_prediction(sample.images[0], box([20.0, 20.0, 40.0, 40.0]), truth=sample)
    assert drawn is not None
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_a_prediction_of_another_kind_has_no_picture():
    sample = Sample(id="w", image_id="a", seed=0, images=[])
    assert draw_predicted(sample, [("w", 0.5)]) is None


def test_the_first_batch_is_drawn(tmp_path):
    path = draw_first_batch(build(toy_run(), tmp_path))
    assert path == tmp_path / "samples" / "first_batch.png"
    assert Image.open(path).width > 500


def test_every_question_of_a_sample_is_drawn_with_its_answer_and_with_the_truth_where_that_is_another(monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "draw_conversation", lambda sample: drawn.append(sample.turns))
    asked = [
        AnswerPrediction(id="a", image_id="a", question="How many?", answer="3", truth="3"),
        AnswerPrediction(id="a", image_id="a", question="Where?", answer="", truth="left"),
    ]
    draw_predicted(Sample(id="a", image_id="a", seed=0, images=[]), asked)
    assert [turn.text for turn in drawn[0]] == ["How many?", "3", "Where?", "(nothing)\n(truth: left)"]
