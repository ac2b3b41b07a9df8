"""Answers that point, measured: against pycocotools, dense masks and closed formulas, however they are portioned."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment
from torchmetrics.functional.classification import binary_jaccard_index
from torchvision.ops import box_iou

from vistruct.contracts import AnswerPrediction, Grounded, GroundedPrediction, MaskPatch, Objects, Phrase
from vistruct.errors import UserError
from vistruct.metrics.answers import Answers, by_family
from vistruct.metrics.grounded import GroundedConfig, Grounding
from vistruct.ops.key_points import COCO_SIGMAS

NAMES = ("oak", "ash", "tall fir")
SIZE = (60, 80)


def side(named: Sequence[tuple[str, Sequence[Any]]], unit: str = "box", words: str = "", **more: Any) -> Grounded:
    """Phrases with a box (xyxy), or with the columns of `more`, for each of their objects."""
    rows, phrases = [], []
    for text, boxes in named:
        phrases.append(Phrase(text=text, unit=unit, rows=tuple(range(len(rows), len(rows) + len(boxes)))))
        rows += list(boxes)
    plan = more.pop("plan", ())
    defects = more.pop("defects", ())
    labels = torch.zeros(len(rows), dtype=torch.int64)
    objects = Objects(labels=labels, boxes_xyxy=torch.from_numpy(np.array(rows, np.float32).reshape(-1, 4)), **more)
    return Grounded(words=words, phrases=tuple(phrases), objects=objects, plan=plan, defects=defects)


def asked(found: Grounded, truth: Grounded | None, name: str = "0", family: str = "find"):
    image = name.partition("-")[0]
    return GroundedPrediction(id=name, image_id=image, question="?", answer="", found=found, truth=truth, family=family)


def measured(predictions: Sequence[GroundedPrediction], **settings: Any) -> dict[str, float]:
    metric = Grounding(GroundedConfig(**settings))
    metric.update(predictions)
    return metric.compute()


def boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    low = rng.uniform(0, 40, (number, 2))
    return np.float32(np.concatenate([low, low + rng.uniform(4, 30, (number, 2))], axis=1))


def filled(box: Sequence[float]) -> np.ndarray:
    """A mask of that box, with a hole."""
    mask = np.zeros(SIZE, bool)
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    mask[y1:y2, x1:x2] = True
    mask[(y1 + y2) // 2, (x1 + x2) // 2] = False
    return mask


def scene(seed: int, unit: str, num: int = 12) -> list[GroundedPrediction]:
    """Objects of three names, and answers of which about half are shaken truths."""
    rng = np.random.default_rng(seed)
    predictions = []
    for i in range(num):
        sides = []
        true = boxes(rng, int(rng.integers(2, 7)) if i else 0)
        shaken = np.float32(true + rng.normal(0, 2, true.shape))
        said = np.concatenate([shaken[rng.random(len(true)) < 0.8], boxes(rng, 2)])
        for own in (said, true):
            of = rng.integers(0, 3, len(own)) if own is said else np.arange(len(own)) % 3
            if own is said:
                of[: len(true)] = (np.arange(len(true)) % 3)[: len(of)]
            order = np.argsort(of, kind="stable")
            own, of = own[order], of[order]
            more: dict[str, Any] = {"scores": torch.from_numpy(rng.random(len(own)).astype(np.float32))}
            if unit == "mask":
                more["masks"] = torch.from_numpy(np.array([filled(box) for box in own]).reshape(-1, *SIZE))
            if unit == "keypoint":
                xy = own[:, None, :2] + np.linspace(0.1, 0.9, 17)[None, :, None] * (own[:, None, 2:] - own[:, None, :2])
                seen = rng.integers(0, 3, (len(own), 17, 1))
                seen[:, 0] = 2
                more["keypoints"] = torch.from_numpy(np.float32(np.concatenate([xy, seen], axis=2)))
            sides.append(side([(name, own[of == k]) for k, name in enumerate(NAMES)], unit, **more))
        predictions.append(asked(*sides, name=f"{i // 2}-{i}"))
    return predictions


def rows(one: Grounded, number: int, unit: str) -> list[dict[str, Any]]:
    """As in a file of COCO's form."""
    found = []
    for phrase in one.phrases:
        for row in phrase.rows:
            x1, y1, x2, y2 = (float(v) for v in one.objects.boxes_xyxy[row])
            area = (x2 - x1) * (y2 - y1)
            coco: dict[str, Any] = {"image_id": number, "category_id": NAMES.index(phrase.text) + 1, "iscrowd": 0}
            coco |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "score": float(one.objects.scores[row])}
            if unit == "mask":
                coco["segmentation"] = coco_mask.encode(
                    np.asfortranarray(one.objects.masks[row].numpy().astype(np.uint8))
                )
                coco["area"] = float(one.objects.masks[row].sum())
            if unit == "keypoint":
                assert one.objects.keypoints is not None
                points = one.objects.keypoints[row].double().numpy()
                coco |= {"keypoints": points.ravel().tolist(), "area": 0.53 * area}
                coco["num_keypoints"] = int((points[:, 2] > 0).sum())
            found.append(coco)
    return found


