"""The mean loss over a data set, as training would see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from vistruct.config import Part
from vistruct.contracts import StepOutput


class MeanLossConfig(Part):
    """Has no settings: every task's loss, whatever it is made of."""

    kind: Literal["mean_loss"] = "mean_loss"

    def build(self, dataset: Any) -> MeanLoss:
        """The data set is not asked: losses come from the task."""
        return MeanLoss()


class MeanLoss:
    """Collects `StepOutput`s; how the data set was cut into batches does not change the result."""

    needs_loss = True  # the evaluation calls task(batch), not task.predict(batch)

    def __init__(self) -> None:
        self.total = self.count = 0.0
        self.parts: dict[str, float] = {}  # summed over units
        self.num_batches = 0

    def update(self, outputs: Sequence[StepOutput]) -> None:
        """Add the outputs of one or more batches."""
        for output in outputs:
            self.num_batches += 1
            self.total += float(output.total.detach())
            self.count += output.count
            for name, mean in output.metrics.items():
                self.parts[name] = self.parts.get(name, 0.0) + float(mean) * max(output.count, 1.0)

    def compute(self) -> dict[str, float]:
        """`loss` and the mean of every metric of the task; NaN where no batch came."""
        units = max(self.count, 1.0) if self.num_batches else float("nan")
        return {"loss": self.total / units, **{name: value / units for name, value in self.parts.items()}}
