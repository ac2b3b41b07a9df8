"""Initial weights that a study makes itself, before its trials: each a run of a recipe, in `pretrained/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistruct.config import Run, run_from_dict
from vistruct.recipes import find
from vistruct.runs import train_and_report
from vistruct.settings import with_settings
from vistruct.study.jobs import Job
from vistruct.study.plan import checked_options, digest_of, made_by
from vistruct.study.study import Pretraining, Study
from vistruct.study.workers import Report

PRETRAIN = f"{__name__}:pretrain"


def pretraining_jobs(study: Study, out: Path) -> tuple[list[Job], dict[str, Path]]:
    """The jobs, and by name where each run will be.

    Args:
        out: the study's directory.

    Raises:
        UserError: an unknown recipe or option, data that cannot be read.
    """
    jobs: list[Job] = []
    places: dict[str, Path] = {}
    cache = out / "index" if out.exists() else None  # a dry run leaves nothing behind
    for name, one in study.pretrain.items():
        run = _run(one, places)
        data = {key: stream.data.build(cache=cache).info.fingerprint for key, stream in run.streams.items()}
        asked = {"run": run.model_dump(mode="json"), "data": data}
        places[name] = out / "pretrained" / f"{name}-{digest_of(asked)}"
        jobs.append(
            Job(
                name=f"pretrain-{name}",
                call=PRETRAIN,
                arguments={**asked, "directory": str(places[name])},
                needs=() if one.start is None else (f"pretrain-{one.start}",),
                cost=run.steps,
            )
        )
    return jobs, places


def _run(one: Pretraining, places: Mapping[str, Path]) -> Run:
    start = {} if one.start is None else {"start": places[one.start]}
    function = find(one.recipe).recipe
    run = made_by(one.recipe, function, checked_options(function, {**one.options, **start}, {}))
    return with_settings(run, list(one.settings)) if one.settings else run


def pretrain(
    *, run: dict[str, Any], directory: str, data: Mapping[str, str], results: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Train a run, or go on with it; `data` are fingerprints, so that with other data the job is another one."""
    resolved = run_from_dict(run, directory)
    train_and_report(
        resolved, Path(directory), on_step=lambda step, m: report(step, resolved.steps, f"loss {m['loss']:.3f}")
    )
    return {"run": directory}
