"""Counts of each image: the same scores as scikit-learn, and intervals that see what changes with the images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from toy_study import recipe

from vistruct.config import run_to_yaml
from vistruct.contracts import ClassPrediction
from vistruct.engine.evaluate import Measured as Evaluated
from vistruct.metrics.classes import Classes
from vistruct.study.compare import side_by_side
from vistruct.study.images import Measured, by_image, image_gain, read_measured, score

NAMES = ("ground", "tree", "road")


def counts_of(truth: np.ndarray, answer: np.ndarray, classes: int = 3) -> np.ndarray:
    table = sk.confusion_matrix(truth, answer, labels=range(classes))
    tp = np.diag(table)
    return np.stack([tp, table.sum(0) - tp, table.sum(1) - tp], axis=1).astype(float)


def measured(rng: np.random.Generator, right: float, images: int = 12, pixels: int = 60) -> Measured:
    rows = []
    for _ in range(images):
        truth = rng.integers(0, 3, pixels)
        answer = np.where(rng.random(pixels) < right, truth, rng.integers(0, 3, pixels))
        rows.append(counts_of(truth, answer))
    return Measured(images=tuple(f"i{n}" for n in range(images)), names=NAMES, counts=np.array(rows))


def test_scores_of_counts_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    counts = counts_of(truth, answer)
    expected = {
        "mIoU": sk.jaccard_score(truth, answer, average="macro"),
        "mF1": sk.f1_score(truth, answer, average="macro"),
        "mDice": sk.f1_score(truth, answer, average="macro"),
        "mAcc": sk.balanced_accuracy_score(truth, answer),
        "aAcc": sk.accuracy_score(truth, answer),
        "OA": sk.accuracy_score(truth, answer),
        "IoU/road": sk.jaccard_score(truth, answer, average=None)[2],
        "precision/tree": sk.precision_score(truth, answer, average=None)[1],
        "recall": sk.recall_score(truth, answer, average=None)[1],
    }
    for metric, value in expected.items():
        assert score(counts, metric, NAMES, "tree") == pytest.approx(value)


def test_a_class_that_is_nowhere_is_no_part_of_a_mean_and_nothing_at_all_is_nan():
    counts = np.array([[3.0, 1, 0], [2, 0, 1], [0, 0, 0]])
    assert score(counts, "mIoU", NAMES) == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert math.isnan(float(score(np.zeros((3, 3)), "mIoU", NAMES)))
    assert math.isnan(float(score(np.zeros((3, 3)), "aAcc", NAMES)))


def test_metrics_that_are_no_function_of_counts_have_none():
    for metric in ("AP50", "mAP", "IoU", "IoU/river", "hd95"):
        assert score(np.ones((3, 3)), metric, NAMES) is None


def test_a_better_model_gains_and_the_interval_holds_the_difference():
    rng = np.random.default_rng(1)
    worse, better = measured(rng, 0.5), measured(rng, 0.9)
    gain = image_gain([better], [worse], "mIoU", draws=500)
    assert gain is not None
    expected = score(better.counts.sum(0), "mIoU", NAMES) - score(worse.counts.sum(0), "mIoU", NAMES)
    assert gain.mean == pytest.approx(float(expected))
    assert gain.interval.low < gain.mean < gain.interval.high
    assert gain.interval.excludes_zero
    assert (gain.images, gain.pairs) == (12, 1)


def test_the_same_answers_differ_by_nothing_on_any_images():
    same = measured(np.random.default_rng(2), 0.7)
    gain = image_gain([same], [same], "mF1", draws=200)
    assert gain is not None
    assert (gain.mean, gain.interval.low, gain.interval.high) == (0, 0, 0)


def test_the_interval_of_accuracy_over_equal_images_is_the_closed_formula():
    """Accuracy on images of one pixel is a mean: its bootstrap is that of a mean of differences."""
    rng = np.random.default_rng(3)
    n = 400
    truth = rng.integers(0, 3, n)
    sides, right = [], []
    for share in (0.6, 0.75):
        answer = np.where(rng.random(n) < share, truth, (truth + 1) % 3)
        counts = np.array([counts_of(truth[i : i + 1], answer[i : i + 1]) for i in range(n)])
        sides.append(Measured(images=tuple(map(str, range(n))), names=NAMES, counts=counts))
        right.append((answer == truth).astype(float))
    gain = image_gain([sides[1]], [sides[0]], "OA", draws=3000)
    difference = right[1] - right[0]
    reach = 1.96 * difference.std() / n**0.5
    assert gain is not None
    assert gain.interval.low == pytest.approx(difference.mean() - reach, abs=0.006)
    assert gain.interval.high == pytest.approx(difference.mean() + reach, abs=0.006)


def test_images_are_paired_by_name_in_any_order_and_those_of_one_side_are_left_out():
    rng = np.random.default_rng(4)
    a, b = measured(rng, 0.5), measured(rng, 0.9)
    turned = b.of(b.images[::-1])
    gains = [image_gain([side], [a], "mIoU", draws=50) for side in (turned, b)]
    assert all(gain is not None for gain in gains)
    assert gains[0].mean == pytest.approx(gains[1].mean)
    assert np.array_equal(turned.of(b.images).counts, b.counts)
    fewer = image_gain([b.of(b.images[:5])], [a], "mIoU", draws=50)
    assert fewer is not None
    assert fewer.images == 5


def test_nothing_is_said_without_a_pair_a_common_image_or_the_same_classes():
    rng = np.random.default_rng(5)
    one = measured(rng, 0.5)
    other = Measured(images=tuple(f"x{n}" for n in range(12)), names=NAMES, counts=one.counts)
    renamed = Measured(images=one.images, names=("a", "b", "c"), counts=one.counts)
    assert image_gain([], [], "mIoU") is None
    assert image_gain([other], [one], "mIoU") is None
    assert image_gain([renamed], [one], "mIoU") is None
    assert image_gain([one], [one], "AP50") is None


def write(run_dir: Path, kind: str, details: dict) -> None:
    (run_dir / "evaluations").mkdir(parents=True)
    (run_dir / "run.yaml").write_text(run_to_yaml(recipe()))
    document = {"metric": kind, "step": 4, "numbers": {}, "details": details}
    (run_dir / "evaluations" / "val.json").write_text(json.dumps(document))


def test_counts_of_pixels_are_read_where_they_give_the_number_that_was_reported(tmp_path):
    own = measured(np.random.default_rng(6), 0.8)
    images = {name: counts.tolist() for name, counts in zip(own.images, own.counts, strict=True)}
    write(tmp_path, "pixels", {"class_names": list(NAMES), "images": images})
    value = float(score(own.counts.sum(0), "mIoU", NAMES))
    found = read_measured(tmp_path, "val", "mIoU", value)
    assert found is not None
    assert np.array_equal(found.counts, own.counts)
    assert read_measured(tmp_path, "val", "mIoU", value + 0.01) is None  # another kind of mean than ours
    assert read_measured(tmp_path, "val", "mIoU", None) is None
    assert read_measured(tmp_path, "test", "mIoU", value) is None


def test_classes_of_images_are_counts_of_one_and_multi_label_ones_are_none(tmp_path):
    rng = np.random.default_rng(7)
    truth, scores = rng.integers(0, 3, 30), rng.random((30, 3))
    images = {
        f"i{n}": {"truth": [int(t)], "scores": s.tolist()} for n, (t, s) in enumerate(zip(truth, scores, strict=True))
    }
    write(tmp_path / "one", "classes", {"class_names": list(NAMES), "images": images})
    value = sk.accuracy_score(truth, scores.argmax(1))
    assert read_measured(tmp_path / "one", "val", "OA", value) is not None
    images["i0"]["truth"] = [0, 2]
    write(tmp_path / "many", "classes", {"class_names": list(NAMES), "images": images})
    assert read_measured(tmp_path / "many", "val", "OA", value) is None
    write(tmp_path / "boxes", "coco_boxes", {})
    assert read_measured(tmp_path / "boxes", "val", "AP50", 0.5) is None


def test_one_image_says_nothing_about_other_images():
    rng = np.random.default_rng(3)
    one, two = measured(rng, 0.5, images=1), measured(rng, 0.5, images=2)
    assert image_gain([one], [one], "mIoU") is None
    assert image_gain([two], [two], "mIoU") is not None


def sums(values: dict[str, list[tuple[float, float]]]) -> dict:
    return {"per_image": {name: {f"i{n}": list(one) for n, one in enumerate(rows)} for name, rows in values.items()}}


def test_a_number_that_is_a_ratio_of_sums_is_paired_over_what_each_image_adds():
    rng = np.random.default_rng(8)
    asked = rng.integers(1, 5, 40).astype(float)
    sides = []
    for share in (0.4, 0.7):
        right = rng.binomial(asked.astype(int), share).astype(float)
        details = sums({"accuracy": list(zip(right, asked, strict=True)), "hits": [(100 * r, 1.0) for r in right]})
        numbers = {"accuracy": right.sum() / asked.sum(), "hits": 100 * right.mean(), "bleu": share}
        sides.append(Evaluated(numbers=numbers, details=details))
    accuracy, hits, bleu = side_by_side("answers", *sides)
    assert accuracy.difference == pytest.approx(sides[1].numbers["accuracy"] - sides[0].numbers["accuracy"])
    drawn = rng.integers(0, 40, (4000, 40))
    right = [np.array([one[0] for one in side.details["per_image"]["accuracy"].values()]) for side in sides]
    means = (right[1][drawn].sum(1) - right[0][drawn].sum(1)) / asked[drawn].sum(1)
    assert accuracy.interval is not None
    assert accuracy.interval.low == pytest.approx(np.quantile(means, 0.025), abs=0.02)
    assert accuracy.interval.high == pytest.approx(np.quantile(means, 0.975), abs=0.02)
    assert (accuracy.over, accuracy.count) == ("images", 40)
    assert hits.interval is not None
    assert bleu.interval is None
    assert bleu.difference == pytest.approx(0.3)


def test_what_images_add_is_not_used_where_it_does_not_give_the_number():
    side = Evaluated(numbers={"accuracy": 0.6}, details=sums({"accuracy": [(1.0, 2.0), (0.0, 2.0), (1.0, 1.0)]}))
    (number,) = side_by_side("answers", side, side)
    assert number.interval is None
    again = Evaluated(numbers={"accuracy": 0.4}, details=side.details)
    (number,) = side_by_side("answers", again, again)
    assert number.interval is not None


def test_an_image_that_one_number_is_not_about_counts_for_nothing_there():
    details = sums({"a": [(1.0, 1.0), (0.0, 1.0)], "b": [(1.0, 1.0), (1.0, 2.0), (0.0, 1.0)]})
    (found,) = by_image("answers", details)
    assert found.images == ("i0", "i1", "i2")
    assert found.gives("a", 0.5)
    assert found.gives("b", 0.5)


def test_top_five_and_all_classes_right_are_known_image_by_image():
    rng = np.random.default_rng(9)
    names = tuple("abcdefgh")
    for several, number in ((False, "top5"), (True, "exact")):
        truths = {f"i{n}": tuple({int(k) for k in rng.integers(0, 8, 1 + several)}) for n in range(30)}
        sides = []
        for skill in (0.2, 0.6):
            metric = Classes(truths, names)
            for image, truth in truths.items():
                scores = torch.tensor(rng.random(8) * (1 - skill))
                scores[list(truth)] += skill
                metric.update(
                    [
                        ClassPrediction(
                            id=image, image_id=image, class_names=names, scores=scores, is_multi_label=several
                        )
                    ]
                )
            sides.append(Evaluated(numbers=metric.compute(), details=metric.details()))
        found = {one.name: one for one in side_by_side("classes", *sides)}
        assert found[number].interval is not None
        assert found[number].count == 30
