"""Run what is missing of a study, and write study.yaml, study.json and report.html."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vistruct.checkpoint.save import write_json, write_text
from vistruct.config import Run, run_from_dict
from vistruct.data.loading.parallel import cores
from vistruct.errors import UserError
from vistruct.files.in_use import in_use, is_empty
from vistruct.files.owned import free
from vistruct.study.display import Display
from vistruct.study.few_labels import probe_jobs
from vistruct.study.finished import Written, written_out
from vistruct.study.jobs import Job, run_jobs
from vistruct.study.pace import Pace
from vistruct.study.plan import ROBUST, TRAIN, Plan, data_fingerprints, plan_trials, study_jobs, weight_digests
from vistruct.study.pretraining import (
    PRETRAIN,
    begun_jobs,
    check_pretrainings,
    pace_jobs,
    pretraining_jobs,
    samples_of_a_step,
)
from vistruct.study.questions import question_jobs
from vistruct.study.results import chosen_metric, results_of
from vistruct.study.study import Study, read_study, study_to_yaml
from vistruct.study.trial import INDEX


def run_study(
    study: Study,
    out: Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    make: Callable[..., Run] | None = None,
    train: str = TRAIN,
    robust: str = ROBUST,
    show: Display | None = None,
) -> dict[str, Any]:
    """Train and measure every job that has no result yet, and report.

    The directory may hold an earlier state of the same study, or one with fewer seeds, fractions, inits or tuning
    modes: what it has is kept.

    Args:
        out: the study's directory.
        workers: jobs at a time; None: one for each accelerator, or on a CPU one for each core.
        threads: of each worker.
        make: the recipe's function; None: by its name.
        train, robust: functions of the jobs.
        show: how to tell what goes on.

    Returns:
        what study.json says.

    Raises:
        UserError: whatever keeps the plan from being run, a job that failed, or another process runs it.
    """
    out = out.resolve()
    devices = accelerators()
    many = workers or len(devices) or cores()

    def run(jobs: list[Job]) -> dict[str, dict[str, Any]]:
        return run_jobs(jobs, out, workers=min(many, len(jobs)), threads=threads, devices=devices, show=show)

    written = written_out(study)
    # What cannot be run or compared is refused before hours of training.
    plan = plan_trials(written.study.unpretrained, make)
    chosen_metric(written.study, plan.trials[0].run)
    if written.before is None:
        check_pretrainings(written.study)
    with in_use(out, "this study is being run"):
        _enter(study, out)
        return _run(written, out, run, make, train, robust)


def _run(
    written: Written,
    out: Path,
    run: Callable[[list[Job]], Any],
    make: Callable[..., Run] | None,
    train: str,
    robust: str,
) -> dict[str, Any]:
    from vistruct.study.report import write_study_report

    study = written.study
    pretrained, places = _pretrained(study, out, run) if written.before is None else ({}, written.before.places)
    ready = study.with_weights(places)
    plan = plan_trials(ready, make)
    metric = chosen_metric(study, plan.trials[0].run)
    fingerprints, weights = data_fingerprints(plan.trials, out / INDEX), weight_digests(ready)
    jobs = study_jobs(ready, plan, out, fingerprints, metric, train=train, robust=robust)
    results = pretrained | run([*jobs, *probe_jobs(study, plan, weights), *question_jobs(ready, weights)])
    found = results_of(study, plan, results, out, fingerprints, places, ring=written.ring, before=written.before)
    write_json(out / "study.json", found)
    write_study_report(out / "report.html", found, out)
    return found


def _pretrained(study: Study, out: Path, run: Callable[[list[Job]], Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Results of the jobs that pretrain and of those that time steps for them, by name; where each run is."""
    starts, begun = begun_jobs(study, out)
    timing = pace_jobs(study, begun)
    if starts and timing:
        run(starts)  # what is timed may be held near to the weights that it goes on from
    timed = run(list({job.name: job for job in timing.values()}.values())) if timing else {}
    first, places = pretraining_jobs(study, out, {name: Pace(**timed[job.name]) for name, job in timing.items()})
    return timed | (run(first) if first else {}), places


def _enter(study: Study, out: Path) -> None:
    file = out / "study.yaml"
    before = read_study(file) if file.exists() else None
    if before is not None:
        if before.recipe != study.recipe:
            what = f"this directory holds a study of {before.recipe!r}"
            raise UserError(what, where=out, fix=f"--out {free(out)}")
        if before != study and not (out / "jobs").is_dir():
            what = "a study.yaml of another study, which no study wrote"
            raise UserError(what, where=file, fix=f"--out {free(out)}")
    elif not is_empty(out):
        raise UserError("not empty, and not a study", where=out, fix=f"--out {free(out)}")
    if before != study:  # else it may have remarks of its own
        write_text(file, study_to_yaml(study))


def accelerators() -> list[str]:
    """What CUDA_VISIBLE_DEVICES says of each accelerator that this process may use."""
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:number] if len(named) >= number else [str(i) for i in range(number)]


def describe(plan: Plan, jobs: list[Job], out: Path) -> list[tuple[str, ...]]:
    """Rows for a person: of each job its name, steps, samples, rate and whether its result is there already."""
    runs = {one.name: one.run for one in plan.trials}
    rows: list[tuple[str, ...]] = []
    for job in jobs:
        run = runs.get(job.name) or (run_from_dict(job.arguments["run"], job.name) if job.call == PRETRAIN else None)
        there = (out / "jobs" / f"{job.name}.json").exists()
        after = f" after {', '.join(job.needs)}" if job.needs else ""
        size = ("", "", "") if run is None else (
            f"{run.steps:,}", f"{run.steps * samples_of_a_step(run):,}", f"{run.optim.lr:g}"
        )  # fmt: skip
        rows.append((job.name, *size, "done" if there else f"to do{after}"))
    return rows
