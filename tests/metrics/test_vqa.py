"""Answers to questions that ten people answered: by hand, and against leaving each of them out in turn."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from vistruct.contracts import AnswerPrediction
from vistruct.metrics.answers import Answers, by_family
from vistruct.metrics.vqa import CONTRACTIONS, agreement, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Dog.", "dog"),
        ("the  cat\nand an owl", "cat and owl"),
        ("two", "2"),
        ("none", "0"),
        ("ten o'clock", "10 o'clock"),
        ("dont", "don't"),
        ("shouldnt've", "shouldn't've"),
        ("somebody'd", "somebodyd"),  # as published
        ("t-shirt", "t shirt"),
        ("black - white", "black white"),  # a mark beside a space is nothing
        ("yes, it is", "yes it is"),
        ("red/blue", "red blue"),
        ("1,000", "1000"),
        ("1,000/2", "10002"),  # as published: every mark is nothing beside a number with a comma
        ("3.5", "3.5"),
        ("5 p.m.", "5 pm"),
        ("what?!", "what"),
        ("", ""),
        ("the", ""),
    ],
)
def test_answers_are_compared_without_articles_marks_and_numerals(text, expected):
    assert normalised(text) == expected


def test_a_contraction_is_known_with_any_one_of_its_apostrophes_missing():
    assert {key for key, word in CONTRACTIONS.items() if word == "y'all'd've"} == {
        "yall'd've",
        "y'alld've",
        "y'all'dve",
    }
    assert {"im", "ive", "lets", "shes"}.isdisjoint(CONTRACTIONS)  # which the public table does not have either
    assert len(CONTRACTIONS) == 114


@pytest.mark.parametrize(("alike", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_of_ten_people_four_make_an_answer_right(alike, expected):
    assert agreement("Cat.", ["cat"] * alike + [f"dog {n}" for n in range(10 - alike)]) == pytest.approx(expected)


def test_a_single_answer_must_be_met():
    assert agreement("The two cats", ["2 cats"]) == 1
    assert agreement("cats", ["2 cats"]) == 0


def test_agreement_is_the_mean_over_all_choices_of_nine():
    rng = random.Random(0)
    for _ in range(200):
        people = rng.choices(["yes", "Yes", "no", "a dog", "dog.", "2", "two"], k=rng.choice([2, 5, 10]))
        answer = rng.choice(people)
        chosen = list(itertools.combinations(people, len(people) - 1))
        each = [min(sum(normalised(one) == normalised(answer) for one in nine) / 3, 1) for nine in chosen]
        assert agreement(answer, people) == pytest.approx(sum(each) / len(each))


def asked(answer: str, people: list[str], family: str = "", **more: object) -> AnswerPrediction:
    told = {"form": "vqa", **more}
    return AnswerPrediction(
        id="a",
        image_id="a",
        question="?",
        answer=answer,
        truth=people[0],
        others=tuple(people[1:]),
        family=family,
        **told,
    )


def test_the_accuracy_is_over_all_questions_and_by_what_they_ask_for():
    metric = Answers()
    metric.update([asked("yes", ["yes"] * 10, "yes/no"), asked("no", ["yes"] * 10, "yes/no")])
    metric.update([asked("2", ["2"] * 2 + ["3"] * 8, "number")])
    figures = metric.compute()
    assert figures["accuracy/yes/no"] == 0.5
    assert figures["accuracy/number"] == pytest.approx(0.6)
    assert figures["accuracy"] == pytest.approx(1.6 / 3)
    assert figures["constant/yes/no"] == 1.0
    assert {line.family: line.score for line in by_family(figures)} == pytest.approx({"yes/no": 0.5, "number": 0.6})


def test_descriptions_are_held_against_every_reference_and_by_domain():
    metric = Answers()
    metric.update(
        [
            asked("a red boat on a lake", ["a boat", "a red boat on a lake"], "in-domain", form="caption"),
            asked("a dog runs", ["two cats sleep", "cats on a bed"], "out-domain", form="caption"),
        ]
    )
    figures = metric.compute()
    assert figures["bleu4/in-domain"] == pytest.approx(1.0)  # of the second reference
    assert figures["bleu4/out-domain"] == 0.0
    assert 0 < figures["cider_d"] < 10  # n-grams weigh by all descriptions together, of any domain
    assert figures["cider_d/in-domain"] == 0.0  # and of a single image by nothing


def test_a_family_that_is_measured_in_two_ways_is_two():
    metric = Answers()
    metric.update([asked("2", ["2"] * 4, "count"), asked("3", ["4"], "count", form=None)])
    figures = metric.compute()
    assert figures["accuracy/count (vqa)"] == 1.0
    assert figures["accuracy/count (number)"] == 0.0


def test_what_each_image_adds_gives_the_numbers_of_all():
    """The sums by image are what a paired comparison resamples; each number is the quotient of its sums."""
    metric = Answers()
    lines = [
        ("yes", ["yes"] * 10, "yes/no", "1", {}),
        ("no", ["yes"] * 7 + ["no"] * 3, "yes/no", "1", {}),
        ("2", ["2"] * 2 + ["3"] * 8, "number", "2", {}),
        ("tree", ["tree"], "", "2", {"form": None}),
        ("a red boat", ["a boat", "a red boat"], "in-domain", "3", {"form": "caption"}),
        ("a dog", ["two cats"], "out-domain", "4", {"form": "caption"}),
    ]
    metric.update(
        [replace(asked(answer, people, family, **more), image_id=im) for answer, people, family, im, more in lines]
    )
    figures, sums = metric.compute(), metric.details()["per_image"]
    assert set(sums) == {
        *("accuracy", "accuracy/yes/no", "accuracy/number", "accuracy/(words)"),
        *("cider_d", "cider_d/in-domain", "cider_d/out-domain"),
    }
    assert sums["accuracy"]["1"] == pytest.approx([1.9, 2])
    for number, own in sums.items():
        total, count = (sum(column) for column in zip(*own.values(), strict=True))
        assert figures[number] == pytest.approx(total / count)
