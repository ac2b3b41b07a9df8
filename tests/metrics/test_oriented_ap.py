"""Oriented average precision: the devkit's and mmrotate's own figures, a plain loop, and the edges."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from tables import with_objects

from vistruct.config import Eval
from vistruct.contracts import BoxPrediction, Objects, Record
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.metrics.coco import CocoMasksConfig
from vistruct.metrics.oriented import OrientedBoxes, OrientedBoxesConfig
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, quads_to_cxcywha, xyxy_to_cxcywha
from vistruct.samples import trees
from vistruct.windows.tiles import Tiles, windows

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "dota_eval/expected.json").read_text())
CLASSES = tuple(EXPECTED["classes"])


def record(image: str, quads: Any, labels: list[int] | np.ndarray, **flags: Any) -> Record:
    quads = np.asarray(quads, np.float32).reshape(-1, 4, 2)
    hulls = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    return Record(
        id=image,
        images=(Path(image),),
        objects=Objects(boxes_xyxy=hulls, quads=quads, labels=np.asarray(labels, np.int64), **flags),
    )


def predicted(image: str, boxes: torch.Tensor, scores: list[float], labels: list[int], **fields: Any) -> BoxPrediction:
    boxes = torch.as_tensor(boxes).reshape(-1, 5)
    values: dict[str, Any] = {"class_names": CLASSES, "id": image, "boxes_cxcywha": boxes} | fields
    return BoxPrediction(
        image_id=image,
        **with_objects(
            {
                "boxes_xyxy": cxcywha_to_xyxy(boxes),
                "scores": torch.tensor(scores, dtype=torch.float64),
                "labels": torch.tensor(labels, dtype=torch.int64),
                **values,
            }
        ),
    )


def golden_truths() -> list[Record]:
    truths = []
    for image in (GOLDEN / "dota_eval/imageset.txt").read_text().split():
        rows = [line.split() for line in (GOLDEN / f"dota_eval/labelTxt/{image}.txt").read_text().splitlines()[2:]]
        quads = np.array([[float(value) for value in row[:8]] for row in rows])
        difficult = np.array([row[9] == "1" for row in rows], bool)
        truths.append(record(image, quads, [CLASSES.index(row[8]) for row in rows], is_difficult=difficult))
    return truths


def golden_predictions() -> list[BoxPrediction]:
    rows = defaultdict(list)
    for label, name in enumerate(CLASSES):
        for line in (GOLDEN / f"dota_eval/detections/Task1_{name}.txt").read_text().splitlines():
            image, score, *corners = line.split()
            rows[image].append((float(score), label, [float(value) for value in corners]))
    found = []
    for image, entries in rows.items():
        scores, labels, corners = zip(*entries, strict=True)
        boxes = quads_to_cxcywha(torch.tensor(corners, dtype=torch.float64).reshape(-1, 4, 2))
        found.append(predicted(image, boxes, list(scores), list(labels)))
    return found


@pytest.mark.parametrize("level", [0.5, 0.75])
@pytest.mark.parametrize(("rule", "name"), [(0, "area"), (1, "voc07_11point")])
def test_every_class_has_the_average_precision_of_the_devkit(level: float, rule: int, name: str) -> None:
    metric = OrientedBoxes(golden_truths(), CLASSES)
    metric.update(golden_predictions())
    expected = EXPECTED["dota_devkit"][f"iou{level}_{name}"]
    ours = metric.average_precisions([level])[rule, 0]
    assert ours.tolist() == pytest.approx([expected["AP"][c] for c in CLASSES], abs=1e-9)
    assert ours.mean() == pytest.approx(expected["mAP"], abs=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.75])
@pytest.mark.parametrize(("rule", "name"), [(0, "area"), (1, "voc07_11point")])
@pytest.mark.parametrize(("difficult", "words"), [("ignore", "as_ignore"), ("count", "as_normal_gt")])
def test_every_class_has_the_average_precision_of_mmrotate(golden, level, rule, name, difficult, words) -> None:
    config = OrientedBoxesConfig(rules="mmrotate", difficult=difficult)
    metric = OrientedBoxes(golden_truths(), CLASSES, config)
    arrays = golden("dota_eval/mmrotate_inputs.safetensors").tensors
    for number, image in enumerate((GOLDEN / "dota_eval/imageset.txt").read_text().split()):
        mine = arrays["det_image"] == number
        rows, labels = arrays["det_obb_score"][mine], arrays["det_label"][mine]
        metric.update([predicted(image, rows[:, :5], rows[:, 5].tolist(), labels.tolist())])
    expected = EXPECTED["mmrotate"][f"difficult_{words}_iou{level}_{name}"]
    ours = metric.average_precisions([level])[rule, 0]
    assert ours.tolist() == pytest.approx([expected["AP"][c] for c in CLASSES], abs=1e-6)
    assert ours.mean() == pytest.approx(expected["mAP"], abs=1e-6)


def scene(seed: int, images: int = 4) -> tuple[list[Record], list[BoxPrediction]]:
    """Quads that are no rectangles, some not convex, some difficult, some crowds; found shaken, twice, or not."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for i in range(images):
        count = int(rng.integers(0, 25))
        size = rng.uniform(4, 60, (count, 2))
        boxes = np.column_stack([rng.uniform(0, 200, (count, 2)), size, rng.uniform(-1.57, 1.57, count)])
        quads = cxcywha_to_quads(torch.from_numpy(boxes)).numpy() + rng.normal(0, 2, (count, 4, 2))
        dented = rng.random(count) < 0.15
        quads[dented, 0] = boxes[dented, None, :2].mean(axis=1) + rng.normal(0, 1, (dented.sum(), 2))
        crosses = ~shapely.is_valid(shapely.polygons(quads))  # what such a quad covers is anyone's guess
        quads[crosses] = cxcywha_to_quads(torch.from_numpy(boxes[crosses])).numpy()
        labels = rng.integers(0, 3, count)
        flags = {"is_difficult": rng.random(count) < 0.2, "is_crowd": rng.random(count) < 0.1}
        truths.append(record(f"{i}.png", quads, labels, **flags))
        twice = np.concatenate([boxes, boxes])[rng.random(2 * count) < 0.7]
        shaken = twice + rng.normal(0, 1, twice.shape) * [2, 2, 2, 2, 0.05]
        alarms = np.column_stack([rng.uniform(0, 200, (6, 2)), rng.uniform(4, 60, (6, 2)), rng.uniform(-1.5, 1.5, 6)])
        found = np.concatenate([shaken, alarms])
        found[:, 2:4] = np.abs(found[:, 2:4]) + 1
        scores = rng.random(len(found))
        predictions.append(
            predicted(f"{i}.png", torch.from_numpy(found), scores.tolist(), rng.integers(0, 4, len(found)).tolist())
        )
    return truths, predictions


