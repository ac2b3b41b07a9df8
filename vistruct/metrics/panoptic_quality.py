"""Segments of things and stuff against the truth: panoptic quality (`panoptic_quality`).

A segment that was found and a true one of the same class are a pair where they share more than half of their union;
there is at most one such pair for each.

    SQ = mean overlap (IoU) of the pairs    RQ = tp / (tp + fp / 2 + fn / 2)    PQ = SQ RQ

each of a class over all images, and then the mean over classes, over those of things and those of stuff. Pixels that
nobody knows (void: no class, difficult or ignored objects, objects without a mask) are no part of a union; what lies
mostly there, or there and in crowds of its own class, is no false alarm, and a crowd need not be found.

Source: Kirillov et al., "Panoptic Segmentation", arXiv:1801.00868, and the published evaluation (panopticapi). A class
    that neither the truth nor a prediction has is in no mean; one without a pair has SQ 0.
Differs: several crowds of a class in one image all excuse what lies in them; the published code knows the last alone.
torchmetrics' `PanopticQuality` knows no crowds, and takes what a prediction leaves out for void; the tests compare with
it where there is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vistruct.config import Part
from vistruct.contracts import PanopticPrediction, Record
from vistruct.data.dataset import NO_MASKS, RecordDataset
from vistruct.errors import UserError
from vistruct.files.masks import rasterise
from vistruct.metrics.means import known_mean


class PanopticQualityConfig(Part):
    """Has no settings."""

    kind: Literal["panoptic_quality"] = "panoptic_quality"

    def build(self, dataset: RecordDataset) -> PanopticQuality:
        """Measure against the masks and the label maps of the data set, on the grid of its files.

        Raises:
            UserError: data without label maps or masks; windows of images.
        """
        if dataset.read_label_map is None:
            what = "no label maps beside these objects, so that nothing says where stuff is"
            raise UserError(what, where="metric: panoptic_quality", fix="--label-maps files, or --label-maps painted")
        if any(len(record.objects) and record.objects.masks is None for record in dataset.records):
            what = "no masks of objects in this data"
            raise UserError(what, where="metric: panoptic_quality", fix=NO_MASKS)
        if any(record.window_xyxy is not None for record in dataset.records):
            what = "panoptic quality is of whole images, and these are windows"
            raise UserError(what, where="metric: panoptic_quality", fix="--set evals.val.data.tiles=null")
        return PanopticQuality(dataset)

    def usual(self, data: Any) -> str:
        """PQ, over all classes."""
        return "PQ"

    def higher_is_better(self, number: str) -> bool | None:
        """All of them."""
        return True


@dataclass(frozen=True, kw_only=True)
class Segments:
    """All segments of one image."""

    map: np.ndarray  # int[H, W], 0 where there is none, k + 1 where the k-th is
    labels: Sequence[int]  # class of each
    crowds: Sequence[bool] = ()  # which are regions of many; (): none


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A prediction as it travels between ranks."""

    id: str
    image_id: str
    counts: np.ndarray  # int64[K, 3], pairs, false alarms and misses of each class
    overlaps: np.ndarray  # float64[K], IoU of the pairs, added up


class PanopticQuality:
    """Counts pairs; `compute` gives the figures."""

    def __init__(self, dataset: RecordDataset) -> None:
        self.dataset, self.class_names = dataset, dataset.info.panoptic_class_names
        self.num_things = len(dataset.info.class_names)
        self.numbers = {record.id: number for number, record in enumerate(dataset.records)}
        names = dataset.info.map_class_names
        stuff = [self.class_names.index(name) for name in names]
        self.stuff = np.array([number if number >= self.num_things else -1 for number in (*stuff, -1)], np.int64)
        self.seen: set[str] = set()
        self.counts = np.zeros((len(self.class_names), 3), np.int64)
        self.overlaps = np.zeros(len(self.class_names))

    def condense(self, prediction: PanopticPrediction) -> Matched:
        """Read the truth and find the pairs, where the prediction was made.

        Raises:
            UserError: a prediction about a record that the data set does not have, with other classes or on another
                grid than its label map; or labels that cannot be read.
        """
        number = self.numbers.get(prediction.id)
        if number is None:
            what = f"a prediction about {prediction.id!r}, which the data set does not have"
            fix = "predict on the images of the data set that is evaluated"
            raise UserError(what, where=prediction.id, fix=fix)
        if prediction.class_names != self.class_names:
            what = f"the model knows the classes {prediction.class_names}, the data {self.class_names}"
            fix = "evaluate on data with the classes that the model was trained on, in the same order"
            raise UserError(what, where=prediction.id, fix=fix)
        true = self.truth(number)
        said = Segments(map=prediction.segment_map.cpu().numpy(), labels=[one.label for one in prediction.segments])
        if true.map.shape != said.map.shape:
            (h, w), (height, width) = said.map.shape, true.map.shape
            what = f"a prediction of {w} x {h} pixels, labels of {width} x {height}"
            raise UserError(what, where=prediction.id, fix="bring the image and its labels to the same grid")
        counts, overlaps = matched(said, true, len(self.class_names))
        return Matched(id=prediction.id, image_id=prediction.image_id, counts=counts, overlaps=overlaps)

    def truth(self, number: int) -> Segments:
        """Of one record: stuff as its label map has it, and over it the objects, small ones over large ones."""
        return true_segments(self.dataset.records[number], self.dataset.truth(number), self.stuff)

    def update(self, predictions: Sequence[PanopticPrediction | Matched]) -> None:
        """Add predictions, in any number and order.

        Raises:
            UserError: as `condense`.
            ValueError: a record was predicted before.
        """
        for prediction in predictions:
            one = self.condense(prediction) if isinstance(prediction, PanopticPrediction) else prediction
            if one.id in self.seen:
                raise ValueError(f"{one.id} was predicted twice")
            self.seen.add(one.id)
            self.counts += one.counts
            self.overlaps += one.overlaps

    def compute(self) -> dict[str, float]:
        """The figures, each in [0, 1]; NaN where there is nothing to measure on.

        Returns:
            PQ, SQ and RQ, means over classes; PQ_things, PQ_stuff and so on, likewise; and `PQ/<class>`,
            `SQ/<class>`, `RQ/<class>`.
        """
        pairs, alarms, misses = self.counts.T.astype(np.float64)
        whole = pairs + (alarms + misses) / 2
        is_known = whole > 0
        sq = np.where(is_known, self.overlaps / np.maximum(pairs, 1), np.nan)
        rq = np.where(is_known, pairs / np.where(is_known, whole, 1), np.nan)
        figures = {"PQ": sq * rq, "SQ": sq, "RQ": rq}
        parts = {"": slice(None), "_things": slice(self.num_things), "_stuff": slice(self.num_things, None)}
        numbers = {f"{name}{end}": known_mean(figures[name][part]) for end, part in parts.items() for name in figures}
        for name, values in figures.items():
            numbers |= {f"{name}/{one}": float(value) for one, value in zip(self.class_names, values, strict=True)}
        return numbers

    def details(self) -> dict[str, Any]:
        """[pairs, false alarms, misses, overlap of the pairs] of each class; a mean of classes has no part by image."""
        rows = [
            [*counts, overlap] for counts, overlap in zip(self.counts.tolist(), self.overlaps.tolist(), strict=True)
        ]
        return {"class_names": list(self.class_names), "things": self.num_things, "counts": rows}


