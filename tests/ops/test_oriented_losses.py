"""The three losses against the formulas of their papers written out with matrices, and where those break down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vistruct.ops.oriented_losses import (
    LOSSES,
    bhattacharyya_distance,
    gwd_loss,
    kl_divergence,
    kld_loss,
    probiou_loss,
    wasserstein_squared,
)

NAMES = sorted(LOSSES)


def boxes_of(num: int, seed: int) -> Tensor:
    """float64[num, 5], sides from 2 to 80 px, any angle, close enough to overlap."""
    draw = torch.rand(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw * torch.tensor([40, 40, 78, 78, 2 * math.pi]) + torch.tensor([0, 0, 2, 2, -math.pi])


def gaussians(boxes: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Means float64[N, 2] and covariances float64[N, 2, 2] as rotation times diagonal times rotation."""
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    rotation = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    return boxes[:, :2], rotation @ torch.diag_embed(variances) @ rotation.mT


def root(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT


def trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)


def squared_in(difference: Tensor, matrices: Tensor) -> Tensor:
    return (difference * torch.linalg.solve(matrices, difference)).sum(dim=1)


def test_wasserstein_distance_is_its_formula_with_matrix_roots() -> None:
    a, b = boxes_of(300, 0), boxes_of(300, 1)
    (mean_a, cov_a), (mean_b, cov_b) = (gaussians(x, (x[:, 2:4] / 2).square()) for x in (a, b))
    between = root(root(cov_a) @ cov_b @ root(cov_a))
    expected = (mean_a - mean_b).square().sum(dim=1) + trace(cov_a + cov_b - 2 * between)
    torch.testing.assert_close(wasserstein_squared(a, b), expected, rtol=1e-9, atol=1e-9)
    scale = (a[:, 2:4].prod(dim=1) * b[:, 2:4].prod(dim=1)).sqrt()
    torch.testing.assert_close(gwd_loss(a, b), 1 - 1 / (1 + (1 + expected / scale).log()))


