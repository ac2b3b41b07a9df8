"""COCO figures of masks against pycocotools, to 1e-12; windows, crowds, and the edges."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vistruct.contracts import BoxPrediction, MaskPatch, Objects, Record
from vistruct.errors import UserError
from vistruct.metrics.coco import CocoBoxes, CocoMasks

NAMES = ("car", "ship", "never seen")
SIZE_HW = (90, 120)


def blob(rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """An ellipse as bool[h, w], and where it lies."""
    h, w = rng.integers(5, 60, 2)
    y, x = int(rng.integers(0, SIZE_HW[0] - h)), int(rng.integers(0, SIZE_HW[1] - w))
    rows, columns = np.mgrid[:h, :w]
    return ((rows + 0.5) / h * 2 - 1) ** 2 + ((columns + 0.5) / w * 2 - 1) ** 2 <= 1, x, y


def raster(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    image = np.zeros(SIZE_HW, np.uint8)
    part = image[max(0, y) : y + pixels.shape[0], max(0, x) : x + pixels.shape[1]]
    part[:] = pixels[max(0, -y) : max(0, -y) + part.shape[0], max(0, -x) : max(0, -x) + part.shape[1]]
    return np.asfortranarray(image)


def text_rle(image: np.ndarray) -> dict[str, Any]:
    runs = coco_mask.encode(image)
    return {**runs, "counts": runs["counts"].decode()}


def scene(seed: int, images: int = 5) -> tuple[list[Record], list[BoxPrediction]]:
    """Polygons and run lengths, crowds too; predictions are truths moved a little, and false alarms."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for i in range(images):
        blobs = [blob(rng) for _ in range(rng.integers(0, 9))]
        crowd = rng.random(len(blobs)) < 0.2
        masks, boxes, patches = [], [], []
        for (pixels, x, y), is_crowd in zip(blobs, crowd, strict=True):
            h, w = pixels.shape
            boxes.append([x, y, x + w, y + h])
            turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ring = np.column_stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))])
            masks.append(text_rle(raster(pixels, x, y)) if is_crowd or rng.random() < 0.5 else [ring.ravel().tolist()])
            dx, dy = (int(shift) for shift in rng.integers(-3, 4, 2))
            patches.append(MaskPatch(pixels=pixels, x=x + dx, y=y + dy))  # may stick out of the image
        labels = rng.integers(0, 2, len(blobs))
        patches += [MaskPatch(pixels=p, x=x, y=y) for p, x, y in (blob(rng) for _ in range(rng.integers(0, 4)))]
        classes = np.concatenate([labels, rng.integers(0, 3, len(patches) - len(labels))])
        truths.append(
            Record(
                id=f"{i}.jpg",
                images=(Path(f"{i}.jpg"),),
                size_hw=SIZE_HW,
                objects=Objects(
                    boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
                    labels=labels,
                    is_crowd=crowd,
                    masks=tuple(masks),
                ),
            )
        )
        predictions.append(found(f"{i}.jpg", patches, rng.random(len(patches)), classes))
    return truths, predictions


def found(image: str, patches: list[MaskPatch], scores: Any, labels: Any, **fields: Any) -> BoxPrediction:
    boxes = [[p.x, p.y, p.x + p.pixels.shape[1], p.y + p.pixels.shape[0]] for p in patches]
    return BoxPrediction(
        id=fields.pop("id", image),
        image_id=image,
        objects=Objects(
            boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.as_tensor(scores, dtype=torch.float32),
            labels=torch.as_tensor(labels, dtype=torch.int64),
            masks=tuple(patches),
        ),
        class_names=NAMES,
        **fields,
    )


