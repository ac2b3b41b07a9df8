"""What a classifier gets right: of images with one class, and of images with any number of them.

Source: the usual definitions, as scikit-learn has them (`balanced_accuracy_score`, `f1_score`,
    `average_precision_score`), against which and torchmetrics the tests hold every figure. Neither is a dependency of
    training: what is needed of them is counting.
Differs: a class that no image has and that is never predicted is in no mean; scikit-learn counts it as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import ClassPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.data.image_classes import ClassDataConfig
from vistruct.errors import UserError
from vistruct.metrics.means import known_mean

TOP = 5  # the truth is among so many; only of more classes is that a figure

Scores = dict[str, float]


class ClassesConfig(Part):
    """Says from which score on an image of several classes has one."""

    kind: Literal["classes"] = "classes"
    threshold: float = Field(0.5, ge=0, le=1)  # multi-label alone; a score of exactly so much counts as found

    def build(self, dataset: RecordDataset) -> Classes:
        """The data set tells the classes of every image."""
        truths = {record.id: record.image_labels for record in dataset.records}
        return Classes(truths, dataset.info.class_names, self.threshold)

    def usual(self, data: Any) -> str:
        """OA; mAP where an image has any number of classes."""
        return "mAP" if isinstance(data, ClassDataConfig) and data.multi_label else "OA"

    def higher_is_better(self, number: str) -> bool | None:
        """All of them."""
        return True


class Classes:
    """Collects predictions about images whose classes are known."""

    def __init__(
        self, truths: dict[str, tuple[int, ...] | None], class_names: Sequence[str], threshold: float = 0.5
    ) -> None:
        self.truths, self.class_names, self.threshold = truths, tuple(class_names), threshold
        self.found: dict[str, np.ndarray] = {}  # float64[K] of each image
        self.is_multi_label = False

    @staticmethod
    def condense(prediction: ClassPrediction) -> ClassPrediction:
        """The same with scores of its own on the CPU: a row of a batch would travel with the whole batch."""
        return replace(prediction, scores=prediction.scores.detach().float().cpu().clone())

    def update(self, predictions: Sequence[ClassPrediction]) -> None:
        """Add predictions, in any number and order.

        Raises:
            UserError: an image that the data set does not have, other classes, a score that is no number.
            ValueError: an image a second time.
        """
        for one in predictions:
            if self.truths.get(one.id) is None:
                what = f"a prediction about {one.id!r}, of which the data set has no class"
                raise UserError(what, where=one.id, fix="predict on the images of the data set that is evaluated")
            if one.class_names != self.class_names:
                what = f"the model knows the classes {one.class_names}, the data {self.class_names}"
                fix = "evaluate on data with the classes that the model was trained on, in the same order"
                raise UserError(what, where=one.id, fix=fix)
            if one.id in self.found:
                raise ValueError(f"{one.id} was predicted twice")
            scores = one.scores.detach().double().cpu().numpy()
            if not np.isfinite(scores).all():
                raise UserError("a score that is no number", where=one.id, fix="the training has diverged")
            self.found[one.id] = scores
            self.is_multi_label = one.is_multi_label

    def compute(self) -> Scores:
        """The figures; NaN where there is nothing to divide by.

        One class an image: OA (part of all images that are right), top5 (of more than five classes), mAcc (mean over
        classes of the part that is right), mF1, and precision, recall and F1 of each class. Of equal scores the class
        with the lower number counts as the higher.

        Several classes: mAP (mean over the classes that occur), mF1 (likewise, at the threshold), F1 (of all decisions
        together), exact (part of the images with all classes right), and AP, precision, recall and F1 of each class.
        """
        if self.is_multi_label:
            return self._several()
        truths, scores = self._single()
        confusion = self._confusion()
        hits, support = np.diag(confusion), confusion.sum(axis=1)
        numbers = {"OA": _share(hits.sum(), support.sum())}
        if len(self.class_names) > TOP:
            numbers["top5"] = known_mean(among_first(truths, scores).astype(float))
        each, f1 = by_class(self.class_names, hits, confusion.sum(axis=0) - hits, support - hits)
        recalls = np.array([each[f"recall/{name}"] for name in self.class_names])
        return numbers | {"mAcc": known_mean(recalls), "mF1": known_mean(f1)} | each

    def details(self) -> dict[str, Any]:
        """Plain json: the confusion (rows truth, columns prediction), and truth and scores of every image; `per_image`,
        what each adds to top5 or exact.

        Of several classes an image there is no confusion (None), but `counts`: [tp, fp, fn, tn] of each class.
        """
        images = {
            id: {"truth": list(self.truths[id] or ()), "scores": [round(float(score), 6) for score in scores]}
            for id, scores in self.found.items()
        }
        found: dict[str, Any] = {"class_names": list(self.class_names), "confusion": None, "images": images}
        if not self.is_multi_label:
            found |= {"confusion": self._confusion().tolist()}
            return found | (
                _each("top5", self.found, among_first(*self._single())) if len(self.class_names) > TOP else {}
            )
        is_true, scores = self._matrices()
        is_found = scores >= self.threshold
        found |= _each("exact", self.found, (is_true == is_found).all(axis=1))
        cells = [is_true & is_found, ~is_true & is_found, is_true & ~is_found, ~is_true & ~is_found]
        return found | {"counts": np.stack([cell.sum(axis=0) for cell in cells], axis=1).tolist()}

    def _single(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[N] truths and float64[N, K] scores."""
        truths = [self.truths[id] or () for id in self.found]
        several = next((id for id, truth in zip(self.found, truths, strict=True) if len(truth) != 1), None)
        if several is not None:
            what = f"{len(self.truths[several] or ())} classes of an image, and the model gives one"
            raise UserError(what, where=several, fix="--multi-label, or data of one class an image")
        scores = np.array(list(self.found.values())).reshape(len(truths), len(self.class_names))
        return np.array([truth[0] for truth in truths], np.int64), scores

    def _confusion(self) -> np.ndarray:
        """int64[K, K], rows truth."""
        truths, scores = self._single()
        size = len(self.class_names)
        chosen = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
        return np.bincount(truths * size + chosen, minlength=size * size).reshape(size, size)

    def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """bool[N, K] truths and float64[N, K] scores."""
        shape = len(self.found), len(self.class_names)
        is_true = np.zeros(shape, bool)
        for row, id in zip(is_true, self.found, strict=True):
            row[list(self.truths[id] or ())] = True
        return is_true, np.array(list(self.found.values())).reshape(shape)

    def _several(self) -> Scores:
        is_true, scores = self._matrices()
        is_found = scores >= self.threshold
        tp, fp, fn = ((a & b).sum(axis=0) for a, b in ((is_true, is_found), (~is_true, is_found), (is_true, ~is_found)))
        each, f1 = by_class(self.class_names, tp, fp, fn)
        ap = np.array([average_precision(scores[:, k], is_true[:, k]) for k in range(len(self.class_names))])
        return {
            "mAP": known_mean(ap),
            "mF1": known_mean(f1),
            "F1": _share(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum()),
            "exact": known_mean((is_true == is_found).all(axis=1).astype(float)),
            **{f"AP/{name}": float(value) for name, value in zip(self.class_names, ap, strict=True)},
            **each,
        }


