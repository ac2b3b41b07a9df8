"""Classes of given boxes against scikit-learn, and what does not belong together refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score, top_k_accuracy_score

from vistruct.contracts import BoxPrediction, Objects
from vistruct.engine.evaluate import Measured
from vistruct.errors import UserError
from vistruct.metrics.identified import Identified, IdentifiedConfig
from vistruct.study.compare import side_by_side

NAMES = tuple("abcdefg")


def told(id: str, truth: np.ndarray, scores: np.ndarray, image_id: str = "") -> BoxPrediction:
    found = torch.from_numpy(scores)
    objects = Objects(
        labels=found.argmax(dim=1),
        boxes_xyxy=torch.rand(len(truth), 4),
        extra={"class_scores": found, "truth": torch.from_numpy(truth)},
    )
    return BoxPrediction(id=id, image_id=image_id or id, objects=objects, class_names=NAMES)


def drawn(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Truths and scores of twelve images, some of no box; the seed is of the scores alone."""
    numbers, rng = np.random.default_rng(9).integers(0, 6, 12), np.random.default_rng(seed)
    truths = {f"{i}": np.random.default_rng(i).integers(0, 6, n) for i, n in enumerate(numbers)}  # none of class g
    scores = {id: rng.dirichlet(np.ones(7), len(truth)) + np.eye(7)[truth] * 0.02 for id, truth in truths.items()}
    return truths, {id: own.astype(np.float32).reshape(-1, 7) for id, own in scores.items()}


def measured(seed: int) -> Identified:
    truths, scores = drawn(seed)
    metric = Identified(truths, NAMES)
    metric.update([metric.condense(told(id, truths[id], scores[id])) for id in reversed(truths)])
    return metric


def test_figures_are_those_of_scikit_learn():
    truths, scores = drawn(0)
    y, s = np.concatenate(list(truths.values())), np.concatenate(list(scores.values()))
    numbers, details = measured(0).compute(), measured(0).details()
    guess = s.argmax(axis=1)
    assert numbers["OA"] == pytest.approx(accuracy_score(y, guess))
    assert numbers["top5"] == pytest.approx(top_k_accuracy_score(y, s, k=5, labels=range(7)))
    assert numbers["mAcc"] == pytest.approx(recall_score(y, guess, average="macro", labels=range(6)))
    known = sorted({*y, *guess})
    assert numbers["mF1"] == pytest.approx(f1_score(y, guess, average="macro", labels=known))
    assert details["confusion"] == confusion_matrix(y, guess, labels=range(7)).tolist()
    assert (numbers["boxes"], numbers["OA_constant"]) == (len(y), np.bincount(y).max() / len(y))
    assert math.isnan(numbers["recall/g"])


def test_each_image_is_kept_so_that_before_and_after_are_paired():
    before, after = (Measured(numbers=one.compute(), details=one.details()) for one in map(measured, (1, 2)))
    found = {number.name: number for number in side_by_side("identified", before, after)}
    for name in ("OA", "mAcc", "top5", "recall/a"):
        interval = found[name].interval
        assert interval is not None, name
        assert interval.low <= found[name].difference <= interval.high
    assert found["top5"].interval.low < found["top5"].interval.high
    assert found["boxes"].interval is None


def test_windows_of_an_image_are_one_image():
    truth = np.array([0, 1])
    metric = Identified({"w1": truth, "w2": truth}, NAMES)
    metric.update([told(id, truth, np.eye(7, dtype=np.float32)[[0, 2]], "whole") for id in ("w1", "w2")])
    assert list(metric.details()["images"]) == ["whole"]
    assert metric.details()["per_image"]["top5"] == {"whole": [4.0, 4.0]}
    assert metric.compute()["OA"] == 0.5


def test_other_boxes_and_detections_are_refused():
    truth, scores = np.array([0, 1]), np.eye(7, dtype=np.float32)[[0, 1]]
    metric = Identified({"a": truth}, NAMES)
    with pytest.raises(ValueError, match="in their order"):
        metric.update([told("a", truth[::-1].copy(), scores)])
    with pytest.raises(UserError, match="does not have"):
        metric.update([told("b", truth, scores)])
    with pytest.raises(UserError, match="no number"):
        metric.update([told("a", truth, scores * np.nan)])
    detection = BoxPrediction(id="a", image_id="a", objects=Objects().tensors(), class_names=NAMES)
    with pytest.raises(UserError, match="that were found"):
        metric.update([detection])
    metric.update([told("a", truth, scores)])
    with pytest.raises(ValueError, match="twice"):
        metric.update([told("a", truth, scores)])
    assert IdentifiedConfig().higher_is_better("boxes") is None
    assert IdentifiedConfig().higher_is_better("top5") is True
