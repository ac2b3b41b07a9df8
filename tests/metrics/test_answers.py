"""Scores of answers: by hand, against scikit-learn, and whatever order or split the answers come in."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, mean_absolute_error

from vistruct.config import Eval
from vistruct.contracts import AnswerPrediction, Form
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.instructions.families import FAMILIES, MAP_CELLS, grid_map
from vistruct.data.instructions.scene import Scene
from vistruct.metrics.answers import (
    AGAINST_ALL,
    MAIN,
    SCORES,
    Answers,
    AnswersConfig,
    by_family,
    caption_scores,
    map_scores,
    number_scores,
    word_scores,
    yes_no_scores,
)
from vistruct.metrics.forms import (
    FAMILY_FORMS,
    cells_in,
    form_of,
    form_of_family,
    mapped_name,
    number_in,
    plain,
    polarity,
)


def said(truth: str, answer: str, family: str = "") -> AnswerPrediction:
    return AnswerPrediction(id="a", image_id="a", question="?", answer=answer, truth=truth, family=family)


def measured(*asked: AnswerPrediction) -> dict[str, float]:
    metric = Answers()
    metric.update(asked)
    return metric.compute()


def test_every_family_that_instructions_are_written_of_has_a_form_and_every_form_a_measure():
    assert set(FAMILY_FORMS) == set(FAMILIES)
    assert {*FAMILY_FORMS.values(), "vqa"} == {*SCORES, *AGAINST_ALL} == set(MAIN) == set(get_args(Form))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A Tree.", "a tree"), ("  a\n tree ", "a tree"), ("a tree .", "a tree"), ("3.5", "3.5"), ("", ""), (".", "")],
)
def test_answers_are_compared_without_case_spaces_and_full_stop(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("There are 12 trees.", 12),
        ("1,200 ships", 1200),
        ("-3.5", -3.5),
        ("seven", 7),
        ("Zero.", 0),
        ("10-20", None),  # two numbers
        ("3 of 4", None),
        ("two or three", None),
        ("many", None),
        ("", None),
        ("10m2", None),  # a unit grown together with its number is no count
        ("1.", 1),
        ("9" * 9, 999_999_999),
        ("9" * 10, None),
        ("1,234,567", 1_234_567),
        ("1,234,567,890", None),
        ("12,3", None),  # a decimal comma, or two numbers?
        ("3, as far as I see", 3),
    ],
)
def test_the_only_number_of_an_answer_is_read(text, expected):
    assert number_in(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes.", "yes"), ("no, there is none", "no"), ("not at all", ""), ("", ""), ("yesterday", "")],
)
def test_yes_and_no_are_first_words(text, expected):
    assert polarity(text) == expected


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("yes", "yes_no"),
        ("No.", "yes_no"),
        ("12", "number"),
        ("1,200", "number"),
        ("[1, 2, 3, 4]", "box"),
        ("<ref>ship</ref><box>[[1, 2, 3, 4]]</box>", "box"),
        ("<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", "boxes"),
        ("dense residential", "words"),
        ("upper left", "words"),
        ("A large ship lies in the harbour beside a pier.", "caption"),
        ("yes, there is a large ship in the harbour", "caption"),
    ],
)
def test_the_form_of_an_answer_that_names_no_family_is_what_it_looks_like(truth, expected):
    assert form_of(truth) == expected


@pytest.mark.parametrize(
    ("family", "truths", "expected"),
    [
        ("count", ["1", "2"], "number"),
        ("count", ["several", "2"], "words"),  # somebody else's family of this name
        ("ground_one", ["[1, 2, 3, 4], [5, 6, 7, 8]", "none"], "boxes"),
        ("rsvqa_presence", ["yes", "no"], "yes_no"),
        ("rsvqa_mixed", ["yes", "3"], "words"),
        ("detect", ["[1, 2, 3, 4]", "[[1, 2, 3, 4], [5, 6, 7, 8]]", "none"], "boxes"),
        ("talk", ["a long answer of more than eight words in all", "short"], "words"),
        ("talk", ["a long answer of more than eight words in all"] * 2 + ["short"], "caption"),
        ("grid_map", ["none tree"], "words"),
        ("grid_map", ["none " * 36], "map"),
        ("caption", ["short"], "caption"),
    ],
)
def test_a_family_is_measured_by_the_form_that_all_its_truths_have(family, truths, expected):
    assert form_of_family(family, truths) == expected


@pytest.mark.parametrize("name", ["tree", "ground track field", "storage-tank"])
def test_a_map_is_read_back_cell_by_cell_whatever_its_class_is_called(name):
    boxes = np.array([[0.0, 0, 50, 50], [60, 60, 100, 100]])
    scene = Scene(
        size_hw=(100, 100), boxes_xyxy=boxes, labels=np.zeros(2, int), names=(name,), doubtful_xyxy=np.zeros((0, 4))
    )
    exchange = grid_map(scene, np.random.default_rng(0))
    assert exchange is not None
    assert mapped_name(exchange.answer) == name
    cells = np.array(cells_in(exchange.answer, name)).reshape(MAP_CELLS, MAP_CELLS)
    middles = (np.arange(MAP_CELLS) + 0.5) * 100 / MAP_CELLS
    for row, y in enumerate(middles):
        for column, x in enumerate(middles):
            inside = any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in boxes)
            assert cells[row, column] == (name if inside else "none")


def test_a_map_of_another_length_is_none():
    assert mapped_name("none " * 35) is None
    assert mapped_name("tree none " * 18) == "tree"
    assert mapped_name("tree ship " * 18) is None  # two classes
    assert mapped_name("tree " + "none " * 34) is None


def test_words_and_numbers_are_scored_as_by_scikit_learn():
    rng = np.random.default_rng(0)
    truths, answers = ([str(n) for n in rng.integers(0, 6, 200)] for _ in range(2))
    scores = number_scores(answers, truths)
    assert scores["accuracy"] == accuracy_score(truths, answers) == word_scores(answers, truths)["accuracy"]
    assert scores["mae"] == pytest.approx(mean_absolute_error([int(t) for t in truths], [int(a) for a in answers]))
    assert scores["no_number"] == 0.0
    by_hand = max(truths.count(t) for t in set(truths)) / 200
    assert scores["constant"] == by_hand
    medians = [mean_absolute_error([int(t) for t in truths], [c] * 200) for c in range(6)]
    assert scores["mae_constant"] == pytest.approx(min(medians))


def test_answers_that_are_no_numbers_are_wrong_and_counted_and_not_part_of_the_error():
    scores = number_scores(["3", "some", "7"], ["3", "3", "5"])
    assert scores["accuracy"] == 1 / 3
    assert scores["mae"] == 1.0
    assert scores["no_number"] == 1 / 3
    assert math.isnan(number_scores(["some"], ["3"])["mae"])


def test_a_model_that_always_says_yes_is_shown_as_one():
    truths = ["yes", "no", "no", "no"]
    scores = yes_no_scores(["yes", "Yes.", "yes it is", "perhaps"], truths)
    assert (scores["accuracy"], scores["constant"], scores["yes"], scores["neither"]) == (1 / 4, 3 / 4, 3 / 4, 1 / 4)


def test_a_map_is_scored_by_its_cells_and_a_short_one_loses_the_missing_ones():
    truth = " ".join(["tree"] * 6 + ["none"] * 30)
    answers = [truth, " ".join(["none"] * 36), " ".join(["tree"] * 6), truth + " none"]
    scores = map_scores(answers, [truth] * 4)
    assert scores["cells"] == pytest.approx((36 + 30 + 6 + 36) / (4 * 36))
    assert scores["malformed"] == 2 / 4
    assert scores["constant"] == 1.0


def test_the_best_constant_map_takes_each_cells_commonest_word():
    truths = [" ".join("tree" if i < n else "none" for i in range(36)) for n in (36, 18, 18, 0)]
    flat = [[word == "tree" for word in t.split()] for t in truths]
    best = np.maximum(np.mean(flat, axis=0), 1 - np.mean(flat, axis=0)).mean()
    assert map_scores(truths, truths)["constant"] == pytest.approx(best)


def test_the_standard_error_of_a_share_is_the_binomial_one_and_that_of_maps_comes_from_their_spread():
    truths, answers = ["left"] * 10, ["left"] * 7 + ["right"] * 3
    assert word_scores(answers, truths)["error"] == pytest.approx((0.7 * 0.3 / 10) ** 0.5)
    maps = [" ".join(["tree"] * n + ["none"] * (36 - n)) for n in (36, 18, 9)]
    shares = np.array([1.0, 0.5, 0.25])
    scores = map_scores([" ".join(["tree"] * 36)] * 3, maps)
    assert scores["cells"] == pytest.approx(shares.mean())
    assert scores["error"] == pytest.approx(shares.std() / 3**0.5)


def test_an_empty_answer_is_wrong_in_every_form():
    for truths, score in (
        (["a tree"], word_scores),
        (["yes"], yes_no_scores),
        (["3"], number_scores),
        (["none " * 36], map_scores),
        ([["a tree stands here"], ["a ship"]], caption_scores),
        ([["a tree"] * 10], AGAINST_ALL["vqa"]),
        (["[1, 2, 3, 4]"], SCORES["box"]),
        (["[1, 2, 3, 4]"], SCORES["boxes"]),
    ):
        figures = score([""] * len(truths), truths)
        assert figures[next(name for name in MAIN.values() if name in figures)] == 0.0


def test_no_constant_answer_beats_the_best_constant_answer():
    """Every truth of a family, given as the answer to all its questions, scores at most `constant`."""
    rng = np.random.default_rng(3)
    maps = [" ".join(rng.choice(["tree", "none"], 36)) for _ in range(6)]
    boxes = [f"[{a}, {b}, {a + 300}, {b + 300}]" for a, b in rng.integers(0, 200, (8, 2))]
    for truths, score in (
        (["left", "right", "left"], word_scores),
        (["yes", "no", "no"], yes_no_scores),
        (["3", "3", "1"], number_scores),
        (maps, map_scores),
        (boxes, SCORES["box"]),
        ([*boxes, "none"], SCORES["boxes"]),
    ):
        main = next(name for name in MAIN.values() if name in score(truths, truths))
        best = max(score([truth] * len(truths), truths)[main] for truth in truths)
        assert score(truths, truths)["constant"] >= best - 1e-12
        assert score(truths, truths)[main] == 1.0


def test_overall_accuracy_counts_questions_and_its_macro_mean_counts_families():
    asked = [said("left", "left", "where")] * 3 + [said("2", "3", "count"), said("[1, 2, 3, 4]", "", "ground_one")]
    figures = measured(*asked)
    assert figures["accuracy"] == 3 / 4
    assert figures["accuracy_macro"] == 1 / 2
    assert figures["constant"] == 1.0
    assert figures["questions"] == 5
    both = balanced_accuracy_score(["where"] * 3 + ["count"], ["where"] * 4)
    assert figures["accuracy_macro"] == pytest.approx(both)


def test_questions_without_a_family_are_grouped_by_the_form_of_their_truth_and_said_to_be():
    figures = measured(said("yes", "yes"), said("7", "7"), said("no", "yes"), said("left", "left", "where"))
    assert figures["unnamed"] == 3
    assert figures["accuracy/(yes_no)"] == 1 / 2
    assert figures["accuracy/(number)"] == 1.0
    assert figures["accuracy/where"] == 1.0


def test_questions_without_a_truth_are_counted_and_not_measured():
    figures = measured(said("", "yes"), said("no", "no"))
    assert (figures["questions"], figures["no_truth"], figures["accuracy"]) == (1, 1, 1)
    assert measured(said("", "yes")) == {"questions": 0, "no_truth": 1}
    assert measured() == {"questions": 0}


def test_the_order_and_the_split_of_the_answers_change_nothing():
    rng = np.random.default_rng(1)
    pool = [
        said("yes", "no", "presence"), said("3", "4", "count"), said("a red tree by the road", "a tree", "caption"),
        said("a ship in the harbour", "a ship", "caption"), said("[1, 2, 30, 40]", "[1, 2, 30, 50]", "ground_one"),
        said("none", "[1, 2, 3, 4]", "ground_all"), said("left", "left"), said("none", "tree", "cell"),
    ]  # fmt: skip
    whole = measured(*pool)
    metric = Answers()
    for index in rng.permutation(len(pool)):
        metric.update([pool[index]])
    assert metric.compute() == pytest.approx(whole, nan_ok=True)


def test_the_table_has_one_line_a_family_with_the_number_that_stands_for_it():
    pool = [said("yes", "no", "presence"), said("[1, 2, 30, 40]", "[1, 2, 30, 50]", "a/b"), said("3", "3")]
    lines = {line.family: line for line in by_family(measured(*pool))}
    assert {name: (line.measure, line.score, line.constant) for name, line in lines.items()} == {
        "presence": ("accuracy", 0.0, 1.0),
        "a/b": ("acc50", 1.0, 1.0),
        "(number)": ("accuracy", 1.0, 1.0),
    }
    assert by_family({"loss": 1.0}) == []


def test_the_metric_is_found_by_its_kind_in_a_run_file(tmp_path):
    data = ChatDataConfig(jsonl=tmp_path / "a.jsonl")
    values = Eval(data=data, metric=AnswersConfig(limit=7), at_end=True).model_dump(mode="json")
    assert Eval.model_validate(values).metric == AnswersConfig(limit=7)


def test_families_whose_boxes_are_of_another_scale_are_measured_as_boxes_and_say_so() -> None:
    answers = Answers()
    for number, box in enumerate(([0.1, 0.2, 0.7, 0.9], [100, 20, 1700, 1900])):
        text = f"<box>[{box}]</box>"
        asked = {"id": "a", "image_id": "a", "question": "Where?", "answer": text, "truth": text}
        answers.update([AnswerPrediction(**asked, family=f"f{number}")])
    figures = answers.compute()
    assert (figures["acc50/f0"], figures["boxes_0_to_1/f0"]) == (1, 1)
    assert (figures["acc50/f1"], figures["boxes_in_pixels/f1"]) == (1, 1)
