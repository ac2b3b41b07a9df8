"""Accuracies and character errors of text against torchmetrics, a recursion and counts by hand."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest
from torchmetrics.functional.text import char_error_rate

from vistruct.contracts import CaptionPrediction
from vistruct.errors import UserError
from vistruct.metrics.texts import TextConfig, Texts, edit_distance


def said(id: str, caption: str, is_finished: bool = True) -> CaptionPrediction:
    return CaptionPrediction(id=id, image_id=id, caption=caption, is_finished=is_finished)


def measured(pairs: list[tuple[str, tuple[str, ...]]]) -> Texts:
    metric = Texts({str(at): truths for at, (_, truths) in enumerate(pairs)})
    metric.update([said(str(at), answer) for at, (answer, _) in enumerate(pairs)])
    return metric


def by_recursion(a: str, b: str) -> int:
    @cache
    def rest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        if a[i] == b[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


def test_edit_distance_and_error_rate_are_those_of_others():
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abC1", k=drawn.randint(0, 7))) for _ in range(80)]
    answers, truths = words[:40], [word or "x" for word in words[40:]]
    for a, b in zip(answers, truths, strict=True):
        assert edit_distance(a, b) == edit_distance(b, a) == by_recursion(a, b)
    metric = measured([(a, (b,)) for a, b in zip(answers, truths, strict=True)])
    numbers = metric.compute()
    assert numbers["CER"] == pytest.approx(float(char_error_rate(answers, truths)), abs=1e-6)
    assert numbers["exact"] == sum(a == b for a, b in zip(answers, truths, strict=True)) / 40
    assert numbers["accuracy"] == sum(a.lower() == b.lower() for a, b in zip(answers, truths, strict=True)) / 40
    for name, each in metric.details()["per_image"].items():
        totals, counts = zip(*each.values(), strict=True)
        assert sum(totals) / sum(counts) == pytest.approx(numbers[name])


def test_letters_and_digits_alone_count_in_the_accuracy_of_benchmarks():
    pairs = [
        ("exit!", ("EXIT",)),  # right
        ("O.K.", ("ok", "fine")),  # right, by one of two truths
        ("", ("---",)),  # exactly wrong, and nothing to compare by letters
        ("ä", ("a",)),  # another letter
        ("日", ("本",)),  # of a script without capitals
        ("a<unk>c", ("abc",)),  # one character that the model does not know
    ]
    numbers = measured(pairs).compute()
    assert numbers["accuracy"] == pytest.approx(2 / 5)
    assert numbers["exact"] == 0
    errors, characters = 5 + 4 + 3 + 1 + 1 + 1, 4 + 2 + 3 + 1 + 1 + 3
    assert numbers["CER"] == pytest.approx(errors / characters)


def test_the_constant_answer_and_what_was_cut_are_told():
    metric = Texts({"a": ("stop",), "b": ("stop",), "c": ("go",)})
    metric.update([said("a", "stop"), said("b", "stoppppp", is_finished=False), said("c", "no")])
    numbers = metric.compute()
    assert numbers["accuracy_constant"] == pytest.approx(2 / 3)
    assert numbers["unfinished"] == pytest.approx(1 / 3)
    assert math.isnan(Texts({"a": ("x",)}).compute()["accuracy"])
    config = TextConfig()
    assert [config.higher_is_better(name) for name in ("accuracy", "exact", "CER", "unfinished")] == [
        True,
        True,
        False,
        None,
    ]
    with pytest.raises(UserError, match="the data set has none"):
        metric.update([said("d", "x")])