def reference(predictions: Sequence[GroundedPrediction], unit: str, kind: Any) -> COCOeval:
    files = []
    for which in ("truth", "found"):
        annotations = [row for i, one in enumerate(predictions) for row in rows(vars(one)[which], i, unit)]
        file = COCO()
        file.dataset = {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(predictions))],
            "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, start=1)],
            "annotations": [row | {"id": i} for i, row in enumerate(annotations, start=1)],
        }
        file.createIndex()
        files.append(file)
    evaluation = COCOeval(*files, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize(("unit", "kind"), [("box", "bbox"), ("mask", "segm"), ("keypoint", "keypoints")])
def test_average_precision_is_that_of_pycocotools(unit, kind):
    predictions = scene(3, unit)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = reference(predictions, unit, kind)
    precision = evaluation.eval["precision"][..., 0, -1]  # [10, 101, K], all areas, most detections
    figures = measured(predictions)
    assert figures["AP/find"] == pytest.approx(precision.mean(), abs=1e-9)
    assert figures["AP50/find"] == pytest.approx(precision[0].mean(), abs=1e-9)
    assert 0.02 < figures["AP50/find"] < 0.95


def test_the_similarity_of_key_points_is_that_of_pycocotools():
    predictions = scene(4, "keypoint")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = reference(predictions, "keypoint", "keypoints")
        evaluation.params.useCats = 0
        total = number = 0.0
        for i, one in enumerate(predictions):
            assert one.truth is not None
            similarity = _all_oks(evaluation, i)
            pairs = linear_sum_assignment(similarity, maximize=True) if similarity.size else ([], [])
            total, number = total + similarity[pairs].sum(), number + len(one.truth.objects)
    assert measured(predictions)["OKS/find"] == pytest.approx(total / number, abs=1e-9)


def _all_oks(evaluation: COCOeval, image: int) -> np.ndarray:
    """Of all objects of an image, whatever their class."""
    for gathered in (evaluation._gts, evaluation._dts):
        gathered[image, -1] = [row for k in range(1, len(NAMES) + 1) for row in gathered[image, k]]
    return np.array(evaluation.computeOks(image, -1)).reshape(
        len(evaluation._dts[image, -1]), len(evaluation._gts[image, -1])
    )


def test_places_of_boxes_are_those_of_torchvision():
    """F1, recall and mean IoU by a slow way: all names, all pairs."""
    predictions = scene(5, "box")
    right = said = wanted = 0
    near = 0.0
    for one in predictions:
        assert one.truth is not None
        shared = box_iou(one.found.objects.boxes_xyxy.double(), one.truth.objects.boxes_xyxy.double()).numpy()
        names = [[p.text for p in grounded.phrases for _ in p.rows] for grounded in (one.found, one.truth)]
        same = np.array([[a == b for b in names[1]] for a in names[0]], bool).reshape(shared.shape)
        near += shared[linear_sum_assignment(shared, maximize=True)].sum()
        hits = ((shared >= 0.5) & same).astype(float)
        right += hits[linear_sum_assignment(hits, maximize=True)].sum()
        said, wanted = said + shared.shape[0], wanted + shared.shape[1]
    figures = measured(predictions)
    assert figures["f1_50/find"] == pytest.approx(2 * right / (said + wanted)) == pytest.approx(figures["f1_50"])
    assert figures["precision50/find"] == pytest.approx(right / said)
    assert figures["recall50/find"] == pytest.approx(right / wanted)
    assert figures["mIoU/find"] == pytest.approx(near / wanted)


def referred(which: Sequence[tuple[Any, Any]]) -> list[GroundedPrediction]:
    """Questions for one thing: boxes said and true, None for nothing."""
    sides = [[side([("it", [box])] if box is not None else []) for box in pair] for pair in which]
    return [asked(*pair, name=str(i), family="refer") for i, pair in enumerate(sides)]


def test_a_missing_answer_is_wrong_and_none_is_right_where_there_is_none():
    box, half, far = (0, 0, 10, 10), (0, 0, 10, 6), (50, 50, 60, 60)
    figures = measured(referred([(box, box), (half, box), (far, box), (None, box), (None, None), (box, None)]))
    assert figures["acc50/refer"] == pytest.approx(3 / 6)
    assert figures["iou/refer"] == pytest.approx((1 + 0.6 + 0 + 0 + 1 + 0) / 6)
    assert figures["no_answer/refer"] == pytest.approx(1 / 4)
    assert figures["count/refer"] == pytest.approx(4 / 6)
    assert figures["error/refer"] == pytest.approx(math.sqrt(0.25 / 6))
    assert "AP/refer" not in figures


def test_of_several_answers_about_one_thing_the_surest_counts():
    truth = side([("it", [(0, 0, 10, 10)])])
    two = side([("it", [(50, 50, 60, 60), (0, 0, 10, 10)])], scores=torch.tensor([0.2, 0.7]))
    assert measured([asked(two, truth)])["acc50/find"] == 1.0
    other = side([("it", [(50, 50, 60, 60), (0, 0, 10, 10)])], scores=torch.tensor([0.7, 0.2]))
    assert measured([asked(other, truth)])["acc50/find"] == 0.0


def test_cumulative_and_mean_overlap_of_masks_are_those_of_torchmetrics():
    """Several objects of a phrase are one region; masks may be whole, patches, run lengths or polygons."""
    rng = np.random.default_rng(0)
    predictions, both, either, own = [], 0.0, 0.0, []
    for i in range(8):
        said, true = ([filled(box) for box in boxes(rng, number)] for number in (int(rng.integers(1, 3)), 1))
        if i in (3, 4):
            said = []
        if i in (4, 5):
            true = []
        patches = tuple(MaskPatch(pixels=mask[2:, 1:], x=1, y=2) for mask in said)
        hulls = [[(0, 0, 1, 1)] * len(one) for one in (said, true)]
        found = side([("it", hulls[0])] if said else [], "mask", masks=patches)
        kept = tuple(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in true)
        truth = side([("it", hulls[1])] if true else [], "mask", masks=kept)
        predictions.append(asked(found, truth, name=str(i), family="region"))
        dense = [np.any(one, axis=0) if one else np.zeros(SIZE, bool) for one in (said, true)]
        both, either = both + (dense[0] & dense[1]).sum(), either + (dense[0] | dense[1]).sum()
        is_empty = not dense[0].any() and not dense[1].any()
        own.append(1.0 if is_empty else float(binary_jaccard_index(*(torch.from_numpy(d).int() for d in dense))))
    figures = measured(predictions)
    assert figures["cIoU/region"] == pytest.approx(both / either)
    assert figures["gIoU/region"] == pytest.approx(np.mean(own), abs=1e-6)
    as_published = measured(predictions, published=True)
    assert as_published["published_gIoU/region"] != pytest.approx(figures["gIoU/region"], abs=1e-3)


def test_a_polygon_is_a_mask():
    truth = side([("it", [(0, 0, 1, 1)])], "mask", masks=([[0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]],))
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, :10, :5] = True
    found = side([("it", [(0, 0, 1, 1)])], "mask", masks=mask)
    assert measured([asked(found, truth)])["gIoU/find"] == pytest.approx(0.5)