def by_loop(truths: list[Record], predictions: list[BoxPrediction], label: int, level: float) -> tuple[float, float]:
    """The devkit's loop over one class, with shapely: area and 11-point."""
    objects, rows = {}, []
    for truth in truths:
        assert truth.objects.quads is not None
        mine = [i for i in range(len(truth.objects)) if truth.objects.labels[i] == label]
        shapes = {i: shapely.Polygon(truth.objects.quads[i].astype(float)) for i in mine}
        objects[truth.id] = (truth, [i for i in mine if not truth.objects.is_crowd[i]], shapes)
    for one in predictions:
        assert one.objects.boxes_cxcywha is not None
        corners = cxcywha_to_quads(one.objects.boxes_cxcywha).numpy()
        rows += [
            (score, one.image_id, shapely.Polygon(corner))
            for score, corner, k in zip(one.objects.scores.tolist(), corners, one.objects.labels.tolist(), strict=True)
            if k == label
        ]
    taken, hits, alarms = set(), [], []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        truth, singles, shapes = objects[image]
        best, best_iou = None, 0.0
        for i in singles:
            shared = box.intersection(shapes[i]).area
            iou = shared / (box.area + shapes[i].area - shared)
            if iou > best_iou:
                best, best_iou = i, iou
        crowd = max(
            (box.intersection(s).area / box.area for i, s in shapes.items() if truth.objects.is_crowd[i]), default=0
        )
        hit = alarm = False
        if best_iou > level:
            hit = not truth.objects.is_difficult[best] and (image, best) not in taken
            alarm = not truth.objects.is_difficult[best] and not hit
            if hit:
                taken.add((image, best))
        else:
            alarm = True
        hits.append(hit)
        alarms.append(alarm and crowd <= level)
    number = sum(int(not truth.objects.is_difficult[i]) for truth, singles, _ in objects.values() for i in singles)
    if number == 0:
        return math.nan, math.nan
    hits, alarms = np.cumsum(hits), np.cumsum(alarms)
    recall, precision = hits / number, hits / np.maximum(hits + alarms, 1e-12)
    eleven = sum(max(precision[recall >= t], default=0) for t in np.arange(0, 1.1, 0.1)) / 11
    steps = np.diff(np.concatenate([[0.0], recall]))
    area = sum(step * precision[i:].max() for i, step in enumerate(steps) if step > 0)
    return area, eleven


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_a_plain_loop_over_polygons(seed: int) -> None:
    truths, predictions = scene(seed)
    metric = OrientedBoxes(truths, CLASSES)
    metric.update(predictions)
    levels = [0.3, 0.5, 0.75]
    ours = metric.average_precisions(levels)
    for k in range(len(CLASSES)):
        for i, level in enumerate(levels):
            expected = by_loop(truths, predictions, k, level)
            assert ours[:, i, k].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_do_not_depend_on_the_order_of_images_or_detections(seed: int) -> None:
    truths, predictions = scene(seed)
    rng = torch.Generator().manual_seed(seed)
    shuffled = [one.keep(torch.randperm(len(one.objects), generator=rng)) for one in predictions[::-1]]
    figures = []
    for some, found in ((truths, predictions), (truths[::-1], shuffled)):
        metric = OrientedBoxes(some, CLASSES)
        metric.update(found)
        figures.append(metric.compute())
    assert figures[0] == pytest.approx(figures[1], abs=1e-12, nan_ok=True)


