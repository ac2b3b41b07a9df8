"""Counts of pixels against scikit-learn and torchmetrics, and where there is nothing to count."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from vistruct.contracts import IGNORED, DataInfo, MapPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.metrics.pixels import Pixels, PixelsConfig, confusion, figures_of, hits

NAMES = ("ground", "road", "roof", "tree", "rock")


@dataclass(frozen=True)
class Kept:
    maps: dict[str, Tensor]

    def __call__(self, record: Record) -> Tensor:
        return self.maps[record.id]


def data(truths: dict[str, Tensor], names: tuple[str, ...] = NAMES) -> RecordDataset:
    records = [Record(id=key, images=(Path(key),), image_id=key.split("@")[0]) for key in truths]
    return RecordDataset(records, DataInfo(class_names=names), IssueCounter(), read_label_map=Kept(truths))


def said(key: str, labels: Tensor, names: tuple[str, ...] = NAMES) -> MapPrediction:
    return MapPrediction(id=key, image_id=key.split("@")[0], label_map=labels, class_names=names)


def drawn(seed: int, *shape: int, ignored: float = 0.1, classes: int = 5) -> tuple[Tensor, Tensor]:
    """A truth, and a prediction that is often right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape)
    found = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape))
    truth[rng.random(shape) < ignored] = IGNORED
    return torch.from_numpy(truth.astype(np.int16)), torch.from_numpy(found.astype(np.int16))


def measured(truths: dict[str, Tensor], found: dict[str, Tensor], **config: Any) -> tuple[dict[str, float], Pixels]:
    metric = PixelsConfig(**config).build(data(truths))
    metric.update([said(key, labels) for key, labels in found.items()])
    return metric.compute(), metric


def test_the_counts_are_those_of_scikit_learn_and_torchmetrics():
    for seed, classes in ((0, 5), (1, 2), (2, 200)):  # 200: pairs of classes do not fit into 16 bits
        truth, found = drawn(seed, 301, 233, classes=classes)
        keep = truth != IGNORED
        ours = confusion(truth, found, classes)
        labels = list(range(classes))
        theirs = sklearn.metrics.confusion_matrix(truth[keep].numpy(), found[keep].numpy(), labels=labels)
        assert (ours.numpy() == theirs).all()
        other = tm.multiclass_confusion_matrix(found.long(), truth.long(), classes, ignore_index=IGNORED)
        assert torch.equal(ours, other)


def test_the_figures_are_those_of_scikit_learn_and_torchmetrics():
    truths, found = {}, {}
    for seed in range(4):
        truths[f"{seed}"], found[f"{seed}"] = drawn(seed, 40, 30 + seed)
    numbers, _ = measured(truths, found)
    t = torch.cat([one.flatten() for one in truths.values()])
    p = torch.cat([one.flatten() for one in found.values()])
    keep = t != IGNORED
    y, x = t[keep].numpy(), p[keep].numpy()
    for name, function in (
        ("IoU", sklearn.metrics.jaccard_score),
        ("F1", sklearn.metrics.f1_score),
        ("precision", sklearn.metrics.precision_score),
        ("recall", sklearn.metrics.recall_score),
    ):
        values = function(y, x, average=None)
        assert [numbers[f"{name}/{one}"] for one in NAMES] == pytest.approx(values, abs=1e-12)
    assert numbers["mIoU"] == pytest.approx(sklearn.metrics.jaccard_score(y, x, average="macro"))
    assert numbers["mF1"] == numbers["mDice"] == pytest.approx(sklearn.metrics.f1_score(y, x, average="macro"))
    assert numbers["mAcc"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(y, x))
    assert numbers["aAcc"] == pytest.approx(sklearn.metrics.accuracy_score(y, x))
    theirs = tm.multiclass_jaccard_index(p.long(), t.long(), 5, average="macro", ignore_index=IGNORED)
    assert numbers["mIoU"] == pytest.approx(float(theirs), abs=1e-6)


def test_the_positive_class_of_a_change_is_scikit_learns_binary_figure():
    truth, found = drawn(3, 64, 64, classes=2)
    metric = PixelsConfig(positive="changed").build(data({"a": truth}, ("unchanged", "changed")))
    metric.update([said("a", found, ("unchanged", "changed"))])
    numbers = metric.compute()
    keep = truth != IGNORED
    y, x = truth[keep].numpy(), found[keep].numpy()
    theirs = sklearn.metrics.precision_recall_fscore_support(y, x, average="binary")
    assert [numbers["precision"], numbers["recall"], numbers["F1"]] == pytest.approx(theirs[:3])
    assert numbers["IoU"] == pytest.approx(sklearn.metrics.jaccard_score(y, x)) == numbers["IoU/changed"]


