"""`vistruct check`: read a data set as training would, and tell everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.output import as_json
from vistruct.data.reading import PixelValues, Reading

ALL = 10**9


@grouped
def command(
    path: Annotated[
        Path, typer.Argument(help="A data set of any kind: a folder, an annotation file, a mix file; or a run.yaml.")
    ],
    reading: Reading,
    values: PixelValues,
    split: Annotated[str | None, typer.Option(help="Only this part of a folder: train, val, ...")] = None,
    not_in: Annotated[
        str | None,
        typer.Option(metavar="PATH,...", help="Images without labels: those to measure on, to be found here."),
    ] = None,
    decode: Annotated[int | None, typer.Option(min=0, help="Decode only so many images; by default all.")] = None,
    max_left_out: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of a data set that may be unusable, as the run has it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Name every place, not the first three of each kind.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count everything in a data set; find broken, empty, duplicate and misplaced annotations, class imbalance, and
    leakage: images or groups (patients, scenes) that are in two splits.

    Boxes as COCO, DOTA, VOC, DIOR, DIOR-R, FAIR1M, HRSC2016, YOLO or xView; masks, oriented boxes and key points too.
    Exports of CVAT, Label Studio, labelme, VIA, Datumaro, Supervisely, Roboflow; csv of boxes; GeoJSON over a scene.
    Label maps as folders of masks, iSAID, LoveDA, UAVid, Potsdam, Vaihingen, SpaceNet; pairs as LEVIR-CD, WHU-CD, SVCD,
    S2Looking, OSCD. Volumes as NIfTI or DICOM. Classes as a folder for each, lists or csv.
    Conversations as jsonl (InternVL, messages) or json (LLaVA); a mix file brings all its data sets. Images without
    labels: pictures, rasters, volumes, in folders or a list, and which of them are to be measured on. What training is
    told of the data, this is told in the same words; a run.yaml (`vistruct train ... --dry-run` writes one) has said
    it already. Ends with 1 where training would stop at a problem.
    """
    from vistruct.verbs.check import checked

    others = tuple(map(Path, not_in.split(","))) if not_in else ()
    found = checked(path, reading, values, split=split, not_in=others, decode=decode, max_left_out=max_left_out)
    if json:
        told: dict[str, Any] = {name: part.to_dict() for name, part in found.parts.items()}
        as_json(told.get("", told))
    else:
        typer.echo(found.text(ALL if every else None))
    raise typer.Exit(0 if found.ok else 1)