BOX = torch.tensor([[50.0, 50.0, 40.0, 10.0, 0.3]])
QUAD = cxcywha_to_quads(BOX).numpy()


def figures_of(truth: Record, found: BoxPrediction | None, **settings: object) -> dict[str, float]:
    metric = OrientedBoxes([truth], CLASSES, OrientedBoxesConfig.model_validate(settings))
    metric.update([] if found is None else [found])
    return metric.compute()


def test_finding_the_object_gives_one_and_a_class_without_objects_is_unknown_and_not_in_the_mean() -> None:
    figures = figures_of(record("a", QUAD, [1]), predicted("a", BOX, [0.9], [1]))
    assert figures["AP50"] == figures["AP75"] == figures["AP50 area"] == 1
    assert figures["AP50 11-point"] == pytest.approx(1)
    assert figures["AP"] == figures["AP/ship"] == figures["AP50/ship"] == 1
    assert math.isnan(figures["AP/plane"])
    assert math.isnan(figures["AP50/plane"])


def test_no_detections_score_zero_and_no_objects_are_unknown() -> None:
    figures = figures_of(record("a", QUAD, [1]), None)
    assert (figures["AP"], figures["AP50"], figures["AP75"]) == (0, 0, 0)
    for bare in (record("a", np.zeros((0, 4, 2)), []), record("a", QUAD, [1], is_difficult=np.array([True]))):
        figures = figures_of(bare, predicted("a", BOX, [0.9], [1]))
        assert all(math.isnan(value) for value in figures.values())


