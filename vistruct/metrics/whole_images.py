"""Detections of windows against the truth about whole images: what every box metric starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts import BoxPrediction, Column, Objects, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.selection import BEYOND_FRACTION
from vistruct.errors import UserError
from vistruct.windows.merge import merge_windows
from vistruct.windows.tiles import EMPTY_WINDOW

FLAGS = ("is_crowd", "is_difficult", "is_ignored")  # of the truth alone


def whole_truths(dataset: RecordDataset) -> list[Record]:
    """The whole images that the records of a data set are about.

    Raises:
        UserError: windows were left out: objects there cannot be found, false alarms do not count.
    """
    left_out = dataset.report.counts[EMPTY_WINDOW]
    if any(record.window_xyxy is not None for record in dataset.records):
        left_out += dataset.report.counts[BEYOND_FRACTION]
    if left_out:
        raise UserError(
            f"{left_out} windows of the evaluation data are left out, so whole images cannot be measured",
            where="the data of an evaluation",
            fix="set share to 1 and tiles.skip_empty to false there",
        )
    images = {record.image_id for record in dataset.records}
    return [record for record in dataset.whole_records if record.image_id in images]


def check_measurable(truths: Sequence[Record], counts: Callable[[Objects], np.ndarray]) -> None:
    """
    Args:
        counts: bool[N], which objects are to be found.

    Raises:
        UserError: none is: every figure would be undefined.
    """
    objects = sum(len(record.objects) for record in truths)
    if not any(counts(record.objects).any() for record in truths):
        what = f"nothing to measure: of {objects} objects in {len(truths)} images none is to be found"
        fix = "other data to measure on: --val PATH or --val-split NAME (of `vistruct eval`: --data PATH --split NAME)"
        raise UserError(
            what, where="the data of an evaluation (crowds, difficult and ignored ones do not count)", fix=fix
        )


@dataclass(frozen=True, kw_only=True)
class Condensed:
    """A prediction as it travels between ranks: a few arrays, and nothing that no figure needs.

    A tensor that is part of a larger one would be sent with all of it, and a mask with every pixel.
    """

    id: str
    image_id: str
    class_names: tuple[str, ...]
    window_xyxy: tuple[float, float, float, float] | None
    columns: dict[str, Column]  # of the objects; labels are int32, masks whatever the metric makes of each


def condense(prediction: BoxPrediction | Condensed, masks: tuple[Any, ...] | None = None) -> Condensed:
    """The arrays of a prediction, on the CPU; with `masks` in the place of its own."""
    if isinstance(prediction, Condensed):
        return prediction
    columns = replace(prediction.objects, masks=masks, labels=prediction.objects.labels.int()).columns()
    return Condensed(
        id=prediction.id,
        image_id=prediction.image_id,
        class_names=prediction.class_names,
        window_xyxy=prediction.window_xyxy,
        columns={name: _array(column) for name, column in columns.items() if name not in FLAGS},
    )


def _array(column: Column) -> Column:
    if not isinstance(column, Tensor):
        return column
    column = column.detach()
    return (column.float() if column.dtype in (torch.bfloat16, torch.float16) else column).cpu().numpy()


def _expand(condensed: Condensed) -> BoxPrediction:
    objects = Objects.of(condensed.columns).tensors()
    return BoxPrediction(
        id=condensed.id,
        image_id=condensed.image_id,
        objects=replace(objects, labels=objects.labels.long()),
        class_names=condensed.class_names,
        window_xyxy=condensed.window_xyxy,
    )


class WholeImages:
    """Truths by image, and what was found in windows of them."""

    def __init__(self, truths: Sequence[Record], class_names: Sequence[str]) -> None:
        self.truths, self.class_names = tuple(truths), tuple(class_names)
        self.numbers = {record.image_id: i for i, record in enumerate(self.truths)}
        self.found: list[Condensed] = []

    def add(self, prediction: BoxPrediction | Condensed) -> None:
        """Add a prediction; the windows of an image may come in any order and batch.

        Raises:
            UserError: a prediction about an image that is not in the data set, or with other classes.
        """
        if prediction.image_id not in self.numbers:
            raise UserError(
                f"a prediction about {prediction.image_id!r}, which the data set does not have",
                where=prediction.id,
                fix="predict on the images of the data set that is evaluated",
            )
        if prediction.class_names != self.class_names:
            raise UserError(
                f"the model knows the classes {prediction.class_names}, the data {self.class_names}",
                where=prediction.id,
                fix="evaluate on data with the classes that the model was trained on, in the same order",
            )
        self.found.append(condense(prediction))

    def joined(self) -> Iterator[tuple[int, BoxPrediction]]:
        """The number of an image in `truths` and what was found in it, image by image."""
        for prediction in joined([_expand(one) for one in self.found]):
            yield self.numbers[prediction.image_id], prediction


def joined(predictions: Sequence[BoxPrediction]) -> list[BoxPrediction]:
    """Windows merged to one prediction an image; an image seen in one piece keeps its detections."""
    pieces = Counter(prediction.image_id for prediction in predictions)
    whole = [replace(one, window_xyxy=None) for one in predictions if pieces[one.image_id] == 1]
    return whole + merge_windows([one for one in predictions if pieces[one.image_id] > 1])
