"""How many steps fill a budget in seconds, and what the steps of a run have really taken.

The seconds are of the processor, or of the accelerator where there is one, in the training steps themselves: data,
forward, backward, optimiser. A run whose tasks go through phases (`contracts.Phased`), draws one of several streams for
a step, or keeps the maps of a frozen backbone, has steps of several kinds: of each a few are timed where they lie in
the run, at a rate of nothing, from random weights; a run's seconds are those of its kinds, as often as it has them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vistruct.config import Run, run_from_dict, with_values
from vistruct.contracts import Phase, Phased
from vistruct.data.loading.streams import streams_of
from vistruct.engine.environment import compute_seconds
from vistruct.engine.kept_maps import KeptMaps
from vistruct.engine.run import State
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of, started
from vistruct.errors import UserError
from vistruct.reports.run_report import read_metrics
from vistruct.study.workers import Report

PACE = f"{__name__}:time_steps"
TIMED = 12  # steps of each kind, of which the first, with all that is made once, does not count
TIMED_SECONDS = 1.0  # short ones are timed for so long at least
MOST_TIMED = 100  # steps of a phase
STILL_RATE = 1e-30  # what is added to a weight vanishes beside it
STEP_TIMES = "step_times.jsonl"
ROUNDS = 50  # of looking for the number of steps


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What the steps of a run take."""

    phases: Mapping[str, Mapping[str, float]]  # seconds of a step, by the phase and the stream drawn ("": all learn)
    samples: Mapping[str, int]  # of each stream's data
    a_map: float  # seconds more where an image's maps are computed, and not read; 0: none are kept
    seconds: float  # that timing has taken

    def seconds_of(self, run: Run) -> float:
        """What all steps of a run take, the maps that it keeps computed once."""
        phases, total = phases_of(run), 0.0
        ends = [*(phase.first_step for phase in phases[1:]), run.steps]
        for phase, end in zip(phases, ends, strict=True):
            known = self.phases.get(phase.name) or max(self.phases.values(), key=lambda one: max(one.values()))
            each = sum(share * known.get(name, statistics.mean(known.values())) for name, share in _shares(run).items())
            total += (end - phase.first_step) * each
        return total + self.a_map * sum(self._computed(run, name) for name in self.samples)

    def _computed(self, run: Run, stream: str) -> float:
        """Images that a run is shown for the first time."""
        shown = run.steps * _shares(run).get(stream, 1.0) * run.streams[stream].batch
        return min(shown, self.samples[stream])


def phases_of(run: Run) -> list[Phase]:
    """Those of all its tasks together, as far as it has steps; one without a name where all steps are alike."""
    own = [_phases(stream.task) or (Phase(name="", first_step=0),) for stream in run.streams.values()]
    firsts = sorted({phase.first_step for phases in own for phase in phases if phase.first_step < run.steps})

    def named(step: int) -> str:
        at = [[phase.name for phase in phases if phase.first_step <= step][-1] for phases in own]
        return ", ".join(name for name in at if name)

    return [Phase(name=named(first), first_step=first) for first in firsts]


def _phases(task: object) -> tuple[Phase, ...]:
    return task.phases if isinstance(task, Phased) else ()


def with_all_phases(run: Run) -> Run:
    """The same with so many steps that each phase can be timed."""
    firsts = (phase.first_step for stream in run.streams.values() for phase in _phases(stream.task))
    return with_values(run, steps=max(run.steps, max(firsts, default=0) + TIMED))


def check_phases(run: Run, budget: str) -> None:
    """
    Raises:
        UserError: the last step comes before the last phase.
    """
    for name, stream in run.streams.items():
        for late in (phase for phase in _phases(stream.task) if phase.first_step >= run.steps):
            what = f"{budget} are {run.steps:,} steps, and {late.name!r} begins after {late.first_step:,}"
            where = "task" if len(run.streams) == 1 else f"streams.{name}.task"
            raise UserError(what, where=where, fix="a larger budget, or fewer steps before it")


def steps_that_fill(seconds: float, make: Callable[[int], Run], pace: Pace) -> int:
    """The most steps that take no longer; 0: one does.

    Args:
        make: the run of so many steps, whose phases may depend on how many there are.
    """
    steps = 1
    if pace.seconds_of(make(1)) > seconds:
        return 0
    for _ in range(ROUNDS):
        nearer = max(1, int(steps * seconds / pace.seconds_of(make(steps)) + 1e-6))
        if nearer == steps:
            break
        steps = nearer
    while steps > 1 and pace.seconds_of(make(steps)) > seconds * (1 + 1e-6):
        steps -= 1
    while pace.seconds_of(make(steps + 1)) <= seconds:
        steps += 1
    return steps


