"""`vistruct demo`: the whole idea on real aerial images, and a report of what pretraining bought."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vistruct.cli.output import made
from vistruct.errors import UserError


def command(
    quick: Annotated[bool, typer.Option("--quick", help="About a minute; its numbers mean nothing.")] = False,
    full: Annotated[bool, typer.Option("--full", help="More label shares and seeds.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the report and its runs.")] = Path("runs/demo"),
) -> None:
    """Run the whole idea on real aerial images: pretrain, transfer, report (10 minutes on 2 cores)."""
    if quick and full:
        raise UserError("--quick and --full exclude each other", fix="choose one of them")
    from vistruct.study.demo import run_demo

    budget: Literal["quick", "default", "full"] = "quick" if quick else "full" if full else "default"
    made(run_demo(out, budget=budget))
