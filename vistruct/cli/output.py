"""What commands print: results on stdout, remarks on stderr, and last the path of what was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def out() -> Console:
    """The console of results; wide where it is read by a program, so that nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table; columns of numbers are aligned right."""
    from rich import box
    from rich.table import Table

    rows = list(rows)
    view = Table(
        show_header=any(headers),
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for index, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        view.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*(_cell(value) for value in row))
    out().print(view)


def as_json(value: Any) -> None:
    """Print a value for a program; paths become text, and a number that is not finite becomes null."""
    typer.echo(json.dumps(_finite(value), indent=2, default=str, ensure_ascii=False, allow_nan=False))


def made(path: Path) -> None:
    """The last line of a command."""
    typer.echo(str(path))


def note(text: str) -> None:
    """A remark for a person, on stderr."""
    typer.echo(text, err=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(str(value))
