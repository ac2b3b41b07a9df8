"""The mean loss does not depend on how the data was cut into batches."""

from __future__ import annotations

import math

import pytest
import torch

from vistruct.contracts import Ratio, StepOutput
from vistruct.metrics.loss import MeanLossConfig


def output(total: float, count: float, **right: tuple[float, float]) -> tuple[StepOutput, dict[str, float]]:
    metrics = {name: Ratio(total=a, count=b) for name, (a, b) in right.items()}
    return StepOutput(terms={"box": torch.tensor(total, requires_grad=True)}, metrics=metrics), {"box": count}


def test_unequal_batches_weigh_by_their_units() -> None:
    metric = MeanLossConfig().build(None)
    metric.update([output(6.0, 3, right=(2, 3))])
    metric.update([output(1.0, 1, right=(0, 1)), output(5.0, 6, right=(3, 4))])
    assert metric.compute() == pytest.approx({"loss": 12 / 10, "right": 5 / 8})


def test_each_term_is_divided_by_its_own_units() -> None:
    metric = MeanLossConfig().build(None)
    for box, pixels in ((2.0, 60.0), (4.0, 20.0)):
        terms = {"box": torch.tensor(box), "pixels": torch.tensor(pixels)}
        metric.update([(StepOutput(terms=terms), {"box": 2.0, "pixels": 400.0})])
    assert metric.compute() == pytest.approx({"loss": 6 / 4 + 80 / 800, "loss_box": 6 / 4, "loss_pixels": 80 / 800})


def test_a_loss_without_units_still_counts() -> None:
    metric = MeanLossConfig().build(None)
    metric.update([output(2.0, 0), output(4.0, 3)])
    assert metric.compute()["loss"] == pytest.approx(6 / 3)


def test_no_batches_is_unknown() -> None:
    assert math.isnan(MeanLossConfig().build(None).compute()["loss"])
