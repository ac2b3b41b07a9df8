from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from vistruct.study.linear import average_precision, logistic_regression, standardised, statistics


def data(n, c, seed=0, noise=1.0):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=source)
    score = x[:, 0] + noise * torch.randn(n, generator=source)
    return x, (score > score.quantile(0.6)).long()


@pytest.mark.parametrize(("n", "c", "l2", "noise"), [(400, 6, 1.0, 1.0), (10, 64, 1.0, 1.0), (60, 20, 0.05, 0.0)])
def test_logistic_regression_agrees_with_scikit_learn(n, c, l2, noise):
    x, y = data(n, c, noise=noise)  # the second has more channels than rows, the third is separable
    w, b = logistic_regression(x, y, l2)
    ours = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(x.double().numpy(), y.numpy())
    assert torch.allclose(w, torch.from_numpy(ours.coef_[0]), atol=1e-4, rtol=1e-4)
    assert b.item() == pytest.approx(ours.intercept_[0], abs=1e-4, rel=1e-4)


def test_without_informative_features_the_intercept_alone_is_the_log_odds():
    y = torch.tensor([1, 1, 1, 0])
    w, b = logistic_regression(torch.zeros(4, 3), y)
    assert w.tolist() == [0, 0, 0]
    assert b.item() == pytest.approx(math.log(3), abs=1e-6)


def test_logistic_regression_can_be_fitted_where_gradients_are_off():
    x, y = data(30, 3)
    with torch.no_grad():
        w, _ = logistic_regression(x, y)
    assert torch.equal(w, logistic_regression(x, y)[0])
    assert not w.requires_grad


def test_logistic_regression_refuses_one_class_nan_and_no_penalty():
    x, y = data(20, 3)
    with pytest.raises(ValueError, match="must hold both 0 and 1"):
        logistic_regression(x, torch.ones(20))
    with pytest.raises(ValueError, match="must hold both 0 and 1"):
        logistic_regression(x, torch.arange(20))
    with pytest.raises(ValueError, match="l2=0 is not above 0"):
        logistic_regression(x, y, 0)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        logistic_regression(x, y)


def test_standardised_features_agree_with_scikit_learn():
    x, _ = data(50, 4)
    x = x * torch.tensor([1.0, 10.0, 0.1, 1e-3]) + torch.tensor([0.0, 5.0, -3.0, 100.0])
    test = x[:7] * 1.5
    scaler = StandardScaler().fit(x.double().numpy())
    ours = standardised(test, statistics(x))
    assert torch.allclose(ours, torch.from_numpy(scaler.transform(test.double().numpy())), atol=1e-9)


def test_a_constant_channel_stays_small_even_if_rounding_makes_it_vary():
    x = torch.full((6, 2), 3.0)
    x[:, 1] += torch.tensor([0.0, 1e-6, 0.0, -1e-6, 0.0, 0.0])
    scale = statistics(x)
    assert scale.std.tolist() == [1.0, 1.0]
    assert standardised(x, scale).abs().max() < 1e-5
    assert statistics(x[:1]).std.tolist() == [1.0, 1.0]  # a single row


def test_statistics_of_nothing_or_of_nan_are_refused():
    with pytest.raises(ValueError, match="N >= 1"):
        statistics(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="N >= 1"):
        statistics(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="NaN"):
        statistics(torch.tensor([[1.0, torch.nan]]))


@pytest.mark.parametrize("levels", [3, 20, 10_000])
def test_average_precision_agrees_with_scikit_learn_ties_or_not(levels):
    source = torch.Generator().manual_seed(levels)
    for _ in range(10):
        scores = torch.randint(levels, (97,), generator=source) / levels
        truth = torch.rand(97, generator=source) < 0.3
        want = average_precision_score(truth.numpy(), scores.numpy())
        assert average_precision(scores, truth) == pytest.approx(want, abs=1e-12)


def test_average_precision_at_its_ends():
    truth = torch.tensor([1, 0, 1, 0])
    assert average_precision(torch.tensor([4.0, 1.0, 3.0, 2.0]), truth) == 1.0
    assert average_precision(torch.zeros(4), truth) == 0.5  # all tied: the share of true ones
    assert average_precision(torch.tensor([0.3]), torch.tensor([True])) == 1.0
    with pytest.raises(ValueError, match="undefined"):
        average_precision(torch.rand(4), torch.zeros(4))
    with pytest.raises(ValueError, match="undefined"):
        average_precision(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        average_precision(torch.tensor([1.0, torch.nan]), torch.tensor([1, 0]))
