"""The mean loss does not depend on how the data was cut into batches."""

from __future__ import annotations

import math

import pytest
import torch

from vistruct.contracts import StepOutput
from vistruct.metrics.loss import MeanLossConfig


def output(total: float, count: float, **metrics: float) -> StepOutput:
    return StepOutput(total=torch.tensor(total, requires_grad=True), count=count, metrics=metrics)


def test_unequal_batches_weigh_by_their_units() -> None:
    metric = MeanLossConfig().build(None)
    metric.update([output(6.0, 3, box=2.0)])
    metric.update([output(1.0, 1, box=6.0), output(5.0, 6, box=0.5)])
    assert metric.compute() == pytest.approx({"loss": 12 / 10, "box": (6 + 6 + 3) / 10})


def test_a_loss_without_units_still_counts() -> None:
    metric = MeanLossConfig().build(None)
    metric.update([output(2.0, 0), output(4.0, 3)])
    assert metric.compute()["loss"] == pytest.approx(6 / 3)


def test_no_batches_is_unknown() -> None:
    assert math.isnan(MeanLossConfig().build(None).compute()["loss"])
