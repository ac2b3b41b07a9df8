"""COCO figures against pycocotools, to 1e-12, and on the edges."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vistruct.contracts import BoxPrediction, Objects, Record
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.metrics.coco import CocoBoxes, CocoBoxesConfig
from vistruct.metrics.whole_images import joined
from vistruct.samples import trees
from vistruct.windows.tiles import Tiles, windows

NAMES = ("car", "ship", "never seen")


def random_boxes(rng: np.random.Generator, num: int, side: float = 400) -> np.ndarray:
    low = rng.uniform(0, side, (num, 2))
    return np.concatenate([low, low + rng.uniform(2, 150, (num, 2))], axis=1).astype(np.float32)


def scene(seed: int, num_images: int = 6) -> tuple[list[Record], list[BoxPrediction]]:
    """Truths with crowds, and predictions of which about half are shaken truths."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for i in range(num_images):
        boxes = random_boxes(rng, int(rng.integers(0, 15)))
        labels = rng.integers(0, 2, len(boxes))
        truths.append(
            Record(
                id=f"{i}.jpg",
                images=(Path(f"{i}.jpg"),),
                objects=Objects(boxes_xyxy=boxes, labels=labels, is_crowd=rng.random(len(boxes)) < 0.2),
            )
        )
        shaken = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        alarms = random_boxes(rng, int(rng.integers(0, 10)))
        found = np.concatenate([shaken, alarms])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        classes = np.concatenate([labels, rng.integers(0, 3, len(alarms))])
        predictions.append(prediction(f"{i}.jpg", found, rng.random(len(found)), classes))
    return truths, predictions


def prediction(image: str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, **fields) -> BoxPrediction:
    return BoxPrediction(
        id=fields.pop("id", image),
        image_id=image,
        objects=Objects(
            boxes_xyxy=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.as_tensor(scores, dtype=torch.float32),
            labels=torch.as_tensor(labels, dtype=torch.int64),
        ),
        class_names=NAMES,
        **fields,
    )


def by_pycocotools(truths: list[Record], predictions: list[BoxPrediction], limit: int) -> COCOeval:
    def rows(image: str, boxes: np.ndarray, labels: np.ndarray) -> list[dict]:
        xyxy = boxes.astype(np.float64)
        wh = xyxy[:, 2:] - xyxy[:, :2]
        return [
            {
                "image_id": image,
                "category_id": int(k) + 1,
                "bbox": [*b[:2], *s],
                "area": s[0] * s[1],
                "iscrowd": 0,
            }
            for b, s, k in zip(xyxy, wh, labels, strict=True)
        ]

    truth = COCO()
    annotations = []
    for i, record in enumerate(truths):
        for row, crowd in zip(
            rows(i, record.objects.boxes_xyxy, record.objects.labels), record.objects.is_crowd, strict=True
        ):
            annotations.append({**row, "iscrowd": int(crowd), "id": len(annotations) + 1})
    truth.dataset = {
        "images": [{"id": i} for i in range(len(truths))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    truth.createIndex()
    numbers = {record.id: i for i, record in enumerate(truths)}
    found = [
        {**row, "score": float(score)}
        for p in predictions
        for row, score in zip(
            rows(numbers[p.image_id], p.objects.boxes_xyxy.numpy(), p.objects.labels.numpy()),
            p.objects.scores,
            strict=True,
        )
    ]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.params.maxDets = [1, 10, limit]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize(("seed", "limit"), [(0, 100), (1, 100), (2, 5), (3, 1)])
def test_every_figure_equals_pycocotools(seed: int, limit: int) -> None:
    truths, predictions = scene(seed)
    metric = CocoBoxes(truths, NAMES, max_detections=limit)
    metric.update(predictions[:2])
    metric.update(predictions[2:])
    ours = metric.compute()

    theirs = by_pycocotools(truths, predictions, limit)
    precision = theirs.eval["precision"][..., theirs.params.maxDets.index(limit)]  # [T, R, K, A]
    recall = theirs.eval["recall"][..., theirs.params.maxDets.index(limit)]

    def mean(values: np.ndarray) -> float:
        return values[values > -1].mean() if (values > -1).any() else math.nan

    expected = {
        "AP": mean(precision[..., 0]),
        "AP50": mean(precision[0, ..., 0]),
        "AP75": mean(precision[5, ..., 0]),
        "APs": mean(precision[..., 1]),
        "APm": mean(precision[..., 2]),
        "APl": mean(precision[..., 3]),
        "AR": mean(recall[..., 0]),
        **{f"AP/{name}": mean(precision[:, :, k, 0]) for k, name in enumerate(NAMES)},
        **{f"AP50/{name}": mean(precision[0, :, k, 0]) for k, name in enumerate(NAMES)},
        "max_detections": limit,
    }
    assert 0.01 < expected["AP"] < 0.9
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_default_figures_are_those_that_pycocotools_prints(capsys) -> None:
    truths, predictions = scene(4)
    metric = CocoBoxes(truths, NAMES)
    metric.update(predictions)
    ours = metric.compute()
    theirs = by_pycocotools(truths, predictions, 100)
    theirs.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR")
    for name, value in zip(names, theirs.stats, strict=False):
        assert name is None or ours[name] == pytest.approx(value, abs=1e-12)


def test_finding_every_object_where_it_is_gives_one_and_a_class_without_truth_is_unknown() -> None:
    truths, _ = scene(0)
    metric = CocoBoxes(truths, NAMES)
    metric.update([prediction(t.id, t.objects.boxes_xyxy, np.ones(len(t.objects)), t.objects.labels) for t in truths])
    figures = metric.compute()
    assert figures["AP"] == figures["AR"] == figures["AP50/ship"] == pytest.approx(1)
    assert math.isnan(figures["AP/never seen"])


def test_no_detections_score_zero_and_no_truth_is_unknown() -> None:
    truths, predictions = scene(0)
    nothing = [prediction(t.id, np.zeros((0, 4)), np.zeros(0), np.zeros(0)) for t in truths]
    for given in (nothing, []):
        metric = CocoBoxes(truths, NAMES)
        metric.update(given)
        assert metric.compute()["AP"] == metric.compute()["AR"] == 0

    bare = [Record(id=t.id, images=t.images) for t in truths]
    metric = CocoBoxes(bare, NAMES)
    metric.update(predictions)
    figures = metric.compute()
    assert figures.pop("max_detections") == 100
    assert all(math.isnan(value) for value in figures.values())


def test_a_scene_of_many_objects_can_be_recalled_in_full() -> None:
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(13)), axis=-1).reshape(-1, 2) * 10.0  # 260 objects
    boxes = np.concatenate([grid, grid + 8], axis=1).astype(np.float32)
    labels = np.zeros(len(boxes), np.int64)
    truth = Record(
        id="a",
        images=(Path("a"),),
        objects=Objects(boxes_xyxy=boxes, labels=labels, is_crowd=np.zeros(len(boxes), bool)),
    )
    figures = {}
    for limit in (None, 100):
        metric = CocoBoxes([truth], NAMES, limit)
        metric.update([prediction("a", boxes, np.linspace(1, 0.1, len(boxes)), labels)])
        figures[limit] = metric.compute()
    assert (figures[None]["AR"], figures[None]["max_detections"]) == (pytest.approx(1), 260)
    assert figures[100]["AR"] == pytest.approx(100 / 260)