def test_kl_divergence_is_its_formula_with_inverses_and_determinants() -> None:
    a, b = boxes_of(300, 0), boxes_of(300, 1)
    (mean_a, cov_a), (mean_b, cov_b) = (gaussians(x, (x[:, 2:4] / 2).square()) for x in (a, b))
    logs = torch.logdet(cov_b) - torch.logdet(cov_a)
    inner = trace(torch.linalg.solve(cov_b, cov_a)) + squared_in(mean_a - mean_b, cov_b) + logs - 2
    torch.testing.assert_close(kl_divergence(a, b), inner / 2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(kld_loss(a, b), 1 - 1 / (1 + (1 + inner / 2).log()))


def test_probiou_is_the_hellinger_distance_from_bhattacharyya_s_formula() -> None:
    a, b = boxes_of(300, 0), boxes_of(300, 1)
    (mean_a, cov_a), (mean_b, cov_b) = (gaussians(x, x[:, 2:4].square() / 12) for x in (a, b))
    middle = (cov_a + cov_b) / 2
    logs = torch.logdet(middle) - (torch.logdet(cov_a) + torch.logdet(cov_b)) / 2
    expected = squared_in(mean_a - mean_b, middle) / 8 + logs / 2
    torch.testing.assert_close(bhattacharyya_distance(a, b), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(probiou_loss(a, b), (1 - (-expected).exp()).sqrt(), rtol=1e-6, atol=3.2e-4)


def test_divergences_agree_with_torchs_own_distributions() -> None:
    a, b = boxes_of(50, 2), boxes_of(50, 3)
    own, other = (torch.distributions.MultivariateNormal(*gaussians(x, (x[:, 2:4] / 2).square())) for x in (a, b))
    expected = torch.distributions.kl_divergence(own, other)
    torch.testing.assert_close(kl_divergence(a, b), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_rectangle_written_otherwise_is_the_same(name: str) -> None:
    a, b = boxes_of(100, 0), boxes_of(100, 1)
    swapped = torch.cat([a[:, :2], a[:, 2:4].flip(1), a[:, 4:] + math.pi / 2], dim=1)
    turned = torch.cat([a[:, :4], a[:, 4:] - math.pi], dim=1)
    for other in (swapped, turned):
        torch.testing.assert_close(LOSSES[name](other, b), LOSSES[name](a, b))
        torch.testing.assert_close(LOSSES[name](b, other), LOSSES[name](b, a))
        assert LOSSES[name](a, other).max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_turning_moving_and_scaling_both_boxes_changes_nothing(name: str) -> None:
    a, b = boxes_of(100, 0), boxes_of(100, 1)
    cos, sin = math.cos(1.1), math.sin(1.1)

    def moved(boxes: Tensor) -> Tensor:
        x, y = boxes[:, 0], boxes[:, 1]
        centre = torch.stack([cos * x - sin * y + 7, sin * x + cos * y - 400], dim=1)
        return torch.cat([3.5 * centre, 3.5 * boxes[:, 2:4], boxes[:, 4:] + 1.1], dim=1)

    torch.testing.assert_close(LOSSES[name](moved(a), moved(b)), LOSSES[name](a, b))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_values(name: str) -> None:
    a, b = boxes_of(6, 0).requires_grad_(), boxes_of(6, 1).requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (a, b))


HARD = {
    "equal": ([50.0, 60, 30, 10, 0.3], [50.0, 60, 30, 10, 0.3]),
    "equal squares": ([50.0, 60, 20, 20, 0.3], [50.0, 60, 20, 20, 1.1]),
    "needles": ([50.0, 60, 400, 0.01, 0.3], [52.0, 60, 400, 0.01, 0.30001]),
    "crossing needles": ([50.0, 60, 400, 0.01, 0.3], [52.0, 60, 400, 0.01, 1.8]),
    "no area": ([50.0, 60, 0, 0, 0.3], [52.0, 60, 30, 0, 0.3]),
    "huge": ([50.0, 60, 1e6, 1e6, 0.3], [52.0, 60, 1e6, 1e5, 0.3]),
    "huge and tiny": ([50.0, 60, 1e6, 1e6, 0.3], [52.0, 60, 0.1, 0.1, 0.3]),
    "far away": ([0.0, 0, 10, 5, 0.3], [1e5, 1e5, 10, 5, 0.3]),
    "at the seam": ([50.0, 60, 30, 10, -math.pi / 2], [50.0, 60, 30, 10, math.pi / 2]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", HARD)
def test_values_and_gradients_are_finite_where_the_formulas_break_down(name: str, case: str) -> None:
    for first, second in (HARD[case], HARD[case][::-1]):
        a = torch.tensor([first], requires_grad=True)
        b = torch.tensor([second], requires_grad=True)
        loss = LOSSES[name](a, b)
        loss.sum().backward()
        assert loss.dtype == torch.float32
        assert 0 <= loss.item() <= 1
        assert a.grad is not None
        assert a.grad.isfinite().all()
        assert b.grad is not None
        assert b.grad.isfinite().all()
        if case.startswith("equal") or case == "at the seam":
            assert loss.item() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_boxes_that_do_not_touch_still_pull_each_other(name: str) -> None:
    a = torch.tensor([[0.0, 0, 20, 10, 0.0]], requires_grad=True)
    LOSSES[name](a, torch.tensor([[25.0, 0, 20, 10, 0.0]])).sum().backward()
    assert a.grad is not None
    assert a.grad[0, 0] < 0  # to the right


@pytest.mark.parametrize("name", NAMES)
def test_loss_grows_with_the_shift_and_with_the_turn(name: str) -> None:
    box = torch.tensor([[0.0, 0, 40, 10, 0.2]], dtype=torch.float64)
    steps = torch.arange(12, dtype=torch.float64)[:, None]
    shifted = box + steps * torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    turned = box + steps * torch.tensor([0, 0, 0, 0, math.pi / 24], dtype=torch.float64)
    for others in (shifted, turned):
        values = LOSSES[name](others, box.expand(12, 5))
        assert (values.diff() > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_pairs_have_no_loss_and_other_shapes_are_refused(name: str) -> None:
    assert LOSSES[name](torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)
    with pytest.raises(ValueError, match=r"\[2, 5\] and \[3, 5\]"):
        LOSSES[name](torch.zeros(2, 5), torch.zeros(3, 5))
