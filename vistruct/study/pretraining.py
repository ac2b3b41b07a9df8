"""Initial weights that a study makes itself, before its trials: each a run of a recipe, in `pretrained/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from vistruct.config import Run, run_from_dict, with_values
from vistruct.engine.environment import compute_seconds
from vistruct.engine.ship import ship
from vistruct.engine.train import started
from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.options import options_of
from vistruct.runs import train_and_report
from vistruct.settings import with_settings
from vistruct.study.jobs import Job
from vistruct.study.pace import PACE, Pace, StepTimes, check_phases, computing_device, steps_that_fill, with_all_phases
from vistruct.study.plan import checked_options, digest_of, init_digest, made_by, measured_at_the_end
from vistruct.study.ring import begun_at, expanded
from vistruct.study.study import Pretraining, Study
from vistruct.study.trial import INDEX, index_of
from vistruct.study.workers import Report

PRETRAIN, BEGIN = (f"{__name__}:{name}" for name in ("pretrain", "begin"))
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PLANNED = "planned"  # below a run's directory, where nothing lies


def pretraining_jobs(
    study: Study, out: Path, paces: Mapping[str, Pace] = MappingProxyType({})
) -> tuple[list[Job], dict[str, Path]]:
    """The jobs, and by name where each run will be.

    Args:
        study: its teachers written out.
        out: the study's directory.
        paces: of those whose budget is in seconds, by their names; one that is missing has the steps of its recipe.

    Raises:
        UserError: an unknown recipe or option, data that cannot be read, a budget that is not one step.
    """
    jobs: list[Job] = []
    places: dict[str, Path] = {}
    runs: dict[str, Run] = {}
    fingerprints: dict[str, str] = {}
    cache = out / INDEX if out.exists() else None  # a dry run leaves nothing behind
    for name, one in study.pretrain.items():
        run = runs[name] = _run(one, places, runs, paces.get(name))
        data = {}
        for key, stream in {} if one.is_begun_only else run.streams.items():
            read = stream.data.model_dump_json()  # repetitions of a teacher read the same
            if read not in fingerprints:
                fingerprints[read] = stream.data.build(cache=cache).info.fingerprint
            data[key] = fingerprints[read]
        source = begun_with(run)
        weights = init_digest(source) if source is not None and source not in places.values() else ""
        asked = {"run": run.model_dump(mode="json"), "data": data} | ({"weights": weights} if weights else {})
        places[name] = out / "pretrained" / f"{name}-{digest_of(asked)}"
        jobs.append(
            Job(
                name=f"pretrain-{name}",
                call=BEGIN if one.is_begun_only else PRETRAIN,
                arguments={**asked, "directory": str(places[name])},
                needs=tuple(f"pretrain-{start}" for start in one.needs),
                cost=1 if one.is_begun_only else run.steps,
            )
        )
    return jobs, places


def check_pretrainings(study: Study) -> None:
    """Make the run of each, before anything is written; no data are read.

    Raises:
        UserError: what keeps one from being run, and which one it is.
    """
    runs: dict[str, Run] = {}
    for name, one in study.pretrain.items():
        try:
            runs[name] = _run(one, {start: Path(start) for start in runs}, runs)
        except UserError as error:
            where = f"{one.recipe}, the pretraining {name}" + (f": {error.where}" if error.where else "")
            taught = " (an option of a teacher: --teacher-option NAME.OPTION=VALUE)" if study.starts else ""
            raise UserError(error.what, where=where, fix=f"{error.fix}{taught}") from error


def begun_jobs(study: Study, out: Path) -> tuple[list[Job], dict[str, Path]]:
    """Those of `pretraining_jobs` that learn nothing: the weights that teachers go on from."""
    begun = {name: one for name, one in study.pretrain.items() if one.is_begun_only and not one.needs}
    return pretraining_jobs(study.model_copy(update={"pretrain": begun}), out)


def pace_jobs(study: Study, begun: Mapping[str, Path]) -> dict[str, Job]:
    """Jobs that time the steps of those whose budget is in seconds, by the names of the pretrainings that they are for.

    Args:
        study: its teachers written out.
        begun: where the weights are that they go on from.
    """
    jobs, runs = dict[str, Job](), dict[str, Run]()
    asked = {name: one for name, one in study.pretrain.items() if one.budget is not None and one.budget.seconds}
    if not asked:
        return {}
    for name, one in study.pretrain.items():
        run = runs[name] = _run(one, {start: begun.get(start, Path(start)) for start in runs}, runs)
        if name in asked and one.paced_as in (None, name):
            bare = {n: s.model_copy(update={"start": None}) for n, s in run.streams.items()}
            timed = with_all_phases(with_values(run, streams=bare, init=None))
            jobs[name] = Job(name=f"pace-{name}", call=PACE, arguments={"run": timed.model_dump(mode="json")})
    return {name: jobs[one.paced_as or name] for name, one in asked.items()}


def begun_with(run: Run) -> Path | None:
    """The weights that a run starts from; None: random ones."""
    return run.init or next((stream.start for stream in run.streams.values() if stream.start is not None), None)


def keeps_statistics(run: Run) -> bool:
    """Whether layers of the backbone keep statistics of what they have seen, which change without any learning."""
    task: Any = next(iter(run.streams.values())).task
    with torch.device("meta"):  # no memory for its weights
        backbone = task.backbone.build()
    return any(isinstance(module, NORMS) and module.track_running_stats for module in backbone.modules())


def starts_with_statistics(study: Study) -> list[str]:
    """The starts of a ring whose backbones do."""
    if not study.teachers:
        return []
    plain = expanded(study)
    begun = {name: plain.pretrain[begun_at(study, name, 0)] for name in plain.starts}
    return [name for name, one in begun.items() if keeps_statistics(_run(one, {}, {}))]


def _run(one: Pretraining, places: Mapping[str, Path], runs: Mapping[str, Run], pace: Pace | None = None) -> Run:
    """A pretraining as a run: that of its recipe, with its seed, the steps that its budget allows, its truth shuffled.

    Args:
        pace: what its steps take; None: not timed yet, and a budget in seconds has the steps of the recipe.

    Raises:
        UserError: as `_made`; a recipe whose steps cannot be told, a budget of less than one step or without its last
            phase; settings that would end it at another step.
    """
    run = _made(one, places, runs, {})
    if one.budget is not None:
        steps = _steps(one, run, pace, lambda many: _made(one, places, runs, {"steps": many}))
        if steps is not None:
            run = _made(one, places, runs, {"steps": steps})
            check_phases(run, one.budget.line)
        if run.patience is not None or steps not in (None, run.steps):
            odd = "steps" if run.patience is None else "patience"
            what = f"{odd}={vars(run)[odd]} would end it at another step than the budget of {one.budget.line}"
            raise UserError(what, where="settings", fix=f"leave {odd} out: all that are compared have an equal budget")
        if one.budget.seconds is not None and not torch.cuda.is_available():
            run = with_values(run, workers=0)  # the same batches, and all of their processor's time is counted
    if one.seed is not None:
        run = with_values(run, seed=one.seed)
    if one.is_shuffled:
        shuffled = {n: s.model_copy(update={"shuffled": True}) for n, s in run.streams.items()}
        run = with_values(run, streams=shuffled)
    return run


def _steps(one: Pretraining, run: Run, pace: Pace | None, make: Callable[[int], Run]) -> int | None:
    """That fill a budget; None: not known yet."""
    budget = one.budget
    assert budget is not None
    if "steps" not in options_of(find(one.recipe).recipe):
        what = f"the steps of {one.recipe} cannot be told it"
        raise UserError(what, where="budget", fix="leave the budget out, and say it in the teacher's settings")
    if budget.samples is not None:
        each, unit = samples_of_a_step(run), "samples"
        steps = budget.samples // each
    elif pace is None:
        return None
    else:
        each, unit = pace.seconds_of(make(1)), "seconds"
        steps = steps_that_fill(budget.seconds or 0, make, pace)
    if steps < 1:
        what = f"{budget.line} are not one step of {one.recipe}, which takes {each:.4g} {unit}"
        raise UserError(what, where="budget", fix="a larger budget, or a smaller batch (teachers.NAME.options.batch)")
    return steps


def samples_of_a_step(run: Run) -> int:
    """Those that several tasks learn from are one."""
    own = [stream for stream in run.streams.values() if not stream.samples]
    return sum(stream.batch for stream in own) if run.draw == "every" else max(stream.batch for stream in own)


def _made(one: Pretraining, places: Mapping[str, Path], runs: Mapping[str, Run], more: Mapping[str, Any]) -> Run:
    """A recipe that goes on from whole models does so; any other one begins with the backbone that is there, alone.

    Raises:
        UserError: as `checked_options` and `made_by`; several starts for a recipe that joins none.
    """
    module = find(one.recipe)
    if isinstance(one.start, dict):
        joined = vars(module).get("of_runs")
        if joined is None:
            what, fix = f"{one.recipe} starts from one run, not from one for each task", "start: NAME; or visft.joint"
            raise UserError(what, where="pretrain", fix=fix)
        given = checked_options(module.recipe, one.options, {"start": "start: {TASK: NAME}"})
        run = joined({task: (runs[start], places[start]) for task, start in one.start.items()}, **given, **more)
        return with_settings(run, list(one.settings)) if one.settings else run
    function = module.recipe
    seeded = {"seed": one.seed} if one.seed is not None and "seed" in options_of(function) else {}
    goes_on = one.start is not None and "start" in options_of(function)
    # Recipes read what they start from where it is there: planned as if it never were, a study that goes on is the same
    planned = {"start": places[one.start] / PLANNED} if one.start is not None and goes_on else {}
    told = checked_options(function, {**one.options, **planned, **seeded, **more}, {})
    run = measured_at_the_end(made_by(one.recipe, function, told))
    if one.start is not None and goes_on:
        run = _begun(run, places[one.start])
    for name in (None if goes_on else one.start, one.backbone):
        if name is None:
            continue
        run = _over(run, runs[name], places[name])
        if "going_on" in vars(module) and not one.is_from_random:
            run = module.going_on(run, places[name], **one.options)
    return with_settings(run, list(one.settings)) if one.settings else run


def _begun(run: Run, place: Path) -> Run:
    """The run with what lies at `place` where it was planned to start."""
    streams = {
        name: stream.model_copy(update={"start": place}) if stream.start == place / PLANNED else stream
        for name, stream in run.streams.items()
    }
    return run.model_copy(update={"streams": streams})


def _over(run: Run, earlier: Run, place: Path) -> Run:
    """The run on the backbone of an earlier one: its architecture, its weights, mean and std of its pixels."""
    other: Any = next(iter(earlier.streams.values())).task
    same = {name: vars(other)[name] for name in ("backbone", "mean", "std") if name in vars(other)}
    streams = {}
    for name, stream in run.streams.items():
        task: Any = stream.task
        streams[name] = stream.model_copy(update={"task": task.model_copy(update=same)})
    return run.model_copy(update={"streams": streams, "init": place})


def begin(
    *,
    run: dict[str, Any],
    directory: str,
    data: Mapping[str, str],
    results: Mapping[str, Any],
    report: Report,
    weights: str = "",
) -> dict[str, Any]:
    """Leave what a run would begin with, as if it had ended before its first step."""
    with started(run_from_dict(run, directory), Path(directory), index=index_of(Path(directory))) as training:
        ship(training.state)
    return {"run": directory, "seconds": None, "step_seconds": None, "keeps_maps": False}


def pretrain(
    *,
    run: dict[str, Any],
    directory: str,
    data: Mapping[str, str],
    results: Mapping[str, Any],
    report: Report,
    weights: str = "",
) -> dict[str, Any]:
    """Train a run, or go on with it; `data` and `weights` are fingerprints, so that with others the job is another one.

    Returns:
        `run` the directory; `seconds` of the processor or the accelerator from start to report, None where a part of it
        was done before; `step_seconds` of its steps alone; both None where other processes did a part; `keeps_maps`.
    """
    resolved, place, is_new = run_from_dict(run, directory), Path(directory), not Path(directory).exists()
    times, device = StepTimes(place), computing_device()
    began = compute_seconds(device)

    def note(step: int, metrics: dict[str, float]) -> None:
        times.add(step, metrics["compute_seconds"])
        report(step, resolved.steps, f"loss {metrics['loss']:.3f}")

    train_and_report(resolved, place, on_step=note, index=index_of(place), is_shown=resolved.seed == 0)
    spent = round(compute_seconds(device) - began, 3)
    is_whole = device.type == "cuda" or not resolved.workers
    return {
        "run": directory,
        "seconds": spent if is_new and is_whole else None,
        "step_seconds": times.total(resolved.steps) if is_whole else None,
        "keeps_maps": resolved.cache_maps is not None,
    }