def true_segments(record: Record, label_map: Tensor, stuff: np.ndarray) -> Segments:
    """The segments of one image.

    Args:
        record: a whole image; its objects are things.
        label_map: int16[H, W], classes of the label maps, or IGNORED.
        stuff: int64[M + 1], the class of each class of the label maps, or -1 where it is no stuff; the last is -1.
    """
    classes = stuff[label_map.numpy()]
    labels = [int(one) for one in np.unique(classes) if one >= 0]
    found = np.zeros(classes.shape, np.int32)
    for number, label in enumerate(labels, start=1):
        found[classes == label] = number
    crowds, objects = [False] * len(labels), record.objects
    height, width = found.shape
    corners = [one.ravel().tolist() for one in objects.outlines]
    given = objects.masks if objects.masks is not None else ()
    masks = [rasterise(mask or [box], (0, 0, width, height)) for mask, box in zip(given, corners, strict=True)]
    is_void = [
        bool(ignored or difficult) or not mask
        for ignored, difficult, mask in zip(objects.is_ignored, objects.is_difficult, given, strict=True)
    ]
    order = sorted(range(len(masks)), key=lambda i: (not is_void[i], not objects.is_crowd[i], -int(masks[i].sum())))
    for i in order:
        found[masks[i]] = 0 if is_void[i] else len(labels) + 1
        if not is_void[i]:
            labels.append(int(objects.labels[i]))
            crowds.append(bool(objects.is_crowd[i]))
    return Segments(map=found, labels=labels, crowds=crowds)


def matched(said: Segments, true: Segments, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one image.

    Returns:
        int64[K, 3] pairs, false alarms and misses, and float64[K] overlaps of the pairs, by class.
    """
    rows, columns = len(said.labels) + 1, len(true.labels) + 1
    both = said.map.astype(np.int64) * columns + true.map
    shared = np.bincount(both.ravel(), minlength=rows * columns).reshape(rows, columns)  # [said, true], 0 void
    said_size, true_size, in_void = shared.sum(axis=1), shared.sum(axis=0), shared[:, 0]
    said_labels, true_labels = np.array([-1, *said.labels]), np.array([-2, *true.labels])
    is_crowd = np.array([False, *(true.crowds or [False] * len(true.labels))])
    same = (said_labels[:, None] == true_labels) & (shared > 0)
    union = said_size[:, None] + true_size - shared - in_void[:, None]
    iou = np.where(same & ~is_crowd, shared / np.maximum(union, 1), 0)
    is_pair = iou > 0.5
    excused = in_void + np.where(same & is_crowd, shared, 0).sum(axis=1)
    is_alarm = (said_size > 0) & ~is_pair.any(axis=1) & (excused <= 0.5 * said_size)
    is_miss = (true_size > 0) & ~is_pair.any(axis=0) & ~is_crowd
    is_alarm[0] = is_miss[0] = False
    paired = true_labels[np.nonzero(is_pair)[1]]
    columns_of = (paired, said_labels[is_alarm], true_labels[is_miss])
    counts = np.stack([np.bincount(one, minlength=num_classes) for one in columns_of], axis=1)
    return counts, np.bincount(paired, weights=iou[is_pair], minlength=num_classes)
