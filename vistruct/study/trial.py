"""One trial of a study: train a run in a directory of its own, and hand back what it measured and what it cost."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistruct.checkpoint.save import write_json
from vistruct.config import run_from_dict
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.reports.run_report import evaluations, read_metrics
from vistruct.runs import train_and_report
from vistruct.study.workers import Report

COST = "cost.json"
INDEX = "index"  # in the study's directory


def train_and_measure(
    *,
    run: dict[str, Any],
    directory: str,
    data: Mapping[str, str],
    weights: str,
    results: Mapping[str, Any],
    report: Report,
) -> dict[str, Any]:
    """Train a run, or go on with it, and measure it.

    Args:
        run: as json.
        data, weights: fingerprints of what it reads, so that with them the trial is another one.

    Returns:
        `run` the directory, `numbers` by `evaluation/metric` (None where a number is not finite), and `cost`.

    Raises:
        UserError: as `runs.train_and_report`; or nothing was measured.
    """
    resolved, place = run_from_dict(run, directory), Path(directory)
    # Killed between training and handing over: what is left to do is reading.
    if not (place / COST).exists():
        began = time.monotonic()
        train_and_report(
            resolved,
            place,
            on_step=lambda step, m: report(step, resolved.steps, f"loss {m['loss']:.3f}"),
            index=index_of(place),
            is_shown=resolved.seed == 0,  # the pictures that the study's report has; of the others nobody asks
        )
        cost = cost_of(place, seconds=time.monotonic() - began, samples=resolved.steps * resolved.only.batch)
        write_json(place / COST, cost)
    # Nobody goes on from here, and they are most of what a run takes on disk.
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    numbers = last_numbers(place)
    if not numbers:
        raise UserError("the run has measured nothing", where=place, fix="give it an evaluation")
    return {"run": str(place), "numbers": numbers, "cost": read_record(place / COST, dict[str, float | None])}


def index_of(place: Path) -> Path:
    """What the runs of a study find out about their data, once for all of them.

    Args:
        place: a run's directory, in `runs/` or `pretrained/`.
    """
    return place.parents[1] / INDEX


def corrupted(*, of: str, metric: str, results: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Measure a finished trial's model under corruptions, by `evaluation/metric`."""
    from vistruct.study.robustness import robustness

    place, (evaluation, _, number) = Path(results[of]["run"]), metric.partition("/")
    done = 0

    def say(text: str) -> None:
        nonlocal done
        done += 1
        report(done, max(done, 60), text)  # twelve corruptions of five severities

    return {"run": str(place), "robustness": robustness(place, evaluation=evaluation, metric=number, say=say)}


def last_numbers(run_dir: Path) -> dict[str, float | None]:
    """The last value of each metric of each evaluation by `evaluation/metric`; None where it is not finite."""
    series = evaluations(read_metrics(run_dir / "metrics.jsonl"))
    last = {name: points[-1][1] for name, points in series.items()}
    return {name: value if abs(value) < float("inf") else None for name, value in last.items()}


def cost_of(run_dir: Path, *, seconds: float, samples: int) -> dict[str, float | None]:
    """What a finished run took.

    Args:
        seconds: of the process that finished it, data, evaluation and pictures included.
        samples: seen in training.

    Returns:
        `seconds`, `step_seconds` (the median), `samples`, `peak_memory_mb` (of a process on the CPU that it shares
        with jobs before it, an upper bound), `trainable` and `parameters` (numbers that train, and all); None
        where the run has not noted it.
    """
    series = read_metrics(run_dir / "metrics.jsonl")
    steps = [value for _, value in series.get("seconds", []) if value == value]
    memory = [value for _, value in series.get("peak_memory_mb", []) if value == value]
    plan = run_dir / "plan.json"
    counts = read_record(plan, dict[str, Any]) if plan.exists() else {}
    return {
        "seconds": round(seconds, 3),
        "step_seconds": statistics.median(steps) if steps else None,
        "samples": samples,
        "peak_memory_mb": max(memory) if memory else None,
        "trainable": counts.get("trainable"),
        "parameters": counts.get("parameters"),
    }