def test_a_class_that_nobody_has_is_not_in_the_means_and_one_never_found_counts_as_zero():
    truth = torch.tensor([[0, 0, 1, 1, 2]], dtype=torch.int16)
    found = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int16)
    numbers, _ = measured({"a": truth}, {"a": found})
    assert math.isnan(numbers["IoU/tree"])
    assert math.isnan(numbers["F1/rock"])
    assert numbers["IoU/roof"] == numbers["F1/roof"] == numbers["recall/roof"] == 0
    assert math.isnan(numbers["precision/roof"])  # never said, so never wrong
    assert numbers["mIoU"] == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert numbers["mF1"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert numbers["mAcc"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert numbers["aAcc"] == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_counts_against_the_mean_iou_and_not_against_the_mean_recall():
    truth = torch.zeros(1, 4, dtype=torch.int16)
    numbers, _ = measured({"a": truth}, {"a": torch.tensor([[0, 0, 0, 3]], dtype=torch.int16)})
    assert numbers["IoU/tree"] == numbers["precision/tree"] == 0
    assert math.isnan(numbers["recall/tree"])
    assert numbers["mIoU"] == pytest.approx(0.75 / 2)
    assert numbers["mAcc"] == pytest.approx(0.75)


@pytest.mark.parametrize("reduce", ["all", "image"])
def test_where_everything_is_ignored_or_nothing_was_predicted_all_figures_are_nan(reduce):
    truth = torch.full((3, 4), IGNORED, dtype=torch.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found in ({"a": torch.zeros(3, 4, dtype=torch.int16)}, {}):
            numbers, metric = measured({"a": truth}, found, reduce=reduce, positive="road")
            assert all(math.isnan(value) for value in numbers.values())
            assert np.sum(metric.details()["confusion"]) == 0


def test_an_ignored_pixel_may_be_called_anything():
    truth, found = drawn(5, 20, 20, ignored=0.5)
    other = torch.where(truth == IGNORED, (found + 1) % 5, found)
    assert measured({"a": truth}, {"a": found})[0] == measured({"a": truth}, {"a": other})[0]


def test_one_pixel_is_an_image():
    one = torch.tensor([[2]], dtype=torch.int16)
    numbers, _ = measured({"a": one}, {"a": one})
    assert numbers["mIoU"] == numbers["aAcc"] == numbers["recall/roof"] == 1


def test_the_order_and_the_windows_of_an_image_do_not_matter():
    truth, found = drawn(6, 30, 40)
    whole, metric = measured({"a": truth}, {"a": found})
    parts = {"a@left": slice(0, 13), "a@right": slice(13, 40)}
    cut, other = measured(
        {key: truth[:, part] for key, part in parts.items()},
        {key: found[:, part] for key, part in reversed(parts.items())},
    )
    assert cut == whole
    assert other.details() == metric.details()


def test_counts_made_elsewhere_give_the_same_as_predictions():
    truth, found = drawn(7, 30, 40)
    numbers, metric = measured({"a": truth}, {"a": found})
    there, here = Pixels(data({"a": truth})), Pixels(data({"a": truth}))
    here.update([there.condense(said("a", found))])
    assert here.compute() == numbers
    assert here.details() == metric.details()


def test_figures_of_images_are_averaged_over_the_images_that_have_the_class():
    truths = {"a": torch.tensor([[0, 0, 1, 1]]).short(), "b": torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0]]).short()}
    found = {"a": torch.tensor([[0, 0, 1, 0]]).short(), "b": torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0]]).short()}
    numbers, _ = measured(truths, found, reduce="image")
    assert numbers["IoU/ground"] == pytest.approx((2 / 3 + 1) / 2)
    assert numbers["IoU/road"] == pytest.approx(0.5)  # b has none
    assert numbers["aAcc"] == pytest.approx((3 / 4 + 1) / 2)
    assert measured(truths, found)[0]["IoU/ground"] == pytest.approx(10 / 11)


def test_classes_left_out_of_the_means_keep_their_own_figures():
    truth, found = drawn(8, 30, 40)
    everything, _ = measured({"a": truth}, {"a": found})
    numbers, _ = measured({"a": truth}, {"a": found}, ignore_classes=("ground", "rock"))
    assert numbers["IoU/ground"] == everything["IoU/ground"]
    assert numbers["aAcc"] == everything["aAcc"]
    assert numbers["mIoU"] == pytest.approx(np.mean([everything[f"IoU/{name}"] for name in ("road", "roof", "tree")]))


def test_details_are_json_and_their_counts_give_the_figures_again():
    truth, found = drawn(9, 30, 40)
    numbers, metric = measured({"a": truth, "b": truth}, {"a": found, "b": truth.clamp(min=0)})
    details = json.loads(json.dumps(metric.details()))
    assert details["class_names"] == list(NAMES)
    counts = np.sum([np.array(rows) for rows in details["images"].values()], axis=0)
    assert (counts == hits(np.array(details["confusion"]))).all()
    assert figures_of(counts)["IoU"].tolist() == [numbers[f"IoU/{name}"] for name in NAMES]


def test_what_does_not_fit_is_said():
    truth, found = drawn(10, 6, 8)
    metric = Pixels(data({"a": truth}))
    with pytest.raises(UserError, match="8 x 6 pixels, labels of"):
        Pixels(data({"a": truth[:5]})).update([said("a", found)])
    with pytest.raises(UserError, match="which the data set does not have"):
        metric.update([said("b", found)])
    with pytest.raises(UserError, match="in the same order"):
        metric.update([said("a", found, NAMES[::-1])])
    with pytest.raises(ValueError, match="prediction from 0 to 9"):
        metric.update([said("a", found.clone().fill_(9).index_fill(0, torch.tensor([0]), 0))])
    metric.update([said("a", found)])
    with pytest.raises(ValueError, match="twice"):
        metric.update([said("a", found)])
    with pytest.raises(UserError, match="did you mean 'road'"):
        PixelsConfig(positive="raod").build(data({"a": truth}))
    with pytest.raises(UserError, match="no class is left"):
        PixelsConfig(ignore_classes=NAMES).build(data({"a": truth}))
    with pytest.raises(UserError, match="no classes of pixels"):
        PixelsConfig().build(RecordDataset([], DataInfo(class_names=NAMES), IssueCounter()))
