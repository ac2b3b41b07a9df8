"""`vistruct check`: read a data set as training would, and tell everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json


def command(
    path: Annotated[Path, typer.Argument(help="A COCO json, conversations, a mix file, or a folder with one.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if it is not the annotation's.")] = None,
    decode: Annotated[int | None, typer.Option(min=0, help="Decode only so many images; by default all.")] = None,
    max_left_out: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of a data set that may be unusable, as the run has it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Count everything in a data set; find broken, empty, duplicate and misplaced annotations.

    Conversations as jsonl (InternVL, messages) or json (LLaVA); a mix file brings all its data sets. Ends with 1 where
    training would stop at a problem.
    """
    from vistruct.data.check import MAX_LEFT_OUT, check

    limit = MAX_LEFT_OUT if max_left_out is None else max_left_out
    result = check(path, images, decode_at_most=decode, max_left_out=limit)
    if json:
        as_json(result.to_dict())
    else:
        typer.echo(str(result))
    raise typer.Exit(0 if result.ok else 1)
