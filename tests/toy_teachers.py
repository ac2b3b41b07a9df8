"""A toy task with a teacher that follows its student, a centre of earlier steps, and the teacher as its backbone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from toy_engine import ToyBatch, ToyTask, ToyTaskConfig

from vistruct.contracts import DataInfo, StepOutput, TaskTraits
from vistruct.distributed.ranks import all_reduce_sum


class TaughtConfig(ToyTaskConfig):
    kind: Literal["toy_teachers:TaughtConfig"] = "toy_teachers:TaughtConfig"  # ty: ignore[invalid-assignment]

    def build(self, info: DataInfo, assets: Path, backbone: nn.Module | None = None) -> Taught:
        return Taught(self, backbone)


class Taught(ToyTask):
    centre: Tensor

    def __init__(self, config: TaughtConfig, backbone: nn.Module | None = None) -> None:
        super().__init__(config, backbone)
        self.teacher = nn.ModuleDict({"backbone": copy.deepcopy(self.backbone)})
        self.register_buffer("centre", torch.zeros(8))
        self.sums = torch.zeros(9)
        self.told: list[tuple[int, int]] = []

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="",
            terms=("brightness",),
            before_step=self.before_step,
            after_step=self.after_step,
            still=("teacher",),
            ships="teacher.backbone",
        )

    @torch.no_grad()
    def before_step(self, step: int, steps: int) -> None:
        self.told.append((step, steps))
        momentum = 0.0 if step == 0 else 0.5 + 0.5 * step / steps
        for own, other in zip(self.teacher.parameters(), self.backbone.parameters(), strict=True):
            own.lerp_(other.to(own.dtype), 1 - momentum)

    @torch.no_grad()
    def after_step(self) -> None:
        sums = all_reduce_sum(self.sums)
        self.centre.lerp_(sums[:8] / sums[8], 0.1)
        self.sums = torch.zeros(9)

    def forward(self, batch: ToyBatch) -> StepOutput:
        with torch.no_grad():
            taught: Any = self.teacher["backbone"](batch.images)
        if self.training:
            self.sums += torch.cat([taught.sum(0), torch.tensor([float(len(taught))])])
        out = super().forward(batch)
        off = (self.backbone(batch.images) - (taught - self.centre)).square().mean(1) * batch.counts
        return StepOutput(terms={"brightness": out.terms["brightness"] + off.sum()})
