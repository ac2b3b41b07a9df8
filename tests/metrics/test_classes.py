"""Figures of classifiers, against scikit-learn and torchmetrics."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.classification as tm

from vistruct.contracts import ClassPrediction
from vistruct.errors import UserError
from vistruct.metrics.classes import Classes, average_precision


def measured(
    truths: list[tuple[int, ...]], scores: np.ndarray, threshold: float = 0.5, *, several: bool = False
) -> Classes:
    names = tuple(f"c{k}" for k in range(scores.shape[1]))
    metric = Classes({f"{n}.png": truth for n, truth in enumerate(truths)}, names, threshold)
    metric.update(
        [
            ClassPrediction(
                id=f"{n}.png",
                image_id=f"{n}.png",
                scores=torch.from_numpy(row),
                class_names=names,
                is_multi_label=several,
            )
            for n, row in enumerate(scores)
        ]
    )
    return metric


def softmax(rng: np.random.Generator, number: int, classes: int, levels: int | None = None) -> np.ndarray:
    raw = rng.normal(size=(number, classes))
    raw = raw if levels is None else np.round(raw * levels) / levels  # ties
    return np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("number", "classes", "levels"), [(200, 10, None), (50, 3, 1), (7, 10, 1), (1, 2, None)])
def test_single_label_figures_are_scikit_learns(seed: int, number: int, classes: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    truth, scores = rng.integers(0, classes, number), softmax(rng, number, classes, levels)
    metric = measured([(int(t),) for t in truth], scores)
    found, chosen, labels = metric.compute(), scores.argmax(axis=1), list(range(classes))
    assert metric.details()["confusion"] == sk.confusion_matrix(truth, chosen, labels=labels).tolist()
    occurring = sorted({*truth.tolist(), *chosen.tolist()})  # others are in no mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["OA"] == pytest.approx(sk.accuracy_score(truth, chosen))
        assert found["mAcc"] == pytest.approx(sk.balanced_accuracy_score(truth, chosen))
        assert found["mF1"] == pytest.approx(sk.f1_score(truth, chosen, labels=occurring, average="macro"))
        each = sk.precision_recall_fscore_support(truth, chosen, labels=labels, zero_division=np.nan)
    for k in labels:
        is_true, is_chosen = (truth == k).any(), (chosen == k).any()
        wanted = [0.0 if is_true and not is_chosen else each[0][k], each[1][k], each[2][k]]
        if not is_true and not is_chosen:
            wanted = [math.nan] * 3
        numbers = [found[f"{name}/c{k}"] for name in ("precision", "recall", "F1")]
        assert numbers == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_top_five_and_the_means_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, scores = rng.integers(0, 12, 100), softmax(rng, 100, 12)
    found = measured([(int(t),) for t in truth], scores).compute()
    given = torch.from_numpy(scores), torch.from_numpy(truth)
    for name, metric in [
        ("OA", tm.MulticlassAccuracy(12, average="micro")),
        ("top5", tm.MulticlassAccuracy(12, average="micro", top_k=5)),
        ("mAcc", tm.MulticlassAccuracy(12, average="macro")),
        ("mF1", tm.MulticlassF1Score(12, average="macro")),
    ]:
        assert found[name] == pytest.approx(float(metric(*given)), abs=1e-6)


def test_top_five_is_no_figure_of_five_classes() -> None:
    scores = softmax(np.random.default_rng(0), 4, 5)
    assert "top5" not in measured([(0,)] * 4, scores).compute()


def test_of_equal_scores_the_lower_number_counts_as_the_higher() -> None:
    scores = np.full((8, 8), 1 / 8)
    found = measured([(k,) for k in range(8)], scores).compute()
    assert found["OA"] == 1 / 8
    assert found["top5"] == 5 / 8


def test_a_class_that_occurs_nowhere_is_in_no_mean() -> None:
    found = measured([(0,), (1,)], np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])).compute()
    assert found["mAcc"] == found["mF1"] == found["OA"] == 1.0
    assert all(math.isnan(found[f"{name}/c2"]) for name in ("precision", "recall", "F1"))


def test_a_class_that_is_predicted_in_vain_lowers_the_mean() -> None:
    found = measured([(0,), (0,)], np.array([[0.9, 0.1], [0.1, 0.9]])).compute()
    assert found["F1/c1"] == 0
    assert found["mF1"] == pytest.approx((2 / 3 + 0) / 2)
    assert math.isnan(found["recall/c1"])
    assert found["mAcc"] == 0.5


def test_without_predictions_nothing_is_a_number() -> None:
    found = Classes({}, ("a", "b")).compute()
    assert all(math.isnan(value) for value in found.values())
    assert {"OA", "mAcc", "mF1"} <= set(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("number", "classes", "levels"), [(100, 5, None), (40, 4, 4), (3, 6, 2), (1, 2, None)])
def test_multi_label_figures_are_scikit_learns(seed: int, number: int, classes: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    truth, scores = rng.random((number, classes)) < 0.4, rng.random((number, classes))
    scores = scores if levels is None else np.round(scores * levels) / levels  # ties
    rows = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    metric = measured(rows, scores, 0.3, several=True)
    found, chosen = metric.compute(), scores >= 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ap = [sk.average_precision_score(truth[:, k], scores[:, k]) for k in range(classes)]
        f1 = sk.f1_score(truth, chosen, average=None, zero_division=np.nan)
        micro = sk.f1_score(truth, chosen, average="micro", zero_division=np.nan)
    ap = [value if truth[:, k].any() else math.nan for k, value in enumerate(ap)]
    assert [found[f"AP/c{k}"] for k in range(classes)] == pytest.approx(ap, nan_ok=True)
    assert [found[f"F1/c{k}"] for k in range(classes)] == pytest.approx(list(f1), nan_ok=True)
    assert found["mAP"] == pytest.approx(np.nanmean(ap) if truth.any() else math.nan, nan_ok=True)
    assert found["mF1"] == pytest.approx(np.nanmean(f1), nan_ok=True)
    assert found["F1"] == pytest.approx(micro, nan_ok=True)
    assert found["exact"] == pytest.approx(sk.accuracy_score(truth, chosen))
    counts = sk.multilabel_confusion_matrix(truth, chosen)[:, [1, 0, 1, 0], [1, 1, 0, 0]]
    assert metric.details()["counts"] == counts.tolist()
    assert metric.details()["confusion"] is None


def test_multi_label_map_is_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.random((60, 4)) < 0.3, rng.random((60, 4))
    rows = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    found = measured(rows, scores, several=True).compute()
    wanted = tm.MultilabelAveragePrecision(4)(torch.from_numpy(scores), torch.from_numpy(truth).long())
    assert found["mAP"] == pytest.approx(float(wanted), abs=1e-6)


def test_average_precision_of_a_perfect_order_is_one_and_of_nothing_true_is_none() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, True, False])) == 1
    assert average_precision(np.array([0.5, 0.5]), np.array([True, False])) == 0.5  # found at once
    assert math.isnan(average_precision(np.array([0.5]), np.array([False])))


def test_the_order_and_the_grouping_of_predictions_change_nothing() -> None:
    scores = softmax(np.random.default_rng(0), 9, 4)
    one = measured([(n % 4,) for n in range(9)], scores)
    other = Classes(one.truths, one.class_names)
    for n in reversed(range(9)):
        prediction = ClassPrediction(
            id=f"{n}.png", image_id=f"{n}.png", scores=torch.from_numpy(scores[n]), class_names=one.class_names
        )
        other.update([prediction])
    assert other.compute() == one.compute()


def test_details_are_plain_json_with_every_image() -> None:
    details = measured([(1,), (0,)], np.array([[0.25, 0.75], [0.25, 0.75]])).details()
    assert json.loads(json.dumps(details)) == details
    assert details["images"]["1.png"] == {"truth": [0], "scores": [0.25, 0.75]}
    assert details["confusion"] == [[0, 1], [0, 1]]


def test_a_condensed_prediction_travels_without_its_batch() -> None:
    batch = torch.rand(1000, 3)
    prediction = ClassPrediction(id="a", image_id="a", scores=batch[0], class_names=("a", "b", "c"))
    condensed = Classes.condense(prediction)
    assert len(pickle.dumps(condensed)) < 1000 < len(pickle.dumps(prediction))
    assert torch.equal(condensed.scores, batch[0])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": "other.png"}, "other.png"),
        ({"class_names": ("c1", "c0")}, "knows the classes"),
        ({"scores": torch.tensor([float("nan"), 0.0])}, "no number"),
    ],
)
def test_predictions_that_do_not_fit_the_data_are_refused(change: dict, what: str) -> None:
    metric = Classes({"0.png": (0,)}, ("c0", "c1"))
    fitting: dict[str, Any] = {
        "id": "0.png",
        "image_id": "0.png",
        "scores": torch.tensor([1.0, 0.0]),
        "class_names": ("c0", "c1"),
    }
    with pytest.raises(UserError, match=what):
        metric.update([ClassPrediction(**(fitting | change))])
    metric.update([ClassPrediction(**fitting)])
    with pytest.raises(ValueError, match="twice"):
        metric.update([ClassPrediction(**fitting)])


def test_a_model_of_one_class_on_data_of_several_is_told() -> None:
    with pytest.raises(UserError, match="2 classes of an image"):
        measured([(0, 1)], np.array([[0.5, 0.5]])).compute()
