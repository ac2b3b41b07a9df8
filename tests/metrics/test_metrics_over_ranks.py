"""Figures of several processes are those of one: nothing is lost, doubled or rounded on the way."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_coco_masks
import test_oriented_ap
import torch
from several_processes import in_ranks
from toy_engine import ToyMetricConfig, ToyTask, ToyTaskConfig, toy_eval, toy_run

from vistruct.contracts import ClassPrediction, DataInfo, MapPrediction, Record
from vistruct.data.dataset import RecordDataset
from vistruct.engine.evaluate import evaluate
from vistruct.issues import IssueCounter
from vistruct.metrics.classes import ClassesConfig
from vistruct.metrics.coco import CocoMasks
from vistruct.metrics.oriented import OrientedBoxes
from vistruct.metrics.pixels import PixelsConfig

KINDS = ("oriented", "masks", "pixels", "classes")
NAMES = ("field", "road", "water")
IMAGES = 7  # so many samples has `toy_eval`: two ranks with unequal shares, and a last batch that is not full


def label_map(seed: int, lowest: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lowest, len(NAMES), (11, 9), generator=generator).to(torch.int16)


def seen(kind: str) -> tuple[Any, list[Any]]:
    """A metric of pixels or classes, and a prediction about each of its images."""
    records = [Record(id=f"s{i}", images=(), image_labels=(i % 3,)) for i in range(IMAGES)]
    dataset = RecordDataset(
        records,
        DataInfo(class_names=NAMES),
        IssueCounter(),
        read_label_map=lambda record: label_map(int(record.id[1:]), lowest=-1),
    )
    if kind == "pixels":
        predictions: list[Any] = [
            MapPrediction(id=f"s{i}", image_id=f"s{i}", label_map=label_map(100 + i), class_names=NAMES)
            for i in range(IMAGES)
        ]
        return PixelsConfig(positive="road").build(dataset), predictions
    scores = torch.rand(IMAGES, len(NAMES), generator=torch.Generator().manual_seed(1)).softmax(1)
    predictions = [
        ClassPrediction(id=f"s{i}", image_id=f"s{i}", scores=scores[i], class_names=NAMES) for i in range(IMAGES)
    ]
    return ClassesConfig().build(dataset), predictions


def metric_and_predictions(kind: str) -> tuple[Any, list[Any]]:
    if kind in ("pixels", "classes"):
        return seen(kind)
    if kind == "oriented":
        truths, predictions = test_oriented_ap.scene(5, images=IMAGES)
        truths = [replace(truth, id=f"s{i}", image_id=f"s{i}") for i, truth in enumerate(truths)]
        metric = OrientedBoxes(truths, test_oriented_ap.CLASSES)
    else:
        truths, predictions = test_coco_masks.scene(5, images=IMAGES)
        truths = [replace(truth, id=f"s{i}", image_id=f"s{i}") for i, truth in enumerate(truths)]
        metric = CocoMasks(truths, test_coco_masks.NAMES)
    return metric, [replace(one, id=f"s{i}", image_id=f"s{i}") for i, one in enumerate(predictions)]


class Told(ToyTask):
    """Says what it was told to."""

    predictions: list[Any]

    def predict(self, batch: Any) -> list[Any]:
        return [self.predictions[int(name[1:])] for name in batch.ids]


def measure(folder: str) -> None:
    toy_run()
    figures = {}
    for kind in KINDS:
        metric, predictions = metric_and_predictions(kind)
        ToyMetricConfig.build = lambda self, dataset: metric  # noqa: B023
        task = Told(ToyTaskConfig())
        task.predictions = predictions
        figures[kind] = evaluate(task, toy_eval(), torch.device("cpu"), 2)
    Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(figures))


def test_two_ranks_give_the_figures_of_one_to_the_last_bit(tmp_path: Path) -> None:
    expected = {}
    for kind in KINDS:
        metric, predictions = metric_and_predictions(kind)
        metric.update(predictions)
        expected[kind] = metric.compute()
    assert in_ranks(2, measure, str(tmp_path)) == [0, 0]
    assert [(tmp_path / f"{rank}.json").read_text() for rank in range(2)] == [json.dumps(expected)] * 2


@pytest.mark.parametrize(("kind", "most"), [("oriented", 52), ("masks", 110)])
def test_what_is_sent_of_a_detection_is_a_few_bytes_even_where_it_is_part_of_something_large(
    kind: str, most: int
) -> None:
    metric, predictions = metric_and_predictions(kind)
    room = torch.zeros(100_000)
    sliced = []
    for one in predictions:
        room[: len(one.objects)] = one.objects.scores.float()
        sliced.append(one.with_columns(scores=room[: len(one.objects)]))
    sent = len(pickle.dumps([metric.condense(one) for one in sliced]))
    detections = sum(len(one.objects) for one in predictions)
    assert sent < most * detections + 1000 * IMAGES
    assert sent < len(pickle.dumps(sliced)) / 20