def average_precision(scores: np.ndarray, is_true: np.ndarray) -> float:
    """Area under the steps of precision over recall, without VOC's envelope; of equal scores all are found at once.

    Args:
        scores: float[N].
        is_true: bool[N].

    Returns:
        in [0, 1]; NaN where nothing is true.
    """
    if not is_true.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of a run of equal scores
    hits = np.cumsum(is_true[order])[is_last]
    precision = hits / (np.flatnonzero(is_last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / is_true.sum())


def among_first(truths: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """bool[N], whether the true class is among the five with the highest scores; of equal ones the first count."""
    own = scores[np.arange(len(truths)), truths][:, None]
    is_before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < truths[:, None]))
    return is_before.sum(axis=1) < TOP


def _each(number: str, images: Iterable[str], is_right: np.ndarray) -> dict[str, Any]:
    """What each image adds to a number, as evaluations are compared by it."""
    return {"per_image": {number: {image: [float(one), 1.0] for image, one in zip(images, is_right, strict=True)}}}


def by_class(names: Sequence[str], tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> tuple[Scores, np.ndarray]:
    """Figures of each class, and float[K] F1.

    A class that was never predicted, although it is there, has a precision of 0; one that is not there has no recall,
    and one that is in neither has no figure (NaN).
    """
    numbers: Scores = {}
    f1 = np.full(len(names), np.nan)
    for k, name in enumerate(names):
        f1[k] = _share(2 * tp[k], 2 * tp[k] + fp[k] + fn[k])
        is_there = tp[k] + fn[k] > 0
        numbers[f"precision/{name}"] = 0.0 if is_there and tp[k] + fp[k] == 0 else _share(tp[k], tp[k] + fp[k])
        numbers[f"recall/{name}"] = _share(tp[k], tp[k] + fn[k])
        numbers[f"F1/{name}"] = float(f1[k])
    return numbers, f1


def _share(part: float | np.integer, whole: float | np.integer) -> float:
    return float(part) / float(whole) if whole else float("nan")
