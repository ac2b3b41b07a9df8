"""How often what is in a given box is told rightly.

The figures are those of classification (`classes.py`), with boxes in the place of images: OA is also called top-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vistruct.config import Part
from vistruct.contracts import BoxPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError
from vistruct.metrics.classes import TOP, Scores, among_first, by_class
from vistruct.metrics.means import known_mean


class IdentifiedConfig(Part):
    """Has no settings."""

    kind: Literal["identified"] = "identified"

    def build(self, dataset: RecordDataset) -> Identified:
        """The data set tells the classes of the boxes of every image, or of every window: an object is asked once in
        each window that it is in.

        Raises:
            UserError: there is no object to be asked.
        """
        truths = {record.id: np.asarray(record.objects.labels)[record.objects.is_single] for record in dataset.records}
        if not any(map(len, truths.values())):
            what = "nothing to measure: no box has one object in it"
            fix = "other data to measure on: --val PATH or --val-split NAME (of `vistruct eval`: --data PATH)"
            raise UserError(what, where="the data of an evaluation (crowds and ignored ones do not count)", fix=fix)
        return Identified(truths, dataset.info.class_names)

    def usual(self, data: Any) -> str:
        """OA."""
        return "OA"

    def higher_is_better(self, number: str) -> bool | None:
        """All but how many boxes there are and what can be had without looking."""
        return None if number in ("boxes", "OA_constant") else True


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a model says of the boxes of a sample."""

    id: str
    image_id: str
    class_names: tuple[str, ...]
    scores: np.ndarray  # float32[N, K]
    truth: np.ndarray  # int64[N], as the sample had it


class Identified:
    """Collects what was said of the boxes of images whose classes are known."""

    def __init__(self, truths: Mapping[str, np.ndarray], class_names: Sequence[str]) -> None:
        self.truths, self.class_names = truths, tuple(class_names)
        self.found: dict[str, Told] = {}

    @staticmethod
    def condense(prediction: BoxPrediction) -> Told:
        """The scores of all classes; the boxes are those that were given.

        Raises:
            UserError: boxes that a detector found.
        """
        columns = prediction.objects.extra
        if not {"class_scores", "truth"} <= columns.keys():
            what = "boxes that were found, where the classes of given ones are measured"
            raise UserError(what, where=prediction.id, fix="measure a detector by coco_boxes")
        scores, truth = (np.asarray(columns[name]) for name in ("class_scores", "truth"))
        return Told(
            id=prediction.id,
            image_id=prediction.image_id,
            class_names=prediction.class_names,
            scores=scores.astype(np.float32),
            truth=truth.astype(np.int64),
        )

    def update(self, predictions: Sequence[BoxPrediction | Told]) -> None:
        """Add predictions, in any number and order.

        Raises:
            UserError: an image that the data set does not have, other classes, a score that is no number.
            ValueError: an image a second time, or other boxes than the data set's.
        """
        for one in predictions:
            told = one if isinstance(one, Told) else self.condense(one)
            if told.id not in self.truths:
                what = f"a prediction about {told.id!r}, which the data set does not have"
                raise UserError(what, where=told.id, fix="predict on the images of the data set that is evaluated")
            if told.class_names != self.class_names:
                what = f"the model knows the classes {told.class_names}, the data {self.class_names}"
                fix = "evaluate on data with the classes that the model was trained on, in the same order"
                raise UserError(what, where=told.id, fix=fix)
            if told.id in self.found:
                raise ValueError(f"{told.id} was predicted twice")
            if not np.array_equal(told.truth, self.truths[told.id]):
                raise ValueError(f"{told.id}: the boxes that were asked are not those of the data set, in their order")
            if not np.isfinite(told.scores).all():
                raise UserError("a score that is no number", where=told.id, fix="the training has diverged")
            self.found[told.id] = told

    def compute(self) -> Scores:
        """The figures; NaN where there is nothing to divide by.

        OA (part of all boxes that are right), top5 (of more than five classes), mAcc (mean over classes of the part
        that is right), mF1, and precision, recall and F1 of each class. `boxes` is how many were asked, `OA_constant`
        what the commonest class for each would give. Of equal scores the class with the lower number is the higher.
        """
        truths, scores = self._all()
        confusion = self._confusion(truths, scores)
        hits, support = np.diag(confusion), confusion.sum(axis=1)
        number = len(truths) or float("nan")
        figures = {"OA": float(hits.sum() / number)}
        if len(self.class_names) > TOP:
            figures["top5"] = known_mean(among_first(truths, scores).astype(float))
        each, f1 = by_class(self.class_names, hits, confusion.sum(axis=0) - hits, support - hits)
        recalls = [each[f"recall/{name}"] for name in self.class_names]
        figures |= {"mAcc": known_mean(recalls), "mF1": known_mean(f1)}
        return figures | {"boxes": float(len(truths)), "OA_constant": float(support.max() / number)} | each

    def details(self) -> dict[str, Any]:
        """Plain json: the confusion (rows truth, columns prediction); `images`, [tp, fp, fn] of each class in each; and
        `per_image`, what each adds to top5."""
        of_image: dict[str, list[Told]] = {}
        for one in self.found.values():
            of_image.setdefault(one.image_id, []).append(one)
        images, among = {}, {}
        for image, some in of_image.items():
            truths, scores = np.concatenate([one.truth for one in some]), np.concatenate([one.scores for one in some])
            confusion = self._confusion(truths, scores)
            hits = np.diag(confusion)
            counts = np.stack([hits, confusion.sum(axis=0) - hits, confusion.sum(axis=1) - hits], axis=1)
            images[image] = counts.tolist()
            among[image] = [float(among_first(truths, scores).sum()), float(len(truths))]
        found = {"class_names": list(self.class_names), "confusion": self._confusion(*self._all()).tolist()}
        own = {"per_image": {"top5": among}} if len(self.class_names) > TOP else {}
        return found | {"images": images} | own

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """int64[P] truths and float32[P, K] scores."""
        told = list(self.found.values())
        empty = np.zeros((0, len(self.class_names)), np.float32)
        truths = np.concatenate([np.zeros(0, np.int64), *(one.truth for one in told)])
        return truths, np.concatenate([empty, *(one.scores for one in told)])

    def _confusion(self, truths: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """int64[K, K], rows truth."""
        size = len(self.class_names)
        chosen = scores.argmax(axis=1) if len(scores) else np.zeros(0, np.int64)
        return np.bincount(truths * size + chosen, minlength=size * size).reshape(size, size)