def time_steps(*, run: dict[str, Any], results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """A job: a few steps of each kind that a run has, as a `Pace`; it leaves nothing behind."""
    resolved = run_from_dict(run, "pace")
    began = compute_seconds(computing_device())
    with TemporaryDirectory() as folder:
        maps = resolved.cache_maps and resolved.cache_maps.model_copy(update={"folder": Path(folder) / "maps"})
        still = resolved.optim.model_copy(update={"lr": STILL_RATE})
        plain: dict[str, Any] = {"evals": {}, "snapshots": (), "best_by": "", "patience": None}
        short = with_values(resolved, cache_maps=maps, optim=still, **plain)
        with started(short, Path(folder) / "run") as training:
            found = paces_of(training.state, report)
    return {**found, "seconds": round(compute_seconds(computing_device()) - began, 3)}


def paces_of(state: State, report: Report = lambda *_: None) -> dict[str, Any]:
    """`phases`, `samples` and `a_map` of a `Pace`."""
    run, phases = state.run, phases_of(state.run)
    ends = [*(phase.first_step for phase in phases[1:]), run.steps]
    a_map = _of_a_map(state, ends[0])
    found: dict[str, dict[str, float]] = {}
    for number, (phase, end) in enumerate(zip(phases, ends, strict=True), 1):
        if _kept(state):  # all maps are there the second time
            _timed(state, phase.first_step, end, many=TIMED)
        timed = _timed(state, phase.first_step, end, many=TIMED if _kept(state) else None)
        counted = timed[1:] or timed
        drawn = dict.fromkeys(name for name, _ in counted)
        found[phase.name] = {n: statistics.mean(spent for name, spent in counted if name == n) for n in drawn}
        report(number, len(phases), "how long a step takes")
    samples = {name: len(source.dataset) for name, source in state.sources.items() if not source.stream.samples}
    return {"phases": found, "samples": samples, "a_map": a_map}


def _of_a_map(state: State, end: int) -> float:
    """Seconds more for each image whose maps are computed: of the same steps, with no map there and then with all."""
    kept = _kept(state)
    if not kept:
        return 0.0
    steps = min(TIMED, end)
    computed, spent = [sum(one.computed for one in kept)], list[list[float]]()
    for _ in range(2):
        begin = _timed(state, 0, 1)
        computed.append(sum(one.computed for one in kept))
        spent.append([seconds for _, seconds in (*begin, *_timed(state, 1, steps, many=steps))])
    later = (sum(one.computed for one in kept) - computed[1]) / len(kept)
    if later:  # the first step has all that is made once
        return max(0.0, sum(spent[0][1:]) - sum(spent[1][1:])) / later
    return max(0.0, spent[0][0] - spent[1][0]) * len(kept) / max(1, computed[1] - computed[0])


def _kept(state: State) -> list[KeptMaps]:
    return [one for one in (state.maps, *(teacher.maps for teacher in state.teachers)) if one is not None]


def _timed(state: State, first: int, end: int, many: int | None = None) -> list[tuple[str, float]]:
    """The stream drawn and the seconds of each of some steps from `first` on.

    Args:
        end: the step that is none of them any more.
        many: how many; None: enough to tell.
    """
    run, found = state.run, list[tuple[str, float]]()
    streams = len(_shares(run))
    state.step = first
    with closing(iter(loader_of(state))) as batches:
        while state.step < end and len(found) < (many or MOST_TIMED):
            drawn = streams_of(run, state.step)[0] if "" not in _shares(run) else ""
            began = compute_seconds(state.device)
            train_step(state, next(batches))
            found.append((drawn, compute_seconds(state.device) - began))
            each = [sum(name == one for name, _ in found[1:]) for one in _shares(run)]
            is_long = sum(spent for _, spent in found[1:]) >= TIMED_SECONDS
            if many is None and is_long and len(found) >= TIMED and min(each) * streams >= TIMED // 2:
                break
    return found


def _shares(run: Run) -> dict[str, float]:
    """How often a step learns from which stream; "": from all."""
    if run.draw == "every" or len(run.streams) == 1:
        return {"": 1.0}
    whole = sum(stream.weight for stream in run.streams.values())
    return {name: stream.weight / whole for name, stream in run.streams.items()}


def computing_device() -> torch.device:
    """Where the runs of a study compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class StepTimes:
    """What each step of a run has taken, kept in its directory, so that one that was resumed still knows."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / STEP_TIMES

    def add(self, step: int, seconds: float) -> None:
        """Of a step that is done; one that is taken again counts as it was the last time."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "compute_seconds": round(seconds, 6)}) + "\n")

    def total(self, steps: int) -> float | None:
        """Of all steps; None where one is not known."""
        known = dict(read_metrics(self.file).get("compute_seconds", []))
        return sum(known[step] for step in range(1, steps + 1)) if len(known) >= steps else None
