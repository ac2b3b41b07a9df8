"""`vistruct robust`: measure a finished run on damaged images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json, made, note, table


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    corruption: Annotated[
        list[str] | None, typer.Option(help="Only this one: cloud, haze, rotation, ... May be given again.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(min=1, max=5, help="Only this one, 1 to 5. May be given again.")
    ] = None,
    evaluation: Annotated[str | None, typer.Option("--eval", help="Of the run; else its first.")] = None,
    metric: Annotated[str | None, typer.Option(help="Number to compare; else the usual one.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a forward pass.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a trained model under twelve corruptions at five severities; stopped, the same command resumes."""
    from vistruct.study.robustness import FILE, robustness
    from vistruct.transforms.corruptions import CORRUPTIONS, SEVERITIES

    found = robustness(
        run,
        tuple(corruption or CORRUPTIONS),
        tuple(severity or SEVERITIES),
        evaluation=evaluation,
        metric=metric,
        batch=batch,
        workers=workers,
        say=note,
    )
    place = run.parent if run.name == "model" and (run / "model.json").is_file() else run
    if json:
        as_json({**found, "written": place / FILE})
        return
    show(found)
    made(place / FILE)


def show(found: dict) -> None:
    """A line for each corruption: its value at every severity, their mean and the drop against clean images."""
    severities = sorted({cell["severity"] for cell in found["cells"]})
    values = {(cell["corruption"], cell["severity"]): cell["value"] for cell in found["cells"]}
    mean = found["mean"]
    rows = [
        [name, *(values[name, s] for s in severities), one["value"], one["drop"], _percent(one["relative_drop"])]
        for name, one in mean["corruptions"].items()
    ]
    rows.append(["all", *("" for _ in severities), mean["value"], mean["drop"], _percent(mean["relative_drop"])])
    headers = ["corruption", *map(str, severities), "mean", "drop", "of clean"]
    table(headers, rows, title=f"{found['evaluation']}: {found['metric']}, clean {_number(found['clean'])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
