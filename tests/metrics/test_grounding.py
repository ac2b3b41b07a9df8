"""Boxes in answers, against pycocotools, scipy's matching and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from vistruct.data.formats.chat.text_boxes import is_boxes
from vistruct.data.instructions.scene import Scene
from vistruct.metrics.grounding import (
    box_set_scores,
    boxes_in,
    iou,
    num_matched,
    scale_in,
    single_box_scores,
)


def random_boxes(rng: np.random.Generator, number: int, most: int = 1000) -> np.ndarray:
    corners = rng.integers(0, most + 1, (number, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<box>[[1, 2, 30, 40]]</box>", [[1, 2, 30, 40]]),
        ("<box>[[1,2,3,4],[5,6,7,8]]</box>", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (
            "<ref>ship</ref><box>[[1,2,3,4]]</box> and <ref>car</ref><box>[[5,6,7,8]]</box>",
            [[1, 2, 3, 4], [5, 6, 7, 8]],
        ),
        ("<box>[1, 2, 3, 4]</box>", [[1, 2, 3, 4]]),
        ("[1, 2, 3, 4]", [[1, 2, 3, 4]]),
        ("It is at [0, 0, 1000, 1000].", [[0, 0, 1000, 1000]]),
        ("[[1,2,3,4], [5,6,7,8]]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[ 1 , 2 , 1 , 2 ]", [[1, 2, 1, 2]]),
        ("[1, 2, 3, 4]. [5, 6, 7, 8] [sic]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("none", []),
        ("None.", []),
    ],
)
def test_boxes_are_read(text, expected):
    found = boxes_in(text)
    assert found is not None
    assert found.shape == (len(expected), 4)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on the left",
        "<box>[[1, 2, 3]]</box>",
        "<box>[[1, 2, 3, 4, 5]]</box>",
        "<box>[[1, 2, 3, 4]]",  # cut short
        "[[1, 2, 3, 4], [5, 6",
        "<box>[[1, 2, 3, 4] [5, 6, 7, 8]]</box>",
        "<box></box>",
        "[1, 2, 1001, 4]",
        "[1, 2, 100000000000000000000000000000, 4]",
        "[3, 2, 1, 4]",  # right of its right edge
        "[0.1, 0.2, 0.3, 0.4]",
        "[-1, 2, 3, 4]",
        "[1, 2, 3, 4], [5, 6, 7]",
        "</box>[[1, 2, 3, 4]]<box>",
        "1, 2, 3, 4",
    ],
)
def test_what_is_no_box_is_malformed(text):
    assert boxes_in(text) is None


def test_the_boxes_that_instructions_are_written_with_are_read_back():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 12, most=200).astype(float)
    scene = Scene(
        size_hw=(200, 200), boxes_xyxy=boxes, labels=np.zeros(12, int), names=("a",), doubtful_xyxy=np.zeros((0, 4))
    )
    found = boxes_in(scene.boxes_text(boxes))
    assert found is not None
    assert found.tolist() == (boxes * 5).tolist()
    assert is_boxes(scene.box_text(boxes[0]))


def test_a_sentence_with_a_box_in_it_is_more_than_boxes():
    assert is_boxes("<ref>the ship</ref><box>[[1, 2, 3, 4]]</box>.")
    assert not is_boxes("a ship at <box>[[1, 2, 3, 4]]</box>")
    assert not is_boxes("none")
    assert not is_boxes("[1, 2, 3]")


def test_iou_is_that_of_pycocotools():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 40, 60), random_boxes(rng, 30, 60)

    def xywh(boxes: np.ndarray) -> np.ndarray:
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float)

    has_area = [(boxes[:, 2:] > boxes[:, :2]).all(axis=1) for boxes in (a, b)]
    a, b = a[has_area[0]], b[has_area[1]]
    expected = mask.iou(xywh(a), xywh(b), [0] * len(b))
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)


def test_a_box_without_area_meets_only_itself():
    flat = np.array([[5, 5, 5, 9], [5, 5, 5, 8]])
    assert iou(flat, flat).tolist() == [[1, 0], [0, 1]]
    assert iou(flat, np.array([[0, 0, 10, 10]])).tolist() == [[0], [0]]
    assert iou(np.zeros((0, 4), int), flat).shape == (0, 2)


def test_as_many_boxes_are_paired_as_scipy_can_pair():
    rng = np.random.default_rng(2)
    some = 0
    for _ in range(60):
        base = random_boxes(rng, 3, 40)
        crowd = [base[rng.integers(0, 3, rng.integers(0, 7))] for _ in range(2)]
        found, wanted = (np.maximum(c + rng.integers(-2, 3, c.shape), 0) for c in crowd)
        found, wanted = (np.concatenate([np.minimum(b[:, :2], b[:, 2:]), b[:, 2:]], axis=1) for b in (found, wanted))
        near = csr_array(iou(found, wanted) >= 0.5)
        expected = 0 if 0 in near.shape else int((maximum_bipartite_matching(near) >= 0).sum())
        assert num_matched(found, wanted) == expected
        some += expected
    assert some > 40


def test_acc50_counts_answers_at_half_and_above():
    truth = "<box>[[0, 0, 100, 100]]</box>"
    answers = ["[0, 0, 100, 50]", "[0, 0, 100, 49]", "<box>[[0, 0, 100, 100], [7, 7, 8, 8]]</box>", "the left", "none"]
    scores = single_box_scores(answers, [truth] * 5)
    assert scores["acc50"] == 2 / 5
    assert scores["iou"] == pytest.approx((0.5 + 0.49 + 1) / 5)
    assert scores["malformed"] == 2 / 5
    assert scores["constant"] == 1.0


def test_the_best_constant_box_is_the_truth_that_meets_most_others():
    truths = [
        "[0, 0, 100, 100]",
        "[0, 0, 100, 100]",
        "[400, 400, 500, 500]",
        "[400, 400, 500, 510]",
        "[400, 400, 510, 500]",
    ]
    assert single_box_scores(truths, truths)["constant"] == 3 / 5


def test_sets_of_boxes_are_paired_one_to_one_and_counted_over_all_questions():
    truths = ["[[0, 0, 10, 10], [50, 50, 60, 60]]", "none", "[0, 0, 10, 10]", "[0, 0, 10, 10]"]
    answers = ["[[0, 0, 10, 10], [0, 0, 10, 10]]", "[1, 1, 2, 2]", "all of them", "[0, 0, 10, 10]"]
    scores = box_set_scores(answers, truths)
    assert scores["precision50"] == 2 / 4
    assert scores["recall50"] == 2 / 4
    assert scores["f1_50"] == pytest.approx(2 / 4)
    assert scores["malformed"] == 1 / 4
    # "[0, 0, 10, 10]" every time: three of its four boxes are right, of four
    assert scores["constant"] == pytest.approx(2 * 3 / (4 + 4))


def test_that_there_is_nothing_is_right_where_there_is_nothing():
    scores = box_set_scores(["none", "none"], ["none", "none"])
    assert scores["f1_50"] == 1.0
    assert math.isnan(scores["precision50"])
    assert box_set_scores(["[1, 1, 2, 2]"], ["none"])["f1_50"] == 0.0


def test_boxes_in_shares_and_in_pixels_have_the_scores_of_thousandths() -> None:
    rng = np.random.default_rng(3)
    wanted, found = random_boxes(rng, 40), random_boxes(rng, 40)
    found[::2] = np.clip(wanted[::2] + 9, 0, 1000)

    def texts(boxes: np.ndarray, factor: float) -> list[str]:
        return [f"<box>[{[value * factor for value in box]}]</box>" for box in boxes.tolist()]

    whole = single_box_scores(*(texts(boxes, 1) for boxes in (found, wanted)))
    assert 0 < whole["acc50"] < 1
    for factor, scale in ((0.001, "0 to 1"), (7.5, "pixels")):
        assert scale_in(texts(wanted, factor)) == scale
        scores = single_box_scores(*(texts(boxes, factor) for boxes in (found, wanted)))
        assert scores == pytest.approx(whole)
        together = box_set_scores(*(texts(boxes, factor) for boxes in (found, wanted)))
        assert together["f1_50"] == pytest.approx(whole["acc50"])
    assert single_box_scores(["<box>[[0, 0, 1, 1.5]]</box>"], ["<box>[[0, 0, 0.5, 1]]</box>"])["malformed"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "<box>(1,2),(30,40)</box>",
        "<|object_ref_start|>a ship<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>",
        '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "ship"}]\n```',
    ],
)
def test_boxes_as_other_models_write_them_are_boxes(text: str) -> None:
    found = boxes_in(text)
    assert found is not None
    assert found.tolist() == [[1, 2, 30, 40]]
    assert is_boxes(text)
