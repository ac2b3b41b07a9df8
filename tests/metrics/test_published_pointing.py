"""What the evaluators of VT-PLUG compute, on their own made-up predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import interpolate

from vistruct.contracts import Grounded, GroundedPrediction, Objects, Phrase
from vistruct.metrics.captions import bleu, cider_d
from vistruct.metrics.grounded import GroundedConfig, Grounding
from vistruct.metrics.published_pointing import (
    mean_overlap,
    recall,
    referring_boxes,
    referring_masks,
    rounded_iou,
    short_answer,
    short_answers,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "vtplug_metrics"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())["metrics"]
MASKS = load_file(GOLDEN / "masks.safetensors")


def corners(boxes_cxcywh: Any) -> np.ndarray:
    """As the original converts them: of what was kept in single precision, in double."""
    boxes = np.array(boxes_cxcywh, np.float32).reshape(-1, 4).astype(np.float64)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def on_image(masks: np.ndarray, size_wh: list[int], threshold: float, twice: bool = False) -> np.ndarray:
    """Masks of the square, smoothly resized and cut to the image."""
    (width, height), side = size_wh, max(size_wh)
    values = torch.from_numpy(masks.astype(np.float32))[None]
    values = (values > threshold).float() if twice else values
    large = interpolate(values, (side, side), mode="bilinear", align_corners=False)[0]
    top, left = (side - height) // 2, (side - width) // 2
    return (large[:, top : top + height, left : left + width] > threshold).numpy()


def likeness(said: list[str], wanted: list[str]) -> np.ndarray:
    """The similarity of words that the golden data make up."""

    def of(a: set[str], b: set[str]) -> float:
        return 1.0 if a == b else round(0.2 + 0.7 * len(a & b) / len(a | b), 4)

    return np.array([[of(set(a.split()), set(b.split())) for b in wanted] for a in said])


def names(counted: list[list[Any]]) -> list[str]:
    return [name for name, number in counted for _ in range(number)]


def words(case: dict[str, Any]) -> list[np.ndarray]:
    return [likeness(names(said), names(truth)) for said, truth in zip(case["said"], case["gt"], strict=True)]


def shared(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    both = (found[:, None] & truth[None]).sum(axis=(2, 3))
    return both / (found[:, None] | truth[None]).sum(axis=(2, 3))


def test_referring_boxes():
    case = EXPECTED["referring_boxes"]
    pairs = zip(case["pred_cxcywh"], case["gt_cxcywh"], strict=True)
    scores = referring_boxes([(corners(found or []), corners(truth)) for found, truth in pairs])
    assert scores["acc50"] == case["score"]["accuracy"]
    assert scores["iou"] == pytest.approx(case["score"]["iou"], abs=1e-6)


@pytest.mark.parametrize(
    ("silent", "empty", "key"),
    [
        (None, None, "score"),
        (1, None, "score_without_an_answer_for_image_1"),
        (None, 0, "score_with_an_empty_object_in_image_0_and_nothing_predicted"),
    ],
)
def test_referring_masks(silent, empty, key):
    case = EXPECTED["referring_masks"]
    areas: list[tuple[float, float] | None] = []
    for i, (found, truth, size) in enumerate(zip(MASKS["res.pred"], MASKS["res.gt"], case["sizes_wh"], strict=True)):
        a, b = on_image(found[None], size, case["threshold"]), on_image(truth[None], size, 0.5)
        areas.append(
            None if i == silent else (float((a & b).sum()), float((a | b).sum())) if i != empty else (0.0, 0.0)
        )
    scores = referring_masks(areas)
    assert scores["cIoU"] == pytest.approx(case[key]["class_iou"], abs=1e-6)
    assert scores["gIoU"] == pytest.approx(case[key]["global_iou"], abs=1e-6)


@pytest.mark.parametrize("name", ["detection_whole", "detection_class", "grounded_captions_box"])
def test_sets_of_boxes(name):
    case = {**EXPECTED["detection_whole"], **EXPECTED[name]}
    pairs = zip(case["pred_cxcywh"], case["gt_cxcywh"], strict=True)
    overlaps = [rounded_iou(corners(found), corners(truth)) for found, truth in pairs]
    assert mean_overlap(overlaps, words(case), name.endswith("class")) == pytest.approx(case["score"]["miou"], abs=1e-6)
    assert recall(overlaps, words(case)) == pytest.approx(case["score"]["recall"], abs=1e-6)


@pytest.mark.parametrize("name", ["segmentation_whole", "segmentation_class", "grounded_captions_mask"])
def test_sets_of_masks(name):
    case = EXPECTED[name]
    is_caption = name.startswith("grounded")
    overlaps = [
        shared(
            on_image(MASKS[f"seg.pred.{i}"], [40, 30], 0.5 if is_caption else case["threshold"], twice=is_caption),
            on_image(MASKS[f"seg.gt.{i}"], [40, 30], 0.5),
        )
        for i in range(4)
    ]
    assert mean_overlap(overlaps, words(case), name.endswith("class")) == pytest.approx(case["score"]["miou"], abs=1e-6)
    assert recall(overlaps, words(case)) == pytest.approx(case["score"]["recall"], abs=1e-6)


def test_short_answers():
    case = EXPECTED["vqa"]
    assert [[short_answer(a), short_answer(b)] for a, b in case["pairs"]] == case["extracted"]
    answers, truths = [a for a, _ in case["pairs"]], [[b] for _, b in case["pairs"]]
    assert short_answers(answers, truths) == case["score"]
    case = EXPECTED["okvqa"]
    of_several = [json.loads(told.replace("'", '"')) for _, told in case["pairs"]]
    assert short_answers([a for a, _ in case["pairs"]], of_several) == pytest.approx(case["score"])


def test_yes_and_no():
    case = EXPECTED["pope"]
    scores = short_answers([a for a, _ in case["pairs"]], [[b] for _, b in case["pairs"]])
    scores["yes_ratio"] = scores.pop("yes")
    assert scores == pytest.approx({name: case["score"][name] for name in scores})


@pytest.mark.parametrize("name", ["captions", "grounded_captions_box"])
def test_captions_are_those_of_the_existing_measures(name):
    case = EXPECTED[name]
    pairs = case["pairs" if name == "captions" else "captions"]
    answers, references = [a for a, _ in pairs], [[b] for _, b in pairs]
    assert 100 * cider_d(answers, references) == pytest.approx(case["score"]["CIDEr"], rel=1e-9)
    assert bleu(answers, references) == pytest.approx(case["score"]["BLEU4"], abs=1e-8)


def side(boxes: np.ndarray, text: str, size: int) -> Grounded:
    objects = Objects(labels=np.zeros(len(boxes), np.int64), boxes_xyxy=np.float32(boxes * size)).tensors()
    phrases = (Phrase(text=text, unit="box", rows=tuple(range(len(boxes)))),) if len(boxes) else ()
    return Grounded(words=text, phrases=phrases, objects=objects)


def test_the_metric_gives_them_beside_its_own():
    """A square image of 1,000 pixels: three decimals are whole pixels."""
    case = EXPECTED["referring_boxes"]
    metric = Grounding(GroundedConfig(published=True))
    pairs = [(f, t) for f, t in zip(case["pred_cxcywh"], case["gt_cxcywh"], strict=True) if len(t) == 1]
    for i, (found, truth) in enumerate(pairs):
        drawn = corners(found or [])[:1]
        metric.update(
            [
                GroundedPrediction(
                    id=str(i), image_id=str(i), question="?", answer="", family="refer", size_hw=(1000, 1000),
                    found=side(drawn, "target", 1000), truth=side(corners(truth), "target", 1000),
                )
            ]
        )  # fmt: skip
    figures = metric.compute()
    expected = referring_boxes([(corners(found or [])[:1], corners(truth)) for found, truth in pairs])
    assert figures["published_acc50/refer"] == expected["acc50"]
    assert figures["published_iou/refer"] == pytest.approx(
        expected["iou"], abs=5e-3
    )  # halves of a thousandth are rounded either way
    assert figures["published_iou/refer"] != figures["iou/refer"]
    assert figures["acc50/refer"] == pytest.approx(4 / 7)
    assert figures["no_answer/refer"] == pytest.approx(1 / 7)