def test_a_detection_of_a_difficult_object_counts_only_where_asked() -> None:
    quads = np.concatenate([QUAD, QUAD + 100])
    truth = record("a", quads, [1, 1], is_difficult=np.array([True, False]))
    found = predicted("a", torch.cat([BOX, BOX + torch.tensor([100.0, 100, 0, 0, 0])]), [0.9, 0.8], [1, 1])
    assert figures_of(truth, found)["AP50"] == 1
    assert figures_of(truth, found, difficult="count")["AP50"] == 1
    only = predicted("a", BOX, [0.9], [1])
    assert figures_of(truth, only)["AP50"] == 0
    assert figures_of(truth, only, difficult="count")["AP50"] == pytest.approx(0.5)


def test_a_false_alarm_in_a_crowd_does_not_count_and_the_crowd_need_not_be_found() -> None:
    crowd = np.array([[[200, 200], [300, 200], [300, 300], [200, 300]]])
    truth = record("a", np.concatenate([QUAD, crowd]), [1, 1], is_crowd=np.array([False, True]))
    boxes = torch.cat([torch.tensor([[250.0, 250, 20, 10, 0.5], [220.0, 220, 30, 12, 0.1]]), BOX])
    assert figures_of(truth, predicted("a", boxes, [0.95, 0.9, 0.8], [1, 1, 1]))["AP50"] == 1
    elsewhere = predicted("a", boxes, [0.95, 0.9, 0.8], [1, 0, 1])  # an alarm of a class whose crowd it is not
    assert figures_of(truth, elsewhere)["AP50"] == 1
    alarm = predicted("a", torch.cat([boxes[:1] + 400, BOX]), [0.95, 0.8], [1, 1])
    assert figures_of(truth, alarm)["AP50"] == pytest.approx(0.5)


def test_an_overlap_of_exactly_the_threshold_is_enough_for_mmrotate_and_not_for_the_devkit() -> None:
    truth = record("a", [[[0, 0], [8, 0], [8, 4], [0, 4]]], [0])
    half = predicted("a", torch.tensor([[4.0, 1.0, 8.0, 2.0, 0.0]]), [0.9], [0])
    assert figures_of(truth, half, thresholds=[0.5])["AP"] == 0
    assert figures_of(truth, half, thresholds=[0.5], rules="mmrotate")["AP"] == 1


def test_the_devkit_measures_on_the_annotated_quad_and_mmrotate_on_the_rectangle_around_it() -> None:
    kite = record("a", [[[0, 20], [20, 0], [60, 20], [20, 40]]], [0])
    box = quads_to_cxcywha(torch.tensor(kite.objects.quads))
    assert figures_of(kite, predicted("a", box, [0.9], [0]), thresholds=[0.9], rules="mmrotate")["AP"] == 1
    assert figures_of(kite, predicted("a", box, [0.9], [0]), thresholds=[0.9])["AP"] == 0


def test_hulls_are_compared_in_whole_pixels_by_the_devkit_and_as_they_are_by_mmrotate() -> None:
    truth = record("a", [[[10.7, 10], [14, 10], [14, 14], [10.7, 14]]], [0])  # to the devkit 10 to 14, 25 px^2
    objects = Objects(boxes_xyxy=torch.tensor([[10.0, 10.0, 13.0, 13.0]]), labels=torch.zeros(1, dtype=torch.int64))
    found = BoxPrediction(id="a", image_id="a", objects=objects, class_names=CLASSES)
    by_devkit, plain = 16 / 25, 2.3 * 3 / (9 + 3.3 * 4 - 2.3 * 3)
    for iou, rules in ((by_devkit, "devkit"), (plain, "mmrotate")):
        for level, expected in ((iou - 1e-6, 1), (iou + 1e-6, 0)):
            assert figures_of(truth, found, boxes="hulls", rules=rules, thresholds=[level])["AP"] == expected


