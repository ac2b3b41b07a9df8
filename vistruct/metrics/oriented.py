"""Average precision of oriented boxes on whole images, by the rules of the DOTA devkit or of mmrotate.

Source: DOTA devkit, `dota_evaluation_task1` and `_task2`; mmrotate 0.3, `eval_rbbox_map`. The tests hold all of it
    against values that both gave.
Differs: all classes, images and thresholds at once; regions of many objects (COCO's crowd) neither reward nor punish;
    a class without an object to be found is NaN and does not enter a mean.

Whose rules:

| `rules` | an object is | it is found at an overlap |
|---|---|---|
| `devkit` | the quad as annotated, also where it is no rectangle | above the threshold |
| `devkit`, hulls | the whole pixels that its upright hull touches | above the threshold |
| `mmrotate` | the smallest rectangle around it | of the threshold or above |
| `mmrotate`, hulls | its upright hull | of the threshold or above |

mmrotate itself counts difficult objects of DOTA like others unless told not to (`difficult: count`); the devkit does
not. mmrotate's own loader leaves out objects with a side below 2 px; here they are objects like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import field_validator

from vistruct.config import Part
from vistruct.contracts import BoxPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.data.formats.boxes.objects import CROSSED, DUPLICATE, NO_AREA, OUTSIDE
from vistruct.errors import UserError
from vistruct.metrics.average_precision import Rule, average_precision, hits_and_alarms
from vistruct.metrics.means import known_mean
from vistruct.metrics.overlaps import PAIRS, quad_area, quad_hulls, shared_area, touching_pairs
from vistruct.metrics.whole_images import Condensed, WholeImages, check_measurable, condense, whole_truths
from vistruct.ops.oriented import cxcywha_to_quads, quads_to_cxcywha

MENDED = (CROSSED, DUPLICATE, NO_AREA, OUTSIDE)
RULES: tuple[Rule, ...] = ("area", "11-point")
LAST_PIXEL = np.array([0, 0, 1, 1])  # the devkit's hulls end behind their last pixel


class OrientedBoxesConfig(Part):
    """Whose rules count what as found."""

    kind: Literal["oriented_boxes"] = "oriented_boxes"
    rule: Rule = "area"  # of the average over recall; published figures of DIOR-R, DOTA and RSAR are 11-point
    boxes: Literal["oriented", "hulls"] = "oriented"  # hulls: horizontal boxes around both sides, DOTA's task 2
    difficult: Literal["ignore", "count"] = "ignore"  # ignore: need not be found, and finding them is no alarm
    rules: Literal["devkit", "mmrotate"] = "devkit"
    thresholds: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # that AP is the mean of

    @field_validator("thresholds")
    @classmethod
    def _thresholds_are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < level < 1 for level in value):
            raise UserError(f"thresholds={value}", fix="give one or more overlaps between 0 and 1, like [0.5, 0.75]")
        return value

    def build(self, dataset: RecordDataset) -> OrientedBoxes:
        """Measure against the whole images that the data set's records are about.

        Raises:
            UserError: windows were left out: objects there cannot be found, false alarms do not count; there is no
                object to be found; the devkit's rules, and truth that the reader has mended.
        """
        truths, ignore = whole_truths(dataset), self.difficult == "ignore"
        check_measurable(truths, lambda objects: objects.is_single & ~(objects.is_difficult & ignore))
        mended = sorted(reason for reason in MENDED if dataset.report.counts[reason])
        if self.rules == "devkit" and mended:
            what = f"not the devkit's number: the truth was mended ({'; '.join(mended)})"
            raise UserError(what, where="evals.NAME.data.as_written", fix="--set evals.val.data.as_written=true")
        return OrientedBoxes(truths, dataset.info.class_names, self)

    def usual(self, data: Any) -> str:
        """AP50."""
        return "AP50"

    def higher_is_better(self, number: str) -> bool | None:
        """All of them."""
        return True


class OrientedBoxes:
    """Collects predictions about windows or images; `compute` joins the windows and compares."""

    def __init__(
        self,
        truths: Sequence[Record],
        class_names: Sequence[str],
        config: OrientedBoxesConfig = OrientedBoxesConfig(),  # noqa: B008 - frozen
    ) -> None:
        """Measure against records of whole images; where those have no quads, against their boxes."""
        self.images, self.config = WholeImages(truths, class_names), config

    def condense(self, prediction: BoxPrediction) -> Condensed:
        """What is sent of a prediction to the rank that measures."""
        return condense(prediction)

    def update(self, predictions: Sequence[BoxPrediction | Condensed]) -> None:
        """Add predictions; the windows of an image may come in any order and batch.

        Raises:
            UserError: a prediction about an image that is not in the data set, with other classes, or of horizontal
                boxes where oriented ones are measured.
        """
        for prediction in map(condense, predictions):
            columns = prediction.columns
            if self.config.boxes == "oriented" and "boxes_cxcywha" not in columns and len(columns["labels"]):
                raise UserError(
                    "the model gives horizontal boxes, and oriented ones are to be measured",
                    where=prediction.id,
                    fix="use an oriented head, or set boxes to hulls in the metric",
                )
            self.images.add(prediction)

    def compute(self) -> dict[str, float]:
        """The figures, each in [0, 1]; NaN where there is no object to be found.

        Returns:
            AP (mean over the thresholds), AP50, AP75 by the chosen rule, `AP50 area` and `AP50 11-point` by both,
            and `AP/<class>` and `AP50/<class>` of each class. Means are over the classes that have objects.
        """
        levels = tuple(sorted({*self.config.thresholds, 0.5, 0.75}))
        table = self.average_precisions(levels)  # [rule, level, class]
        chosen = dict(zip(levels, table[RULES.index(self.config.rule)], strict=True))
        by_class = np.mean([chosen[level] for level in self.config.thresholds], axis=0)
        figures = {"AP": known_mean(by_class), "AP50": known_mean(chosen[0.5]), "AP75": known_mean(chosen[0.75])}
        figures |= {f"AP50 {rule}": known_mean(table[i, levels.index(0.5)]) for i, rule in enumerate(RULES)}
        for k, name in enumerate(self.images.class_names):
            figures[f"AP/{name}"] = float(by_class[k])
            figures[f"AP50/{name}"] = float(chosen[0.5][k])
        return figures

    def average_precisions(self, levels: Sequence[float]) -> np.ndarray:
        """float64[2 rules, len(levels), C]: of the area rule, then of the 11-point rule; NaN without an object."""
        objects, found = self._objects(), self._found()
        best_iou, best_object, crowd_share = _best(found, objects)
        spared = objects.is_difficult & (self.config.difficult == "ignore")
        counted = ~objects.is_crowd & ~spared
        classes = len(self.images.class_names)
        to_find = np.bincount(objects.labels[counted], minlength=classes)
        table = np.full((len(RULES), len(levels), classes), np.nan)
        for k in range(classes):
            of_class = np.flatnonzero(found.labels == k)
            of_class = of_class[np.argsort(-found.scores[of_class], kind="stable")]
            mine = best_iou[of_class], best_object[of_class], spared, crowd_share[of_class]
            for i, level in enumerate(levels):
                hits, alarms = hits_and_alarms(*mine, level, inclusive=self.config.rules == "mmrotate")
                for j, rule in enumerate(RULES):
                    table[j, i, k] = average_precision(hits, alarms, int(to_find[k]), rule)
        return table

    def _objects(self) -> _Objects:
        """All objects of the data set, in the form that the rules ask for."""
        truths = self.images.truths
        numbers = np.repeat(np.arange(len(truths)), [len(record.objects) for record in truths])
        quads = np.concatenate([np.zeros((0, 4, 2)), *(record.objects.outlines for record in truths)])
        if self.config.boxes == "hulls":
            hulls = quad_hulls(quads)
            if self.config.rules == "devkit":
                hulls = np.trunc(hulls) + LAST_PIXEL
            quads = hulls[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        elif self.config.rules == "mmrotate":
            quads = cxcywha_to_quads(quads_to_cxcywha(torch.from_numpy(quads))).numpy()
        return _Objects(
            quads=quads,
            images=numbers,
            labels=_joined([record.objects.labels for record in truths], np.int64),
            is_crowd=_joined([~record.objects.is_single for record in truths], bool),
            is_difficult=_joined([record.objects.is_difficult for record in truths], bool),
        )

    def _found(self) -> _Found:
        """All detections, windows joined, in the form that the rules ask for."""
        boxes, scores, labels, numbers = [np.zeros((0, 5))], [], [], []
        for number, prediction in self.images.joined():
            oriented = prediction.objects.boxes_cxcywha
            if self.config.boxes == "hulls" or oriented is None:
                hulls = prediction.objects.boxes_xyxy.double().numpy()
                if self.config.boxes == "hulls" and self.config.rules == "devkit":
                    hulls = hulls + LAST_PIXEL
                low, high = hulls[:, :2], hulls[:, 2:]
                boxes.append(np.concatenate([(low + high) / 2, high - low, np.zeros((len(hulls), 1))], axis=1))
            else:
                boxes.append(oriented.double().numpy())
            scores.append(prediction.objects.scores.double().numpy())
            labels.append(prediction.objects.labels.numpy())
            numbers.append(np.full(len(prediction.objects), number))
        return _Found(
            boxes=np.concatenate(boxes),
            images=_joined(numbers, np.int64),
            labels=_joined(labels, np.int64),
            scores=_joined(scores, np.float64),
        )


@dataclass(frozen=True, kw_only=True)
class _Objects:
    """M objects of all images."""

    quads: np.ndarray  # float64[M, 4, 2]
    images: np.ndarray  # int64[M]
    labels: np.ndarray  # int64[M]
    is_crowd: np.ndarray  # bool[M]
    is_difficult: np.ndarray  # bool[M]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """N detections in all images."""

    boxes: np.ndarray  # float64[N, 5], cxcywha
    images: np.ndarray  # int64[N]
    labels: np.ndarray  # int64[N]
    scores: np.ndarray  # float64[N]


def _best(found: _Found, objects: _Objects) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each detection the IoU with the object of its class that it overlaps most, that object's number (-1: none),
    and the largest share of it that lies in one crowd region of its class."""
    most = 1 + max(found.labels.max(initial=0), objects.labels.max(initial=0))
    groups, object_groups = found.images * most + found.labels, objects.images * most + objects.labels
    corners = cxcywha_to_quads(torch.from_numpy(found.boxes)).numpy()
    rows, columns = touching_pairs(quad_hulls(corners), groups, quad_hulls(objects.quads), object_groups)
    shared = np.concatenate(
        [
            np.zeros(0),
            *(
                shared_area(found.boxes[rows[i : i + PAIRS]], objects.quads[columns[i : i + PAIRS]])
                for i in range(0, len(rows), PAIRS)
            ),
        ]
    )
    own = found.boxes[rows, 2] * found.boxes[rows, 3]
    union = own + quad_area(objects.quads)[columns] - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=(union > 0) & (shared > 0))
    share = np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)

    crowd_share = np.zeros(len(found.boxes))
    in_crowd = objects.is_crowd[columns]
    np.maximum.at(crowd_share, rows[in_crowd], share[in_crowd])

    best_iou, best_object = np.zeros(len(found.boxes)), np.full(len(found.boxes), -1)
    single = np.flatnonzero(~in_crowd & (iou > 0))
    order = single[np.lexsort((-columns[single], iou[single]))]  # of equal overlaps the first object comes last
    best_iou[rows[order]], best_object[rows[order]] = iou[order], columns[order]  # the last one written stays
    return best_iou, best_object, crowd_share


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
