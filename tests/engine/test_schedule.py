from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
)

from vistruct.config import AdamW, Schedule
from vistruct.engine.schedule import check_schedule, decay_at, lr_factor
from vistruct.errors import UserError

STEPS, WARMUP = 50, 8


def factors(schedule: Schedule) -> list[float]:
    return [lr_factor(step, STEPS, schedule) for step in range(STEPS)]


def torch_factors(make_main) -> list[float]:
    """What torch's own schedulers give after a linear warm-up from 0.25."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = LinearLR(optimizer, start_factor=0.25, end_factor=1.0, total_iters=WARMUP)
    scheduler: LRScheduler = SequentialLR(optimizer, [warmup, make_main(optimizer)], milestones=[WARMUP])
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_equals_torchs(final):
    ours = factors(Schedule(shape="cosine", warmup_steps=WARMUP, warmup_from=0.25, final=final))
    theirs = torch_factors(lambda o: CosineAnnealingLR(o, T_max=STEPS - 1 - WARMUP, eta_min=final))
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_steps_equal_torchs():
    ours = factors(Schedule(shape="step", warmup_steps=WARMUP, warmup_from=0.25, drops_at=(20, 35), drop_by=0.5))
    theirs = torch_factors(lambda o: MultiStepLR(o, milestones=[20 - WARMUP, 35 - WARMUP], gamma=0.5))
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("power", [1.0, 0.9])
def test_poly_equals_torchs(power):
    ours = factors(Schedule(shape="poly", warmup_steps=WARMUP, warmup_from=0.25, power=power))
    theirs = torch_factors(lambda o: PolynomialLR(o, total_iters=STEPS - 1 - WARMUP, power=power))
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_constant_equals_torchs():
    ours = factors(Schedule(shape="constant", warmup_steps=WARMUP, warmup_from=0.25))
    assert ours == pytest.approx(torch_factors(lambda o: ConstantLR(o, factor=1.0)), abs=1e-9)


def test_a_run_of_one_step_takes_it_at_the_peak():
    assert lr_factor(0, 1, Schedule()) == 1.0


@pytest.mark.parametrize(
    ("schedule", "word"),
    [
        (Schedule(warmup_steps=10), "warmup_steps"),
        (Schedule(shape="step", drops_at=(5, 10)), "drops_at"),
        (Schedule(shape="cosine", drops_at=(5,)), "drops_at"),
    ],
)
def test_a_schedule_that_cannot_do_what_it_says_is_refused(schedule, word):
    with pytest.raises(UserError, match=word):
        check_schedule(schedule, 10)


def test_a_schedule_that_just_fits_is_accepted():
    check_schedule(Schedule(shape="step", warmup_steps=9, drops_at=(9,)), 10)


def test_a_decay_that_rises_follows_torchs_cosine():
    ours = [decay_at(step, STEPS, AdamW(weight_decay=0.04, final_weight_decay=0.4)) for step in range(STEPS)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.04)
    scheduler, theirs = CosineAnnealingLR(optimizer, T_max=STEPS - 1, eta_min=0.4), []
    for _ in range(STEPS):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert {decay_at(step, STEPS, AdamW(weight_decay=0.04)) for step in range(STEPS)} == {0.04}
    assert decay_at(0, 1, AdamW(weight_decay=0.04, final_weight_decay=0.4)) == 0.04
