"""What may be said of paired differences: intervals, and words that claim no more than the intervals do.

A pair is the same seed (and with it the same labels, order and weights of the head) from two starting points. Two
intervals are given. The bootstrap makes no assumption, but of few pairs it knows too little: of three it calls one
no-difference in four a difference (all three fall on one side by chance). Student's interval is wide where pairs are
few, and exact where differences are normal. A difference is called clear only where both leave zero out.

Source: bias-corrected and accelerated bootstrap: Efron, "Better Bootstrap Confidence Intervals", JASA 1987; Holm,
    "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
Student's distribution is scipy's; its bootstrap takes no resamples of our own, which those over images are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """Where the true value lies at the level asked for."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one starting point is better by than another, over pairs; positive is better."""

    mean: float
    differences: tuple[float, ...]  # one a pair, positive is better
    level: float  # of the intervals, 0.95
    bootstrap: Interval | None  # None: fewer than two pairs
    student: Interval | None
    p: float | None  # of Student's paired test, two-sided; None: fewer than two pairs

    @property
    def pairs(self) -> int:
        return len(self.differences)

    @property
    def wins(self) -> int:
        return sum(value > 0 for value in self.differences)

    @property
    def ties(self) -> int:
        return sum(value == 0 for value in self.differences)

    @property
    def verdict(self) -> str:
        """`clear gain`, `clear loss`, `not clear`, or `one pair` / `no pair`, of which nothing can be said."""
        if self.bootstrap is None or self.student is None:
            return "one pair" if self.pairs else "no pair"
        if not (self.bootstrap.excludes_zero and self.student.excludes_zero):
            return "not clear"
        return "clear gain" if self.mean > 0 else "clear loss"

    def as_json(self) -> dict[str, Any]:
        """As study.json has it."""
        return {
            "mean": self.mean if math.isfinite(self.mean) else None,
            "differences": list(self.differences),
            "wins": self.wins,
            "ties": self.ties,
            "pairs": self.pairs,
            "bootstrap": _ends(self.bootstrap),
            "student": _ends(self.student),
            "p": self.p,
            "verdict": self.verdict,
        }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def paired_gain(
    after: Sequence[float],
    before: Sequence[float],
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Gain:
    """Compare pair by pair.

    Args:
        after, before: a number for each pair, in the same order; pairs with a NaN are left out.
        draws: resamples of the bootstrap.

    Returns:
        the gain; NaN with nothing known where no pair is left.

    Raises:
        ValueError: not equally many.
    """
    if len(after) != len(before):
        raise ValueError(f"{len(after)} numbers against {len(before)} are no pairs")
    raw = (np.asarray(after, np.float64) - np.asarray(before, np.float64)) * (1 if higher_is_better else -1)
    differences = raw[np.isfinite(raw)]
    if len(differences) < 2:
        mean = float(differences.mean()) if len(differences) else math.nan
        return Gain(
            mean=mean, differences=tuple(differences.tolist()), level=level, bootstrap=None, student=None, p=None
        )
    return Gain(
        mean=float(differences.mean()),
        differences=tuple(differences.tolist()),
        level=level,
        bootstrap=bootstrap_interval(differences, level=level, draws=draws, seed=seed),
        student=student_interval(differences, level=level),
        p=student_p(differences),
    )


def bootstrap_interval(values: np.ndarray, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Of the mean of float[N], N at least 2, bias-corrected and accelerated; a point where all values are equal."""
    values = np.asarray(values, np.float64)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(0, len(values), (part, len(values)))].mean(1) for part in _parts(draws, len(values))]
    )
    n = len(values)
    left_out = (values.sum() - values) / (n - 1)  # jackknife means
    spread = left_out.mean() - left_out
    acceleration = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))
    return from_draws(means, float(values.mean()), level=level, acceleration=acceleration)


def from_draws(draws: np.ndarray, value: float, *, level: float = 0.95, acceleration: float = 0.0) -> Interval:
    """The interval of resampled values, their median bias corrected.

    Args:
        draws: float[D], the number on each resample.
        value: the number itself.
        acceleration: how fast its standard error changes with it; 0 corrects the bias only.
    """
    draws = draws[np.isfinite(draws)]
    # Half of those that hit the value count as below: with few values many do.
    below = float((draws < value).mean() + (draws == value).mean() / 2)
    if not 0 < below < 1:  # all draws on one side: nothing to correct by
        return Interval(*(float(v) for v in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])))
    bias = ndtri(below)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + ndtri(share)
        ends.append(ndtr(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(draws, ends)
    return Interval(float(low), float(high))


def student_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """Student's interval of the mean of float[N], N at least 2."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return Interval(float(values.mean()) - reach, float(values.mean()) + reach)


def student_p(values: np.ndarray) -> float:
    """Chance of a mean at least as far from zero if there is nothing, of float[N], N at least 2; normal differences."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    if error <= 1e-12 * abs(mean):  # all equal, but for rounding
        return 1.0 if mean == 0 else 0.0
    return 2 * float(stdtr(len(values) - 1, -abs(mean) / error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each p as large as it must be where several are looked at; None stays None and counts for nothing."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, i) in enumerate(known):
        so_far = max(so_far, min(1.0, p * (len(known) - rank)))
        adjusted[i] = so_far
    return adjusted


def _parts(draws: int, n: int) -> list[int]:
    """Draws in parts of some million numbers, so that memory does not grow with them."""
    most = max(1, 4_000_000 // n)
    return [most] * (draws // most) + ([draws % most] if draws % most else [])
