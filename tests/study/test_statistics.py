"""Intervals and tests against closed forms and scipy, and what they promise against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vistruct.study.statistics import (
    Gain,
    Interval,
    bootstrap_interval,
    from_draws,
    holm,
    paired_gain,
    student_interval,
    student_p,
)


def normal(n: int, seed: int = 0, mean: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def three(t: float) -> np.ndarray:
    """Three values whose mean is t standard errors from zero."""
    return np.array([-1.0, 0.0, 1.0]) + t / math.sqrt(3)


@pytest.mark.parametrize("t", [0.1, 0.7, 3.0, 12.0, 1e6])
def test_students_p_is_the_closed_formula_of_one_and_two_degrees(t):
    two = np.array([t - 1, t + 1])  # its mean is t standard errors from zero; one degree is Cauchy's distribution
    assert student_p(two) == pytest.approx(2 * math.atan(1 / t) / math.pi, rel=1e-9)
    share = 2 / (2 + t * t)  # p of two degrees is 1 - t / sqrt(2 + t^2), written so that nothing cancels
    assert student_p(three(t)) == pytest.approx(share / (1 + math.sqrt(1 - share)), rel=1e-9)
    assert student_p(-two) == student_p(two)


def test_students_interval_is_the_closed_formula_and_the_printed_table():
    two = student_interval(np.array([-1.0, 1.0]), level=0.9)
    assert two.high == pytest.approx(math.tan(math.pi * 0.45), rel=1e-12)  # the quantile of Cauchy's distribution
    assert student_interval(three(0.0), level=0.9).high == pytest.approx(0.9 * math.sqrt(2 / 0.19) / math.sqrt(3))
    for n, quantile in ((4, 3.182446), (10, 2.262157), (31, 2.042272)):  # 97.5 %, from tables of the distribution
        values = normal(n)
        reach = quantile * values.std(ddof=1) / math.sqrt(n)
        ours = student_interval(values)
        assert (ours.low, ours.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-6)


def test_bootstrap_is_scipys_bca():
    values = np.random.default_rng(1).exponential(1.0, 25)  # skewed: bias and acceleration matter
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0))
    plain = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(0))
    ours = bootstrap_interval(values, draws=40_000)
    ends = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((ends.low, ends.high), abs=0.012)
    assert abs(ours.high - plain.confidence_interval.high) > 0.02  # the correction is one


def test_bootstrap_of_many_normal_values_is_the_closed_formula():
    values = normal(400)
    reach = 1.96 * values.std(ddof=1) / 20
    ours = bootstrap_interval(values)
    assert (ours.low, ours.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.015)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = normal(6)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3, draws=500) != bootstrap_interval(values, seed=4, draws=500)


def test_equal_values_have_a_point_and_two_values_reach_from_one_to_the_other():
    assert bootstrap_interval(np.full(4, 0.25)) == Interval(0.25, 0.25)
    assert bootstrap_interval(np.array([0.1, 0.5])) == Interval(0.1, 0.5)


def test_draws_that_all_lie_on_one_side_give_their_own_quantiles():
    draws = np.linspace(1.0, 2.0, 101)
    assert from_draws(draws, 0.5, level=0.9) == Interval(pytest.approx(1.05), pytest.approx(1.95))
    assert from_draws(np.append(draws, math.nan), 0.5, level=0.9).low == pytest.approx(1.05)


def test_three_pairs_without_a_difference_are_called_clear_no_oftener_than_the_level_says():
    """The bootstrap alone calls a quarter of them a difference, which is why it has no say alone."""
    rng = np.random.default_rng(0)
    clear = bootstrap = 0
    trials = 1500
    for _ in range(trials):
        gain = paired_gain(rng.normal(0, 1, 3), np.zeros(3), draws=200)
        clear += gain.verdict.startswith("clear")
        bootstrap += gain.bootstrap.excludes_zero
    assert clear / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert bootstrap / trials > 0.15


def test_intervals_hold_the_true_mean_as_often_as_they_promise():
    rng = np.random.default_rng(2)
    trials, inside = 600, {"bootstrap": 0, "student": 0}
    for _ in range(trials):
        gain = paired_gain(rng.normal(0.4, 1, 20), np.zeros(20), draws=300)
        for name in inside:
            interval = getattr(gain, name)
            inside[name] += interval.low <= 0.4 <= interval.high
    assert inside["student"] / trials == pytest.approx(0.95, abs=0.027)
    assert 0.88 < inside["bootstrap"] / trials < 0.975  # a little narrow at twenty, as bootstraps are


def test_a_gain_says_wins_ties_and_pairs_and_lower_can_be_better():
    gain = paired_gain([0.5, 0.2, 0.4, 0.3], [0.4, 0.2, 0.5, 0.1])
    assert (gain.wins, gain.ties, gain.pairs) == (2, 1, 4)
    assert gain.mean == pytest.approx(0.05)
    less = paired_gain([0.5, 0.2, 0.4, 0.3], [0.4, 0.2, 0.5, 0.1], higher_is_better=False)
    assert (less.wins, less.ties, less.mean) == (1, 1, pytest.approx(-0.05))


def test_verdicts_claim_what_both_intervals_show_and_nothing_of_less_than_two_pairs():
    assert paired_gain([1.0, 1.1, 0.9, 1.0], [0.0] * 4).verdict == "clear gain"
    assert paired_gain([0.0] * 4, [1.0, 1.1, 0.9, 1.0]).verdict == "clear loss"
    assert paired_gain([0.1, 0.6, 0.2], [0.0] * 3).verdict == "not clear"  # the bootstrap alone would be sure
    assert paired_gain([0.9], [0.1]).verdict == "one pair"
    assert paired_gain([0.9], [0.1]).bootstrap is None
    assert paired_gain([], []).verdict == "no pair"
    assert paired_gain([0.5, 0.5], [0.5, 0.5]).verdict == "not clear"  # nothing moved at all


def test_a_pair_with_a_nan_is_left_out():
    gain = paired_gain([0.5, math.nan, 0.7], [0.4, 0.3, 0.5])
    assert gain.pairs == 2
    assert gain.mean == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no pairs"):
        paired_gain([1.0], [])


def test_equal_differences_are_certain_unless_they_are_nothing():
    assert student_p(np.array([0.1, 0.1, 0.1])) == 0.0
    assert student_p(np.zeros(3)) == 1.0


def test_holm_equals_its_definition():
    p = [0.01, 0.04, 0.03, None, 0.005]
    # sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1, each at least the one before
    assert holm(p) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None, pytest.approx(0.02)]
    assert holm([None, None]) == [None, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_interval_on_zero_does_not_leave_it_out():
    assert not Interval(0.0, 1.0).excludes_zero
    assert Interval(1e-9, 1.0).excludes_zero
    assert isinstance(paired_gain([1.0], [0.0]), Gain)
