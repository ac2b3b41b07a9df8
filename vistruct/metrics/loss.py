"""The mean loss over a data set, as training would see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vistruct.config import Part
from vistruct.contracts import StepOutput


class MeanLossConfig(Part):
    """Has no settings: every task's loss, whatever it is made of."""

    kind: Literal["mean_loss"] = "mean_loss"

    def build(self, dataset: Any) -> MeanLoss:
        """The data set is not asked: losses come from the task."""
        return MeanLoss()

    def usual(self, data: Any) -> str:
        """The loss."""
        return "loss"

    def higher_is_better(self, number: str) -> bool | None:
        """Of losses less is better, of accuracies more; what else a task tells of itself is no merit."""
        return {"accuracy": True, "token_accuracy": True}.get(number, False if number.startswith("loss") else None)


class MeanLoss:
    """Collects what batches are worth; how the data set was cut into batches does not change the result."""

    needs_loss = True  # the evaluation calls task(batch), not task.predict(batch)

    def __init__(self) -> None:
        self.terms: dict[str, list[float]] = {}  # sum and units
        self.ratios: dict[str, list[float]] = {}

    def update(self, outputs: Sequence[tuple[StepOutput, Mapping[str, float]]]) -> None:
        """Add the outputs of one or more batches, each with the units of its terms."""
        for output, units in outputs:
            parts = {name: (float(term.detach()), units[name]) for name, term in output.terms.items()}
            ratios = {name: (float(one.total), float(one.count)) for name, one in output.metrics.items()}
            for sums, new in ((self.terms, parts), (self.ratios, ratios)):
                for name, (total, count) in new.items():
                    known = sums.setdefault(name, [0.0, 0.0])
                    known[0] += total
                    known[1] += count

    def compute(self) -> dict[str, float]:
        """`loss`, `loss_TERM` where there are several, and the task's own metrics; NaN where no batch came."""
        terms = {name: total / (count or 1.0) for name, (total, count) in self.terms.items()}
        found = {"loss": sum(terms.values()) if terms else float("nan")}
        if len(terms) > 1:
            found |= {f"loss_{name}": value for name, value in terms.items()}
        return found | {name: total / (count or 1.0) for name, (total, count) in self.ratios.items()}