def test_other_key_points_have_one_sigma_for_all():
    true = torch.tensor([[[0.0, 0.0, 2.0], [10.0, 0.0, 1.0], [5.0, 5.0, 0.0]]])
    said = torch.tensor([[[3.0, 0.0, 2.0], [10.0, 4.0, 2.0], [99.0, 99.0, 2.0]]])
    box = [(0, 0, 20, 10)]
    one = asked(side([("a", box)], "keypoint", keypoints=said), side([("a", box)], "keypoint", keypoints=true))
    for sigmas, told in ((None, [float(np.mean(COCO_SIGMAS))] * 3), ((0.05, 0.1, 0.2), [0.05, 0.1, 0.2])):
        own = [math.exp(-(d**2) / (2 * 0.53 * 200 * (2 * s) ** 2)) for d, s in zip((3, 4), told[:2], strict=True)]
        assert measured([one], sigmas=sigmas)["OKS/find"] == pytest.approx(np.mean(own), rel=1e-6)
    with pytest.raises(UserError, match="2 sigmas for 3 key points"):
        measured([one], sigmas=(0.1, 0.1))


def test_points_lie_on_the_mask_or_else_in_the_box():
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 10:20, 10:15] = True
    box = (10, 10, 20, 20)
    masked, boxed = side([("it", [box])], "point", masks=mask), side([("it", [box])], "point")
    inside, beside = side([("it", [(12, 12, 12, 12)])], "point"), side([("it", [(18, 12, 18, 12)])], "point")
    pairs = [(inside, masked), (beside, masked), (beside, boxed), (side([]), boxed)]
    figures = measured([asked(*pair, name=str(i)) for i, pair in enumerate(pairs)])
    assert figures["inside/find"] == pytest.approx(2 / 4)
    assert figures["distance/find"] == pytest.approx(np.mean([math.hypot(3, 3)] * 3))