def test_windows_are_measured_as_the_whole_image() -> None:
    dataset = BoxDataConfig(annotation=trees().test, tiles=Tiles(size=400, overlap=150)).build()
    (whole,) = dataset.whole_records
    names = dataset.info.class_names
    pieces = []
    for window in windows(whole.size_hw, Tiles(size=400, overlap=150)):
        x0, y0, x1, y1 = window
        boxes = np.clip(whole.objects.boxes_xyxy, [x0, y0, x0, y0], [x1, y1, x1, y1])
        shown = (boxes[:, 2:] - boxes[:, :2] > 2).all(axis=1)
        sure = np.full(shown.sum(), 0.9)
        pieces.append(
            prediction(whole.id, boxes[shown], sure, whole.objects.labels[shown], window_xyxy=window, id=f"{window}")
        )
    pieces = [BoxPrediction(**{**vars(p), "class_names": names}) for p in pieces]
    metric = CocoBoxesConfig().build(dataset)
    metric.update(pieces)
    figures = metric.compute()
    assert figures["max_detections"] == 279
    assert figures["AP50"] > 0.97  # every crown was shown to it, cut and whole; each counts once
    assert figures["AR"] > 0.97


def test_an_image_seen_in_one_piece_keeps_its_detections_as_they_are() -> None:
    twice = np.array([[0, 0, 10, 10], [0, 0, 10, 10.5]])
    (kept,) = joined([prediction("a", twice, np.array([0.9, 0.8]), np.zeros(2))])
    assert len(kept.objects) == 2


@pytest.mark.parametrize(
    "fields",
    [{"fraction": 0.5, "tiles": Tiles(size=400)}, {"tiles": Tiles(size=60, overlap=0, skip_empty=True)}],
)
def test_data_with_windows_left_out_is_refused(fields: dict) -> None:
    dataset = BoxDataConfig(annotation=trees().test, **fields).build()
    with pytest.raises(UserError, match="left out"):
        CocoBoxesConfig().build(dataset)


def test_predictions_about_strange_images_or_classes_are_refused() -> None:
    truths, predictions = scene(0)
    with pytest.raises(UserError, match="does not have"):
        CocoBoxes(truths[1:], NAMES).update(predictions[:1])
    with pytest.raises(UserError, match="knows the classes"):
        CocoBoxes(truths, NAMES[::-1]).update(predictions[:1])
