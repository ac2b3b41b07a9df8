"""Budgets in seconds: what steps of each kind take, how many fill a budget, and what they have taken."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from vistruct.config import Run, with_values
from vistruct.contracts import Phase
from vistruct.data.loading.streams import streams_of
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.errors import UserError
from vistruct.recipes import distill, joint, self_distill
from vistruct.settings import with_settings
from vistruct.study import pace
from vistruct.study.pace import Pace, StepTimes, check_phases, paces_of, phases_of, steps_that_fill, with_all_phases

BOTH = {"the heads alone": {"": 0.25}, "everything": {"": 0.75}}


@functools.cache
def tiny() -> Run:
    return self_distill.tiny()


def taught(steps: int, heads_first: int) -> Run:
    run = tiny()
    task = run.only.task.model_copy(update={"heads_first": heads_first})
    return with_values(run, task=task, steps=steps)


def test_a_task_says_where_its_steps_change():
    assert phases_of(taught(9, 0)) == [Phase(name="", first_step=0)]
    assert [one.first_step for one in phases_of(taught(9, 4))] == [0, 4]
    assert [one.name for one in phases_of(taught(3, 4))] == ["the heads alone"]
    assert [one.first_step for one in phases_of(with_all_phases(taught(3, 4)))] == [0, 4]
    check_phases(taught(5, 4), "2 seconds")
    with pytest.raises(UserError, match="2 seconds are 4 steps, and 'everything' begins after 4"):
        check_phases(taught(4, 4), "2 seconds")


def test_a_run_takes_what_its_steps_take_each_as_often_as_it_has_them():
    known = Pace(phases=BOTH, samples={"main": 50}, a_map=0.5, seconds=1.0)
    run = taught(11, 4)
    batch = run.only.batch
    by_hand = sum(0.25 if step < 4 else 0.75 for step in range(11)) + 0.5 * len({n % 50 for n in range(11 * batch)})
    assert known.seconds_of(run) == pytest.approx(by_hand)
    long = with_values(run, steps=100)
    by_hand = sum(0.25 if step < 4 else 0.75 for step in range(100)) + 0.5 * 50
    assert known.seconds_of(long) == pytest.approx(by_hand)


def test_of_streams_that_are_drawn_each_counts_as_often_as_it_is_drawn():
    run = joint.tiny()
    names = list(run.streams)
    streams = {
        name: one.model_copy(update={"weight": 3.0 if name == names[0] else 1.0}) for name, one in run.streams.items()
    }
    drawn = with_values(run, draw="one", one_pass=False, streams=streams, steps=4000)
    each = {name: 1.0 + number for number, name in enumerate(names)}
    known = Pace(phases={"": each}, samples={}, a_map=0.0, seconds=0.0)
    by_hand = sum(each[streams_of(drawn, step)[0]] for step in range(drawn.steps))
    assert known.seconds_of(drawn) == pytest.approx(by_hand, rel=0.03)


@pytest.mark.parametrize("heads_first", [lambda steps: 0, lambda steps: steps // 10, lambda steps: 30])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 7.6, 33.3, 400.0])
def test_the_steps_are_the_most_that_take_no_longer(heads_first, seconds):
    known = Pace(phases=BOTH | {"": {"": 0.75}}, samples={"main": 40}, a_map=0.01, seconds=0.0)

    def make(steps: int) -> Run:
        return taught(steps, heads_first(steps))

    found = steps_that_fill(seconds, make, known)
    assert found == 0 or known.seconds_of(make(found)) <= seconds + 1e-5
    assert known.seconds_of(make(found + 1)) > seconds


class Clock:
    """Of made-up steps: each takes what `cost` says of the state after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: Any) -> None:
        self.now = 0.0

        def step(state: Any, batches: Any) -> dict[str, float]:
            before = cost(state, 0)
            told = train_step(state, batches)
            self.now += cost(state, 1) - before
            return told

        monkeypatch.setattr(pace, "train_step", step)
        monkeypatch.setattr(pace, "compute_seconds", lambda _: self.now)
        monkeypatch.setattr(pace, "TIMED_SECONDS", 5.0)


def test_each_phase_is_timed_where_it_lies(tmp_path, monkeypatch):
    Clock(monkeypatch, lambda state, done: done * (0.25 if state.model.heads_only else 0.75))
    found = paces_of(build(taught(40, 15), tmp_path))
    assert found["phases"] == BOTH
    assert found["a_map"] == 0


def test_maps_that_are_kept_are_told_from_those_that_are_computed(tmp_path, monkeypatch):
    run = distill.tiny()
    run = with_settings(
        run, ["data.augment=null", f"cache_maps={{folder: {tmp_path / 'maps'}}}", "steps=40", "batch=2"]
    )
    Clock(monkeypatch, lambda state, done: 0.25 * done + 0.5 * sum(one.maps.computed for one in state.teachers))
    state = build(run, tmp_path / "run")
    found = paces_of(state)
    assert found["phases"] == {"": {"": pytest.approx(0.25)}}
    assert found["a_map"] == pytest.approx(0.5)
    assert found["samples"] == {"main": len(state.only.dataset)}


def test_what_steps_took_is_known_of_a_run_that_was_resumed(tmp_path: Path):
    times = StepTimes(tmp_path)
    assert times.total(1) is None
    for step, seconds in ((1, 0.5), (2, 9.0), (3, 9.0)):
        times.add(step, seconds)
    with times.file.open("a") as file:
        file.write('{"step": 4, "comp')  # killed
    with times.file.open("a") as file:
        file.write("\n")
    for step, seconds in ((2, 0.25), (3, 0.25), (4, 1.0)):  # again, from the checkpoint of step 1
        StepTimes(tmp_path).add(step, seconds)
    assert times.total(4) == pytest.approx(2.0)
    assert times.total(5) is None