def test_depth_by_its_formulas():
    rng = np.random.default_rng(1)
    true = rng.uniform(0.1, 1, (1, *SIZE)).astype(np.float32)
    true[0, :5] = 0  # nobody knows
    said = np.clip(true * rng.uniform(0.6, 1.6, true.shape), 0, 1).astype(np.float32)
    whole = [("map", [(0, 0, 80, 60)])]
    pair = [side(whole, "depth", masks=torch.from_numpy(depth)) for depth in (said, true)]
    known = true > 0
    relative = np.abs(said[known].astype(np.float64) - true[known]) / true[known]
    near = np.maximum(said[known] / true[known], true[known] / said[known]) < 1.25
    figures = measured([asked(*pair, family="depth"), asked(side([]), pair[1], name="1", family="depth")])
    assert figures["abs_rel/depth"] == pytest.approx((relative.mean() + 1) / 2, rel=1e-6)
    assert figures["delta1/depth"] == pytest.approx(near.mean() / 2, rel=1e-6)


def test_counts_and_plans():
    box, plan = (0, 0, 9, 9), (("oak", "box", 2),)
    truth = side([("oak", [box, box])], plan=plan)
    said = [
        side([("Oak", [box, box])], plan=(("an Oak", "box", 2),)),  # right
        side([("oak", [box])], plan=plan),  # not as planned
        side([("oak", [box] * 5)], plan=(("oak", "box", 5),)),  # planned wrongly, and kept
        side([("oak", [box, box])], "mask", masks=torch.ones(2, *SIZE, dtype=torch.bool), defects=("no end",)),
    ]
    figures = measured([asked(one, truth, name=str(i)) for i, one in enumerate(said)])
    assert figures["count"] == pytest.approx(1 / 4)
    assert figures["count_mae"] == pytest.approx((0 + 1 + 3 + 2) / 4)
    assert figures["plan"] == pytest.approx(2 / 4)
    assert figures["plan_kept"] == pytest.approx(2 / 4)
    assert figures["wrong_unit"] == figures["broken"] == figures["no_answer/find"] == pytest.approx(1 / 4)


