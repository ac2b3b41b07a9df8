"""`vistruct check`: read a data set as training would, and tell everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistruct.cli.output import as_json


def command(
    path: Annotated[Path, typer.Argument(help="A data set of any kind: a folder, an annotation file, a mix file.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if it is not the annotation's.")] = None,
    format: Annotated[str, typer.Option(help="Which format, or module:NAME; found by itself.")] = "auto",
    split: Annotated[str | None, typer.Option(help="Only this part of a folder: train, val, ...")] = None,
    decode: Annotated[int | None, typer.Option(min=0, help="Decode only so many images; by default all.")] = None,
    max_left_out: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of a data set that may be unusable, as the run has it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every place, not the first three of each kind.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Count everything in a data set; find broken, empty, duplicate and misplaced annotations.

    Boxes as COCO, DOTA, VOC, DIOR, DIOR-R, FAIR1M, HRSC2016, YOLO or xView; masks, oriented boxes and key points too.
    Label maps as folders of masks, iSAID, LoveDA, UAVid, Potsdam, Vaihingen, SpaceNet; pairs as LEVIR-CD, WHU-CD, SVCD,
    S2Looking, OSCD. Volumes as NIfTI or DICOM. Classes as a folder for each, lists or csv.
    Conversations as jsonl (InternVL, messages) or json (LLaVA); a mix file brings all its data sets. Ends with 1 where
    training would stop at a problem.
    """
    from vistruct.data.checks.check import MAX_LEFT_OUT, check

    limit = MAX_LEFT_OUT if max_left_out is None else max_left_out
    result = check(path, images, format=format, split=split, decode_at_most=decode, max_left_out=limit)
    if json:
        as_json(result.to_dict())
    else:
        typer.echo(result.text(None if every else 3))
    raise typer.Exit(0 if result.ok else 1)
