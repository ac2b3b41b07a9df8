"""`vistruct compare`: two finished runs, or two studies, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, made, note, table

if TYPE_CHECKING:
    from vistruct.study.compare import Comparison


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run or a study.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Compare although they were measured on different data.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where the report goes; by default compare.html here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two runs: numbers with their differences, what differs in how they were made, class by class."""
    from vistruct.files.owned import single_file
    from vistruct.study.compare import compare
    from vistruct.study.compare_report import write_comparison

    target = single_file(out, Path("compare.html"))
    found = compare(a, b, other_data=other_data)
    path = write_comparison(target, found)
    if json:
        as_json({**found.as_json(), "report": path})
        return
    show(found)
    made(path)


def show(found: Comparison) -> None:
    """Print the numbers side by side, and what differs."""
    for line in found.warnings:
        note(f"WARNING: {line}")
    rows: list[list[Any]] = [[n.name, n.a, n.b, n.difference, n.said] for n in found.numbers]
    table(["metric", "A", "B", "B - A", ""], rows, title=f"A: {found.a}\nB: {found.b}")
    if found.settings:
        table(["setting", "A", "B"], [list(row) for row in found.settings], title="What differs")
