"""Classes of pixels against the truth: overlap, precision and recall of each class, and their means (`pixels`).

Everything is computed from whole numbers of pixels (true class, predicted class), which add up exactly over images,
windows and ranks. Pixels whose truth is IGNORED are nowhere among them.

    IoU = tp / (tp + fp + fn)    F1 = Dice = 2 tp / (2 tp + fp + fn)    precision = tp / (tp + fp)
    recall = tp / (tp + fn)

A figure that would be 0 / 0 is NaN and left out of means: the IoU of a class that is neither in the truth nor in the
predictions, the recall of one that is not in the truth, the precision of one that was never predicted.

Source: the IoUMetric of MMSegmentation (`nan_to_num=None`), whose mAcc is the mean recall and aAcc the share of right
    pixels; its LEVIR-CD and Cityscapes protocols add up counts over all images, as `reduce="all"` does.
Differs: its F1 is made of precision and recall, and is NaN where a class is in the truth and never predicted, so that
    the mean passes over the worst mistake there is; ours is 0 there.
torchmetrics' `MulticlassConfusionMatrix` was weighed for the counting: it takes several times the memory (int64 copies
of truth, prediction and mask) and has no counts of single images; the tests compare with it and with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import IGNORED, MapPrediction
from vistruct.data.dataset import RecordDataset
from vistruct.errors import UserError, closest
from vistruct.metrics.means import known_mean

_AT_ONCE = 2**16  # pixels counted in one go: they stay in the processor's cache


class PixelsConfig(Part):
    """Which class is asked about, and what the means are over."""

    kind: Literal["pixels"] = "pixels"
    positive: str | None = None  # its IoU, F1, precision and recall are given under these names too: changed, cloud
    ignore_classes: tuple[str, ...] = ()  # counted like all, and left out of the means over classes: background
    reduce: Literal["all", "image"] = "all"  # add up pixels over all images; or figures of each image, then their mean

    def build(self, dataset: RecordDataset) -> Pixels:
        """Measure against the label maps of the data set, on the grid of its files.

        Raises:
            UserError: data without label maps, or a class that they do not have.
        """
        if dataset.read_label_map is None:
            raise UserError("no classes of pixels in this data", where="metric: pixels", fix="use data of kind: maps")
        return Pixels(dataset, self)

    def usual(self, data: Any) -> str:
        """mIoU; F1 of the positive class where one is asked about."""
        return "mIoU" if self.positive is None else "F1"

    def higher_is_better(self, number: str) -> bool | None:
        """All of them."""
        return True


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A prediction as it travels between ranks: how many pixels of each class were taken for which."""

    id: str
    image_id: str
    confusion: np.ndarray  # int64[K, K], rows the truth, columns the prediction


