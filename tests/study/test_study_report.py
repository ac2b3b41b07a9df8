"""What a study's report says in words."""

from __future__ import annotations

from typing import Any

import pytest

from vistruct.study.report import label_savings

SHARES = (0.1, 0.3, 1.0)


def found(random: tuple[float, ...], ours: tuple[float, ...], *, higher: bool = True) -> dict[str, Any]:
    """A study of two inits with one seed, by fraction."""
    trials = [
        {"init": init, "fraction": fraction, "seed": 0, "tuning": "full", "value": value}
        for init, values in (("random", random), ("ours", ours))
        for fraction, value in zip(SHARES, values, strict=True)
    ]
    plan = {"tune": ["full"], "fractions": list(SHARES), "inits": {"random": "", "ours": ""}, "baseline": "random"}
    return {"plan": plan, "trials": trials, "higher_is_better": higher}


def test_labels_are_saved_where_a_start_needs_fewer_than_the_baseline_for_as_much():
    (said,) = label_savings(found((0.2, 0.4, 0.6), (0.3, 0.6, 0.7)))
    assert "**30% of the labels** its mean (0.600) is at least that of random with 100% of them (0.600)" in said


def test_nothing_is_saved_where_the_baseline_needs_no_more_either():
    assert label_savings(found((0.7, 0.65, 0.6), (0.7, 0.7, 0.7))) == []


def test_nothing_is_saved_where_the_start_never_gets_there():
    assert label_savings(found((0.2, 0.4, 0.6), (0.3, 0.5, 0.7))) == []


@pytest.mark.parametrize(("ours", "lines"), [((9.0, 2.0, 1.0), 1), ((9.0, 5.0, 1.0), 0)])
def test_less_is_more_where_the_metric_is_a_distance(ours, lines):
    assert len(label_savings(found((8.0, 6.0, 3.0), ours, higher=False))) == lines
