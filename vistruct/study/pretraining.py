"""Initial weights that a study makes itself, before its trials: each a run of a recipe, in `pretrained/`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistruct.config import Run, run_from_dict
from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.options import options_of
from vistruct.runs import train_and_report
from vistruct.settings import with_settings
from vistruct.study.jobs import Job
from vistruct.study.plan import checked_options, digest_of, made_by
from vistruct.study.study import Pretraining, Study
from vistruct.study.workers import Report

PRETRAIN = f"{__name__}:pretrain"
PLANNED = "planned"  # below a run's directory, where nothing lies


def pretraining_jobs(study: Study, out: Path) -> tuple[list[Job], dict[str, Path]]:
    """The jobs, and by name where each run will be.

    Args:
        out: the study's directory.

    Raises:
        UserError: an unknown recipe or option, data that cannot be read.
    """
    jobs: list[Job] = []
    places: dict[str, Path] = {}
    runs: dict[str, Run] = {}
    cache = out / "index" if out.exists() else None  # a dry run leaves nothing behind
    for name, one in study.pretrain.items():
        run = runs[name] = _run(one, places, runs)
        data = {key: stream.data.build(cache=cache).info.fingerprint for key, stream in run.streams.items()}
        asked = {"run": run.model_dump(mode="json"), "data": data}
        places[name] = out / "pretrained" / f"{name}-{digest_of(asked)}"
        jobs.append(
            Job(
                name=f"pretrain-{name}",
                call=PRETRAIN,
                arguments={**asked, "directory": str(places[name])},
                needs=tuple(f"pretrain-{start}" for start in one.needs),
                cost=run.steps,
            )
        )
    return jobs, places


def _run(one: Pretraining, places: Mapping[str, Path], runs: Mapping[str, Run]) -> Run:
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
        run = joined({task: (runs[start], places[start]) for task, start in one.start.items()}, **given)
        return with_settings(run, list(one.settings)) if one.settings else run
    function = module.recipe
    goes_on = one.start is not None and "start" in options_of(function)
    # Recipes read what they start from where it is there: planned as if it never were, a study that goes on is the same
    planned = {"start": places[one.start] / PLANNED} if one.start is not None and goes_on else {}
    run = made_by(one.recipe, function, checked_options(function, {**one.options, **planned}, {}))
    if one.start is not None and goes_on:
        run = _begun(run, places[one.start])
    if one.start is not None and not goes_on:
        run = _over(run, runs[one.start], places[one.start])
    if one.backbone is not None:
        run = _over(run, runs[one.backbone], places[one.backbone])
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
    same = {name: vars(other)[name] for name in ("backbone", "mean", "std")}
    streams = {}
    for name, stream in run.streams.items():
        task: Any = stream.task
        streams[name] = stream.model_copy(update={"task": task.model_copy(update=same)})
    return run.model_copy(update={"streams": streams, "init": place})


def pretrain(
    *, run: dict[str, Any], directory: str, data: Mapping[str, str], results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Train a run, or go on with it; `data` are fingerprints, so that with other data the job is another one.

    Returns:
        `run` the directory, and `seconds` of the processor from start to report; None where a part of it was done
        before or by other processes.
    """
    resolved, is_new = run_from_dict(run, directory), not Path(directory).exists()
    began = time.process_time()
    train_and_report(
        resolved, Path(directory), on_step=lambda step, m: report(step, resolved.steps, f"loss {m['loss']:.3f}")
    )
    spent = round(time.process_time() - began, 3)
    return {"run": directory, "seconds": spent if is_new and not resolved.workers else None}