class Pixels:
    """Counts pixels; `compute` gives the figures."""

    def __init__(self, dataset: RecordDataset, config: PixelsConfig | None = None) -> None:
        self.dataset, self.config = dataset, config or PixelsConfig()
        self.class_names = dataset.info.pixel_class_names
        left_out, positive = self.config.ignore_classes, self.config.positive
        for name in (*left_out, *([positive] if positive is not None else [])):
            if name not in self.class_names:
                raise UserError(f"no class {name!r}", where="metric: pixels", fix=closest(name, self.class_names))
        self.meant = [number for number, name in enumerate(self.class_names) if name not in left_out]
        if not self.meant:
            raise UserError("no class is left for a mean", where="metric.ignore_classes", fix="leave some in")
        self.numbers = {record.id: number for number, record in enumerate(dataset.records)}
        self.seen: set[str] = set()
        self.images: dict[str, np.ndarray] = {}  # int64[K, K] of each, over its windows

    def condense(self, prediction: MapPrediction) -> Counted:
        """Read the truth and count, where the prediction was made.

        Raises:
            UserError: a prediction about a record that the data set does not have, with other classes or on another
                grid than its label map; or labels that cannot be read.
        """
        number = self.numbers.get(prediction.id)
        if number is None:
            raise UserError(
                f"a prediction about {prediction.id!r}, which the data set does not have",
                where=prediction.id,
                fix="predict on the images of the data set that is evaluated",
            )
        if tuple(prediction.class_names) != tuple(self.class_names):
            raise UserError(
                f"the model knows the classes {prediction.class_names}, the data {self.class_names}",
                where=prediction.id,
                fix="evaluate on data with the classes that the model was trained on, in the same order",
            )
        truth = self.dataset.truth(number)
        if truth.shape != prediction.label_map.shape:
            (h, w), (height, width) = prediction.label_map.shape, truth.shape
            what = f"a prediction of {w} x {h} pixels, labels of {width} x {height}"
            raise UserError(what, where=prediction.id, fix="bring the image and its labels to the same grid")
        counts = confusion(truth, prediction.label_map.cpu(), len(self.class_names))
        return Counted(id=prediction.id, image_id=prediction.image_id, confusion=counts.numpy())

    def update(self, predictions: Sequence[MapPrediction | Counted]) -> None:
        """Add predictions; the windows of an image may come in any order and batch.

        Raises:
            UserError: as `condense`.
            ValueError: a record was predicted before.
        """
        for prediction in predictions:
            counted = self.condense(prediction) if isinstance(prediction, MapPrediction) else prediction
            if counted.id in self.seen:
                raise ValueError(f"{counted.id} was predicted twice")
            self.seen.add(counted.id)
            before = self.images.get(counted.image_id)
            self.images[counted.image_id] = counted.confusion if before is None else before + counted.confusion

    def compute(self) -> dict[str, float]:
        """The figures, each in [0, 1]; NaN where there is nothing to measure on.

        Returns:
            mIoU, mF1, mDice (the same), mAcc (mean recall), aAcc (share of right pixels), `IoU/<class>`, `F1/<class>`,
            `precision/<class>`, `recall/<class>`; and IoU, F1, precision and recall of the positive class.
        """
        tables = [self._whole()] if self.config.reduce == "all" else list(self.images.values())
        counts = np.array([hits(table) for table in tables]).reshape(-1, len(self.class_names), 3)
        figures = {name: _mean_over_images(rows) for name, rows in figures_of(counts).items()}
        right = np.array([_ratio(table.trace(), table.sum()) for table in tables]).reshape(-1, 1)
        numbers = {
            "mIoU": known_mean(figures["IoU"][self.meant]),
            "mF1": known_mean(figures["F1"][self.meant]),
            "mDice": known_mean(figures["F1"][self.meant]),
            "mAcc": known_mean(figures["recall"][self.meant]),
            "aAcc": float(_mean_over_images(right)[0]),
        }
        if self.config.positive is not None:
            number = self.class_names.index(self.config.positive)
            numbers |= {name: float(values[number]) for name, values in figures.items()}
        for name, values in figures.items():
            numbers |= {f"{name}/{one}": float(value) for one, value in zip(self.class_names, values, strict=True)}
        return numbers

    def details(self) -> dict[str, Any]:
        """The confusion matrix (rows the truth), and [tp, fp, fn] of each class in each image."""
        return {
            "class_names": list(self.class_names),
            "positive": self.config.positive,
            "confusion": self._whole().tolist(),
            "images": {name: hits(counts).tolist() for name, counts in self.images.items()},
        }

    def _whole(self) -> np.ndarray:
        return sum(self.images.values(), np.zeros((len(self.class_names),) * 2, np.int64))


def confusion(truth: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """How often each class was taken for which.

    Args:
        truth: int16[...], classes or IGNORED, which is not counted.
        prediction: int16[...], classes.

    Returns:
        int64[K, K], rows the truth, columns the prediction.

    Raises:
        ValueError: other shapes, or a number that is no class.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth of shape {tuple(truth.shape)}, prediction of {tuple(prediction.shape)}")
    if truth.numel():
        for name, labels, least in (("truth", truth, IGNORED), ("prediction", prediction, 0)):
            low, high = (int(one) for one in labels.aminmax())
            if low < least or high >= num_classes:
                raise ValueError(f"{name} from {low} to {high} where there are {num_classes} classes")
    # One number for each pair of classes; IGNORED makes a first row of its own, which costs less than to look for it.
    number_type = torch.int16 if num_classes * (num_classes + 1) < 2**15 else torch.int32
    counts = torch.zeros((num_classes + 1) * num_classes, dtype=torch.int64)
    for true, said in zip(truth.flatten().split(_AT_ONCE), prediction.flatten().split(_AT_ONCE), strict=True):
        pairs = (true.to(number_type) + 1) * num_classes + said.to(number_type)
        counts += torch.bincount(pairs, minlength=len(counts))
    return counts.view(num_classes + 1, num_classes)[1:]


def hits(confusion: np.ndarray) -> np.ndarray:
    """int64[K, 3]: true positives, false positives and false negatives of each class of a confusion int64[K, K]."""
    right = confusion.diagonal()
    return np.stack([right, confusion.sum(axis=0) - right, confusion.sum(axis=1) - right], axis=1)


def figures_of(hits: np.ndarray) -> dict[str, np.ndarray]:
    """IoU, F1, precision and recall, each float64[...], of counts int[..., 3] as `hits` has them; NaN for 0 / 0."""
    tp, fp, fn = np.moveaxis(np.asarray(hits, np.float64), -1, 0)
    return {
        "IoU": _ratio(tp, tp + fp + fn),
        "F1": _ratio(2 * tp, 2 * tp + fp + fn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
    }


def _ratio(part: Any, whole: Any) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _mean_over_images(rows: np.ndarray) -> np.ndarray:
    """float64[K] of float64[N, K], NaN left out."""
    is_known = ~np.isnan(rows)
    return _ratio(np.where(is_known, rows, 0).sum(axis=0), is_known.sum(axis=0))
