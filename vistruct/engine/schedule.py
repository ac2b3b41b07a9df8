"""Learning rate and weight decay over a run, as pure functions of the step."""

from __future__ import annotations

import math

from vistruct.config import AdamW, Schedule
from vistruct.errors import UserError

MOST_WARMUP = 250  # steps


def warmup_of(schedule: Schedule, steps: int) -> int:
    """Steps of the warm-up of a run of `steps`."""
    return min(MOST_WARMUP, steps // 10) if schedule.warmup_steps is None else schedule.warmup_steps


def lr_factor(step: int, steps: int, schedule: Schedule) -> float:
    """The factor on the peak learning rate that step `step` of `steps` is taken with.

    The warm-up rises in a line from `warmup_from` at step 0 and would meet 1 at step `warmup_steps`. After
    it, cosine and poly fall to `final` at the last step (steps - 1); step shape multiplies by `drop_by` from each of
    `drops_at` on.

    Args:
        step: 0 for the first step of the run.

    Returns:
        in [0, 1]; 1 where a run is too short to have a slope.
    """
    warmup = warmup_of(schedule, steps)
    if step < warmup:
        return schedule.warmup_from + (1 - schedule.warmup_from) * step / warmup
    if schedule.shape == "constant":
        return 1.0
    if schedule.shape == "step":
        return schedule.drop_by ** sum(step >= at for at in schedule.drops_at)
    span = steps - 1 - warmup
    if span <= 0:
        return 1.0
    progress = min((step - warmup) / span, 1.0)
    if schedule.shape == "poly":
        return schedule.final + (1 - schedule.final) * (1 - progress) ** schedule.power
    return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2


def decay_at(step: int, steps: int, optim: AdamW) -> float:
    """The weight decay of step `step` of `steps`: from `weight_decay` at the first to `final_weight_decay` at the last.

    Source: the cosine of DINO (Caron et al., arXiv:2104.14294), whose decay rises from 0.04 to 0.4.
    """
    if optim.final_weight_decay is None or steps < 2:
        return optim.weight_decay
    change = optim.final_weight_decay - optim.weight_decay
    return optim.weight_decay + change * (1 - math.cos(math.pi * step / (steps - 1))) / 2


def check_schedule(schedule: Schedule, steps: int) -> None:
    """Refuse a schedule that cannot do what it says within `steps`.

    Raises:
        UserError: the warm-up is as long as the run, so that the peak is never reached; a drop after the end;
            drops with a shape that has none.
    """
    if (warmup := warmup_of(schedule, steps)) >= steps:
        raise UserError(
            f"schedule.warmup_steps={warmup} reaches the peak after steps={steps}",
            where="schedule",
            fix=f"use at most {steps - 1} warm-up steps, or train longer",
        )
    late = [at for at in schedule.drops_at if at >= steps]
    if schedule.shape == "step" and late:
        raise UserError(
            f"schedule.drops_at={late[0]} is not below steps={steps}",
            where="schedule",
            fix="drop earlier, or train longer",
        )
    if schedule.shape != "step" and schedule.drops_at:
        raise UserError(
            f"schedule.drops_at does nothing with shape={schedule.shape!r}",
            where="schedule",
            fix="set shape: step",
        )
