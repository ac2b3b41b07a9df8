"""`vistruct predict`: what a trained model finds in images, pairs and volumes, as files and pictures, or answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.lora import LoraOption, one_lora
from vistruct.cli.output import as_json, made, note
from vistruct.data.reading import AS_THEY_ARE, PixelValues
from vistruct.errors import LeftOut, UserError

if TYPE_CHECKING:
    from vistruct.contracts import Prompt, Region
    from vistruct.inference.model import Model

FlipOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLIP", help="Test-time augmentation (TTA): also flipped horizontal, vertical, diagonal; repeat."
    ),
]
ScaleOption = Annotated[
    list[float] | None, typer.Option(help="Multi-scale TTA: at so many times the size; repeat, with 1.")
]

LongestOption = typer.Option(min=1, metavar="TOKENS", help="Longest answer; by default as in training.")


@grouped
def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    sources: Annotated[list[Path], typer.Argument(metavar="IMAGE|VOLUME|FOLDER...", help="What to run on.")],
    values: PixelValues,
    out: Annotated[Path | None, typer.Option(help="Directory of the results; by default in the run.")] = None,
    lora: LoraOption = None,
    ask: Annotated[str | None, typer.Option(metavar="QUESTION", help="Ask a model that has language.")] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND:WHERE",
            help="What a <region> of the question shows, in pixels: point:120,80, box:10,20,50,60, "
            "scribble:10,10,30,25,50,20, mask:FILE.png; repeat, in the order of the marks.",
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(metavar="UNIT|TASK", help="What to answer with, of a model that is told: box, mask, text, ..."),
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="One question about all the images.")] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Two sources, before and after, matched by name: what changed.")
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Only detections from this score; by default all in files, those from 0.3 in pictures."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Only these classes in the results.")] = None,
    drop: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Not these classes.")] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Files to write; repeat. On the map: geojson, gpkg, spacenet. Boxes: coco, dota, fair1m, xview; "
            "for annotators label-studio, cvat, yolo, yolo-conf. "
            "Classes of pixels: png, color, geotiff, loveda, uavid, isaid. Volumes: nifti, dicomseg. Or all.",
        ),
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="confidence|margin|entropy",
            help="Boxes and classes of images: a queue.csv for annotators, and every file in its order, the most "
            "uncertain images first.",
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Classes of pixels and volumes: a probability map of each class too."),
    ] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, metavar="PX", help="Tiles (windows) to cut into; by default as in training.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=0, metavar="PX", help="Of tiles; the largest object.")] = None,
    max_new_tokens: Annotated[int | None, LongestOption] = None,
    batch: Annotated[int, typer.Option(min=1, help="Tiles (or images, slices, questions) in one pass.")] = 8,
    flip: FlipOption = None,
    scale: ScaleOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run inference on images, pairs, volumes and folders: files of the usual formats and pictures, or answers.

    Large images are cut into tiles and stitched in constant memory; test-time augmentation is --flip and --scale.

    What is done is kept in the results' folder: the same command resumes where it was stopped. What cannot be read is
    left out and named at the end (exit status 4). Files that are no earlier results are never overwritten.
    """
    if together and ask is None:
        raise UserError("--together is for a question", where="--together", fix='--ask "What has changed?"')
    if ask is not None and (tile is not None or overlap is not None):
        raise UserError("windows are for boxes and pixels", where="--tile, --overlap", fix="leave them out with --ask")
    if pairs and (len(sources) != 2 or ask is not None):
        raise UserError(
            f"--pairs with {len(sources)} sources", where="--pairs", fix="two: before/ after/, or two images"
        )
    for source in sources:
        if not source.exists():
            raise UserError("no such image or folder", where=source, fix="check the path")
    if command is not None and ask is None:
        raise UserError("a command is about a question", where="--command", fix='--ask "Where are the trees?"')
    if region and ask is None:
        raise UserError("a region is shown in a question", where="--region", fix='--ask "What is <region>?"')
    from vistruct.data.at_path import intake_of
    from vistruct.files.intake import Intake
    from vistruct.inference.files import predict_files
    from vistruct.inference.kind import Asked
    from vistruct.inference.model import load
    from vistruct.inference.scenes import Case
    from vistruct.recipes.options import convert
    from vistruct.windows.views import views_of

    views = views_of(flip or (), scale or ())
    model = load(run, lora=one_lora(lora))
    for line in model.card.notes:
        note(line)
    if values != AS_THEY_ARE:
        model = model.reading(intake_of(values, model.input.intake) or Intake())
    chosen = convert(classes, tuple[str, ...], "--classes") if classes is not None else None
    if chosen is not None and model.task.traits.take_classes is not None:
        model = model.finding(chosen)  # by name, whether it has learned them or not
    _check_pairs(model, pairs)
    model = model if tile is None and overlap is None else model.in_windows(tile, overlap)
    model = model if views is None else model.seen_in(views)
    model = model if max_new_tokens is None else model.answering(max_new_tokens)
    cases = model.kind.cases(model, sources)
    if together:
        pictures = tuple(picture for case in cases for picture in case.pictures)
        cases = [Case(pictures=pictures, name=", ".join(case.name for case in cases))]
    asked = Asked(
        question=ask,
        regions=tuple(region_of(one) for one in region or ()),
        command=command,
        batch=batch,
        min_score=min_score,
        classes=chosen,
        drop=convert(drop, tuple[str, ...], "--drop") if drop is not None else (),
        queue=queue,
        probabilities=probabilities,
    )
    target = out if out is not None else run / "predictions"
    found = predict_files(model, cases, target, formats=tuple(format or ()), asked=asked)
    what = "pairs" if pairs else model.kind.what
    if json:
        as_json({what: len(found.done), **found.told.values, "files": found.files, "written": found.made})
    else:
        typer.echo("\n".join([*found.told.lines, *(f"{name}: {file}" for name, file in found.files.items())]))
        made(found.made)
    if found.broken:
        names = ", ".join(case.name for case, _ in found.broken[:3])
        what = f"{len(found.broken)} of {len(cases)} {what} are left out; first: {found.broken[0][1].what}"
        raise LeftOut(what, where=names, fix="mend or remove them; the same command runs on what is left")


