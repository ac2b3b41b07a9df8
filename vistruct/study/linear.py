"""The linear reader of a frozen backbone: a logistic regression, and how well it ranks.

Everything is float64: the same features give the same numbers whatever the number of threads, to many digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CONSTANT = 1e-6  # a channel that varies by less than this part of its mean is taken for constant
MAX_STEPS = 100
CLOSE = 1e-9  # of the objective


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, float64[C]; `std` is 1 where a channel is constant."""

    mean: Tensor
    std: Tensor


def statistics(features: Tensor) -> Statistics:
    """Per-channel statistics of `features` float[N, C], for `standardised`.

    Raises:
        ValueError: not [N, C] with N >= 1, or not finite.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features are float[N, C] with N >= 1, not {list(features.shape)}")
    if not features.isfinite().all():
        raise ValueError("features hold NaN or infinity")
    wide = features.double()
    mean, std = wide.mean(0), wide.std(0, correction=0)
    # Rounding leaves a constant channel a tiny spread; dividing by that would make noise its loudest channel.
    return Statistics(mean, std.where(std > CONSTANT * (1 + mean.abs()), 1.0))


def standardised(features: Tensor, by: Statistics) -> Tensor:
    """`features` float[..., C] less each channel's mean, over its deviation: float64[..., C]."""
    return (features.double() - by.mean) / by.std


def logistic_regression(x: Tensor, y: Tensor, l2: float = 1.0) -> tuple[Tensor, Tensor]:
    """Fit w and b of P(y = 1) = sigmoid(x @ w + b) by Newton's method.

    The objective is the *sum* of the cross-entropies plus l2/2 |w|^2; the intercept is free. That is
    scikit-learn's with C = 1 / l2. Newton's method because channels of a feature map are much alike: it needs
    some ten steps where a gradient method needs hundreds.

    Args:
        x: float[N, C], standardised, so that one `l2` suits every channel.
        y: int or bool[N], 0 or 1.
        l2: above 0: separable classes have no finite solution without it.

    Returns:
        w float64[C], b float64[].

    Raises:
        ValueError: a single class, an `l2` that is not above 0, NaN in `x`, or no end (`x` far from
            standardised).
    """
    if not l2 > 0:
        raise ValueError(f"l2={l2} is not above 0; use 1.0")
    if not x.isfinite().all():
        raise ValueError("x holds NaN or infinity")
    target = y.to(torch.float64)
    if not ((target == 0) | (target == 1)).all() or target.unique().numel() != 2:
        raise ValueError(f"y holds {target.unique().tolist()[:5]}; it must hold both 0 and 1 and nothing else")
    rows = torch.cat([x.double(), x.new_ones((len(x), 1), dtype=torch.float64)], dim=1)  # [N, C + 1]
    ridge = torch.full((rows.shape[1],), float(l2), dtype=torch.float64)
    ridge[-1] = 0.0

    def objective(theta: Tensor) -> Tensor:
        penalty = (ridge * theta.square()).sum() / 2
        return F.binary_cross_entropy_with_logits(rows @ theta, target, reduction="sum") + penalty

    theta = torch.zeros_like(ridge)  # w and b
    value = objective(theta)
    for _ in range(MAX_STEPS):
        chance = torch.sigmoid(rows @ theta)
        gradient = rows.T @ (chance - target) + ridge * theta
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + ridge.diag()
        step = torch.linalg.solve(curvature, gradient)
        expected = float(gradient @ step) / 2  # what is left to gain, were the objective a parabola
        is_last = expected <= CLOSE * (1 + float(value))  # one step more is then exact: the error is squared
        size, tried = 1.0, objective(theta - step)
        while not is_last and not tried <= value - 1e-4 * size * expected and size > 1e-6:
            size /= 2  # far from the end the parabola may promise too much
            tried = objective(theta - size * step)
        theta, value = theta - size * step, tried
        if is_last:
            return theta[:-1], theta[-1]
    raise ValueError(f"no end after {MAX_STEPS} steps: standardise x, or use a larger l2 than {l2}")


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Area under the precision-recall steps, in [0, 1]; tied scores share one step, as in scikit-learn.

    Args:
        scores: float[N], higher for more likely true.
        truth: bool or int[N], 0 or 1.

    Raises:
        ValueError: nothing is true, so that recall has no meaning; or NaN in `scores`.
    """
    if scores.isnan().any():
        raise ValueError("scores hold NaN")
    is_true = truth.to(torch.float64)
    if not is_true.sum() > 0:
        raise ValueError("nothing is true: average precision is undefined")
    order = scores.argsort(descending=True)
    scores, hits = scores[order], is_true[order].cumsum(0)
    is_last_of_tie = torch.ones(len(scores), dtype=torch.bool)
    is_last_of_tie[:-1] = scores[1:] != scores[:-1]
    hits = hits[is_last_of_tie]
    taken = torch.arange(1, len(scores) + 1, dtype=torch.float64)[is_last_of_tie]
    recall_gain = hits.diff(prepend=hits.new_zeros(1)) / hits[-1]
    return float((recall_gain * hits / taken).sum())
