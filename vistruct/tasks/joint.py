"""Several tasks over one backbone, as one module that a step can train.

Tensors are called `backbone.*` and `tasks.NAME.*`; a task has the backbone too, under its own name, as the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vistruct.contracts import StepOutput, StreamBatch, Task, named_term
from vistruct.errors import UserError


class Joint(nn.Module):
    """StreamBatch -> StepOutput of the task that the batch is for; terms and metrics are called `NAME.TERM`.

    Args:
        tasks: by the names of their streams; all of them hold the same backbone object.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.backbone = next(iter(tasks.values())).backbone
        strangers = [name for name, task in tasks.items() if task.backbone is not self.backbone]
        if strangers:
            raise ValueError(f"task {strangers[0]!r} has a backbone of its own")
        taken = [name for name in tasks if name in dir(nn.ModuleDict())]
        if taken:
            what = f"a stream cannot be called {taken[0]!r}: torch's modules have that name"
            raise UserError(what, where="streams", fix=f"{taken[0]}_data, or what the task is about")
        self.tasks = nn.ModuleDict(dict(tasks))  # ty: ignore[invalid-argument-type]  # a task is a module

    def forward(self, batch: StreamBatch) -> StepOutput:
        out = self.tasks[batch.stream](batch.batch)
        return StepOutput(
            terms={named_term(batch.stream, name): term for name, term in out.terms.items()},
            metrics={named_term(batch.stream, name): ratio for name, ratio in out.metrics.items()},
        )

    def units(self, batch: StreamBatch) -> Mapping[str, float | Tensor]:
        """Of each term of the batch's own task, as the task says."""
        task: Any = self.tasks[batch.stream]
        own = task.units(batch.batch)
        return {named_term(batch.stream, name): number for name, number in own.items()}

    def predict(self, batch: StreamBatch) -> list[Any]:
        """As the batch's own task."""
        task: Any = self.tasks[batch.stream]
        return task.predict(batch.batch)