def region_of(text: str) -> Region:
    """`box:10,20,50,60` as what it shows; of a mask a file, whose pixels other than 0 are in it.

    Raises:
        UserError: another kind, no numbers or another number of them, no such file.
    """
    import numpy as np
    from PIL import Image

    from vistruct.contracts import Region

    kind, _, where = text.partition(":")
    fix = "--region point:120,80, box:10,20,50,60, scribble:10,10,30,25,50,20 or mask:FILE.png"
    if kind == "mask":
        from vistruct.files.images import read_image

        if not Path(where).is_file():
            raise UserError("no such file", where=f"--region {text}", fix=fix)
        drawn = read_image(Path(where)).numpy().any(0)
        with Image.open(where) as image:
            if "A" in image.getbands():  # what is transparent is not drawn, whatever colour it has
                drawn &= np.asarray(image.getchannel("A")) > 0
        return Region(kind="mask", mask=drawn)
    try:
        numbers = [float(value) for value in where.split(",")]
    except ValueError:
        numbers = []
    fits = {"point": len(numbers) == 2, "box": len(numbers) == 4, "scribble": len(numbers) >= 4}
    if not fits.get(kind) or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{text!r} shows no region", where="--region", fix=fix)
    places = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if kind == "box" and not (places[0][0] < places[1][0] and places[0][1] < places[1][1]):
        raise UserError(f"{text!r} is a box without an area", where="--region", fix="box:LEFT,TOP,RIGHT,BOTTOM")
    return Region(kind=cast("Prompt", kind), xy=places)


def _check_pairs(model: Model, pairs: bool) -> None:
    """
    Raises:
        UserError: pairs for a model of single images, or none for one of pairs.
    """
    if pairs != (model.input.images == 2):
        what = "this model takes single images" if pairs else "this model takes pairs of images"
        fix = "leave --pairs out" if pairs else "vistruct predict RUN before/ after/ --pairs"
        raise UserError(what, where="--pairs", fix=fix)