def test_a_detection_that_is_not_finite_or_has_no_area_is_a_false_alarm() -> None:
    boxes = torch.cat([torch.full((1, 5), float("nan")), BOX * torch.tensor([1.0, 1, 0, 1, 1]), BOX])
    figures = figures_of(record("a", QUAD, [1]), predicted("a", boxes, [0.9, 0.8, 0.7], [1, 1, 1]))
    assert figures["AP50"] == pytest.approx(1 / 3)


def test_windows_of_an_image_are_joined_before_they_are_measured() -> None:
    truth = record("a", np.concatenate([QUAD, QUAD + 100]), [1, 1])
    far = BOX + torch.tensor([100.0, 100, 0, 0, 0])
    windows = [
        predicted("a", torch.cat([BOX, far]), [0.9, 0.8], [1, 1], id=f"a@{i}", window_xyxy=window)
        for i, window in enumerate([(0.0, 0.0, 180.0, 180.0), (20.0, 0.0, 200.0, 180.0)])
    ]
    metric = OrientedBoxes([truth], CLASSES)
    metric.update(windows)
    assert metric.compute()["AP50"] == 1  # and not with two false alarms


def test_horizontal_predictions_and_strange_images_and_thresholds_are_refused() -> None:
    metric = OrientedBoxes([record("a", QUAD, [1])], CLASSES)
    with pytest.raises(UserError, match="horizontal"):
        metric.update([predicted("a", BOX, [0.9], [1], boxes_cxcywha=None)])
    metric.update([predicted("a", BOX[:0], [], [], boxes_cxcywha=None)])  # nothing found is neither
    with pytest.raises(UserError, match="does not have"):
        metric.update([predicted("b", BOX, [0.9], [1])])
    with pytest.raises(UserError, match="thresholds"):
        OrientedBoxesConfig(thresholds=(0.5, 1.5))


def test_a_data_set_without_quads_is_measured_on_its_boxes_window_by_window() -> None:
    tiles = Tiles(size=400, overlap=150)
    dataset = BoxDataConfig(annotation=trees().test, tiles=tiles).build()
    (whole,) = dataset.whole_records
    assert whole.size_hw is not None
    metric = OrientedBoxesConfig.model_validate({"rule": "11-point"}).build(dataset)
    for window in windows(whole.size_hw, tiles):
        x0, y0, x1, y1 = window
        boxes = torch.from_numpy(whole.objects.boxes_xyxy)
        inside = ((boxes[:, :2] >= torch.tensor([x0, y0])) & (boxes[:, 2:] <= torch.tensor([x1, y1]))).all(dim=1)
        some = xyxy_to_cxcywha(boxes[inside])
        names, labels = dataset.info.class_names, whole.objects.labels[inside.numpy()].tolist()
        place = {"id": f"{window}", "window_xyxy": tuple(map(float, window)), "class_names": names}
        metric.update([predicted(whole.id, some, [0.9] * len(some), labels, **place)])
    figures = metric.compute()
    assert figures["AP50"] > 0.9  # crowns that touch may be taken for one when windows are joined
    assert figures["AP50 area"] > 0.9


def test_data_with_windows_left_out_is_refused() -> None:
    dataset = BoxDataConfig(annotation=trees().test, fraction=0.5, tiles=Tiles(size=400)).build()
    with pytest.raises(UserError, match="left out"):
        OrientedBoxesConfig().build(dataset)


@pytest.mark.parametrize(("kind", "part"), [("oriented_boxes", OrientedBoxesConfig), ("coco_masks", CocoMasksConfig)])
def test_a_run_file_finds_the_metric_by_its_kind(kind: str, part: type) -> None:
    data = {"kind": "boxes", "annotation": "a.json"}
    assert isinstance(Eval.model_validate({"data": data, "metric": {"kind": kind}}).metric, part)