def by_first_letter(said: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    return np.array([[0.9 if a[0] == b[0] else 0.1 for b in wanted] for a in said]).reshape(len(said), len(wanted))


def test_words_are_the_same_as_the_function_says_that_is_given():
    truth = side([("oak", [(0, 0, 9, 9), (20, 0, 29, 9)])])
    said = side([("The  Oak.", [(0, 0, 9, 9)]), ("other", [(20, 0, 29, 9)])])
    one = [asked(said, truth)]
    assert measured(one, words="exact")["f1_50"] == 0.0
    assert measured(one)["f1_50"] == pytest.approx(0.5)
    assert measured(one)["named/find"] == pytest.approx(0.5)
    own = measured(one, words=f"{__name__}:by_first_letter")
    assert own["f1_50"] == pytest.approx(0.5)  # "The" begins with T
    assert own["AP50/find"] == pytest.approx(51 / 101, abs=1e-6)
    for wrong in ("clip", "no_such_module:f", f"{__name__}:NAMES"):
        with pytest.raises(UserError):
            GroundedConfig(words=wrong).build(None)


def test_words_are_measured_as_other_answers_are():
    said = [("yes", "no"), ("yes", "yes"), ("no", "no")]
    ones = [AnswerPrediction(id=str(i), image_id=str(i), question="?", answer=a, truth=b, family="is_there")
            for i, (a, b) in enumerate(said)]  # fmt: skip
    plain = Answers()
    plain.update(ones)
    pointing = [
        asked(side([], words=a), side([], words=b), name=str(i), family="is_there") for i, (a, b) in enumerate(said)
    ]
    box = [(0, 0, 9, 9)]
    sentence = "a tall oak stands beside the old grey house"
    pointing.append(
        asked(side([("a tall oak", box)], words=sentence), side([("oak", box)], words=sentence), "7", "tell")
    )
    figures = measured(pointing)
    for name, value in plain.compute().items():
        if name != "questions":
            assert figures[name] == value, name
    assert figures["questions"] == 4
    assert figures["bleu4/tell"] == 1.0
    assert figures["acc50/tell"] == 1.0


def test_units_of_a_family_are_measured_apart_and_all_families_of_a_unit_together():
    box = (0, 0, 10, 10)
    masked = {"masks": torch.ones(1, *SIZE, dtype=torch.bool)}
    ones = [
        asked(side([("it", [box])]), side([("it", [box])]), "0", "a"),
        asked(side([("it", [box])], "mask", **masked), side([("it", [box])], "mask", **masked), "1", "a"),
        asked(side([]), side([("it", [box])]), "2", "b"),
        asked(side([]), None, "3", "b"),
        asked(side([("it", [box])]), side([("it", [box])]), "4", ""),
    ]
    figures = measured(ones)
    assert figures["acc50/a (box)"] == figures["gIoU/a (mask)"] == figures["acc50/(box)"] == 1.0
    assert figures["acc50/b"] == 0.0
    assert figures["acc50/all (box)"] == pytest.approx(2 / 3)
    assert figures["questions/all (box)"] == 3
    assert (figures["questions"], figures["no_truth"], figures["unnamed"]) == (4, 1, 1)
    lines = {line.family: (line.measure, line.score) for line in by_family(figures)}
    assert lines["a (mask)"] == lines["(box)"] == ("acc50", 1.0)
    assert lines["all (box)"] == ("acc50", pytest.approx(2 / 3))


@pytest.mark.parametrize("unit", ["box", "mask", "keypoint"])
def test_figures_do_not_depend_on_how_predictions_are_portioned(unit):
    predictions = scene(6, unit)
    whole = Grounding()
    whole.update(predictions)
    figures = whole.compute()
    parts = Grounding()
    sent = pickle.loads(pickle.dumps([parts.condense(one) for one in predictions[::-1]]))
    parts.update(sent[:5])
    parts.update([])
    parts.update(sent[5:])
    assert parts.compute() == pytest.approx(figures, abs=1e-12, nan_ok=True)
    kept, others = whole.details()["per_image"], parts.details()["per_image"]
    for name, by_image in kept.items():
        above, below = np.sum(list(by_image.values()), axis=0)
        assert figures[name] == pytest.approx(above / below if below else math.nan, nan_ok=True), name
        assert by_image == {image: pytest.approx(sums) for image, sums in others[name].items()}


def test_better_answers_never_score_worse_where_a_direction_is_claimed():
    config = GroundedConfig()
    box, far, mask = (0, 0, 10, 10), (30, 30, 40, 45), torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, :10, :10] = True
    best: dict[str, float] = {}
    for where, planned, shown in ((box, 1, mask), (far, 3, ~mask)):
        ones = []
        for unit in ("box", "mask", "point", "keypoint", "depth"):
            sides = []
            for at, drawn in ((where, shown), (box, mask)):
                points = torch.tensor([[[float(at[0]), float(at[1]), 2.0]]])
                masks = drawn.float() if unit == "depth" else drawn
                plan = (("it", unit, planned if at is where else 1),)
                sides.append(side([("it", [at])], unit, masks=masks, keypoints=points, plan=plan))
            ones.append(asked(*sides, name=unit, family=unit))
        figures = measured(ones)
        for name, value in best.items():
            better = config.higher_is_better(name)
            if better is not None and not math.isnan(value) and not math.isnan(figures[name]):
                assert value >= figures[name] if better else value <= figures[name], name
        best = best or figures
    assert best["f1_50"] == best["plan"] == best["delta1/depth"] == 1.0
    assert config.usual(None) in best
    assert GroundedConfig().higher_is_better("questions/box") is None