def by_pycocotools(truths: list[Record], predictions: list[BoxPrediction]) -> COCOeval:
    """With whole rasters, each encoded by pycocotools itself."""
    truth, rows, annotations = COCO(), [], []
    for number, record in enumerate(truths):
        for mask, label, crowd in zip(
            record.objects.masks or (), record.objects.labels, record.objects.is_crowd, strict=True
        ):
            runs = mask if isinstance(mask, dict) else coco_mask.merge(coco_mask.frPyObjects(mask, *SIZE_HW))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1,
                    "segmentation": runs, "area": float(coco_mask.area(runs)), "iscrowd": int(crowd),
                }
            )  # fmt: skip
    numbers = {record.id: i for i, record in enumerate(truths)}
    for one in predictions:
        rows += [
            {
                "image_id": numbers[one.image_id], "category_id": int(label) + 1, "score": float(score),
                "segmentation": coco_mask.encode(raster(patch.pixels, patch.x, patch.y)),
            }
            for patch, score, label in zip(one.objects.masks or (), one.objects.scores, one.objects.labels, strict=True)
        ]  # fmt: skip
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE_HW[0], "width": SIZE_HW[1]} for i in range(len(truths))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(rows), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_masks_are_those_of_pycocotools(seed: int, capsys) -> None:
    truths, predictions = scene(seed)
    metric = CocoMasks(truths, NAMES)
    metric.update(predictions)
    ours = metric.compute()
    theirs = by_pycocotools(truths, predictions)
    theirs.summarize()
    figures = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR"), theirs.stats, strict=False))
    for name, value in figures.items():
        if name is not None:
            assert ours[f"mask/{name}"] == pytest.approx(value if value > -1 else math.nan, abs=1e-12, nan_ok=True)
    precision: Any = theirs.eval["precision"]
    for k, name in enumerate(NAMES):
        values = precision[:, :, k, 0, -1]
        expected = values.mean() if (values > -1).all() else math.nan
        assert ours[f"mask/AP/{name}"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert 0.1 < ours["mask/AP"] < 0.95  # the scene asks for something


def test_figures_of_boxes_are_there_too_and_are_those_of_coco_boxes() -> None:
    truths, predictions = scene(1)
    masks, boxes = CocoMasks(truths, NAMES), CocoBoxes(truths, NAMES)
    masks.update(predictions)
    boxes.update(predictions)
    ours, expected = masks.compute(), boxes.compute()
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=0, nan_ok=True)
    assert {name.removeprefix("mask/") for name in ours} == set(expected)


def test_a_perfect_mask_in_a_box_that_is_off_is_told_from_a_perfect_box_with_a_mask_that_is_off() -> None:
    pixels = np.ones((20, 20), bool)
    patch = MaskPatch(pixels=pixels, x=10, y=10)
    truth = Record(
        id="a", images=(Path("a"),), size_hw=SIZE_HW,
        objects=Objects(
            boxes_xyxy=np.array([[10, 10, 30, 30]], np.float32),
            labels=np.array([0]),
            masks=(text_rle(raster(pixels, 10, 10)),),
        ),

    )  # fmt: skip
    off_box = found("a", [patch], [0.9], [0]).with_columns(boxes_xyxy=torch.tensor([[0.0, 0, 9, 9]]))
    off_mask = found("a", [MaskPatch(pixels=np.eye(20, dtype=bool), x=10, y=10)], [0.9], [0])
    for prediction, box_ap, mask_ap in ((off_box, 0, 1), (off_mask, 1, 0)):
        metric = CocoMasks([truth], NAMES)
        metric.update([prediction])
        figures = metric.compute()
        assert (figures["AP"], figures["mask/AP"]) == pytest.approx((box_ap, mask_ap))


def test_no_detections_score_zero_and_no_truth_is_unknown() -> None:
    truths, predictions = scene(0)
    metric = CocoMasks(truths, NAMES)
    assert metric.compute()["mask/AP"] == 0
    bare = [Record(id=t.id, images=t.images, size_hw=SIZE_HW) for t in truths]
    metric = CocoMasks(bare, NAMES)
    metric.update(predictions)
    figures = metric.compute()
    assert figures.pop("max_detections") == 100
    assert all(math.isnan(value) for value in figures.values())


def test_windows_are_joined_with_their_masks() -> None:
    truths, predictions = scene(3)
    windows = [(0.0, 0.0, 100.0, 90.0), (20.0, 0.0, 120.0, 90.0)]
    halves = [
        replace(one, id=f"{one.id}@{i}", window_xyxy=window) for one in predictions for i, window in enumerate(windows)
    ]
    both, once = CocoMasks(truths, NAMES), CocoMasks(truths, NAMES)
    both.update(halves)
    once.update([replace(one, window_xyxy=windows[0]) for one in predictions])
    figures = both.compute()
    assert figures["mask/AP50"] > 0.8 * once.compute()["mask/AP50"] > 0.1


def test_condensed_predictions_give_the_same_figures_and_hold_no_pixels() -> None:
    truths, predictions = scene(2)
    plain, condensed = CocoMasks(truths, NAMES), CocoMasks(truths, NAMES)
    plain.update(predictions)
    small = [condensed.condense(one) for one in predictions]
    condensed.update(small)
    assert condensed.compute() == pytest.approx(plain.compute(), abs=0, nan_ok=True)
    assert all(isinstance(runs["counts"], bytes) for one in small for runs in one.columns["masks"])


def test_an_object_or_a_prediction_without_a_mask_is_refused() -> None:
    truths, predictions = scene(1)
    with pytest.raises(UserError, match="without a mask"):
        CocoMasks([truths[1].with_columns(masks=None)], NAMES)
    with pytest.raises(UserError, match="without masks"):
        CocoMasks(truths, NAMES).update([predictions[0].with_columns(masks=None)])
    with pytest.raises(UserError, match="does not have"):
        CocoMasks(truths[1:], NAMES).update(predictions[:1])
