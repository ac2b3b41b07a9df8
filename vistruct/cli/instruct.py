"""`vistruct instruct`: turn annotated boxes into conversations about the images."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.output import made, note, table
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import UserError


@grouped
def command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Annotated boxes in any known format.")],
    out: Annotated[Path, typer.Option(help="Directory for the pictures and the jsonl.")],
    reading: Reading,
    values: PixelValues,
    split: Annotated[str | None, typer.Option(help="Which part: train, val, ...; several as train+val.")] = None,
    crops: Annotated[
        int | None,
        typer.Option(min=1, help="Random crops; by default every image once, whole up to 1024 px."),
    ] = None,
    crop_size: Annotated[
        str | None,
        typer.Option(metavar="PX[-PX]", help="Side of a crop, or smallest and largest; by default by the objects."),
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Questions about each picture.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Ask only this family of questions; repeatable.")] = None,
    always: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Ask this family about every picture; repeatable.")
    ] = None,
    turned: Annotated[
        bool, typer.Option("--turned", help="Also turn and mirror the pictures: for those without an up.")
    ] = False,
    control: Annotated[
        Path | None,
        typer.Option(help="Directory for the same conversations, each moved to another picture: teaches nothing."),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Directory for the same pictures with their boxes, as COCO json: the labels themselves."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files.")] = 0,
) -> None:
    """Turn annotated boxes into conversations, the jsonl that pretraining reads.

    Without --crops every image is asked about once: as it is up to 1024 pixels, and larger ones under crops
    that cover it. The side of a crop is 1.5 to 3 times the median object side unless --crop-size says
    otherwise.
    """
    from vistruct.data.instructions.write import FILE, LABELS, write_control, write_instructions
    from vistruct.files.owned import Owned, free
    from vistruct.progress import tracking

    asked = {
        "reading": reading,
        "values": values,
        "split": split,
        "questions": questions,
        "families": family,
        "always": always,
    }
    chosen: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}  # the rest has its own defaults
    if crop_size is not None:
        chosen["crop_size"] = sides(crop_size)
    places = {"": out}
    for flag, folder, file in (("--control", control, FILE), ("--boxes", boxes, LABELS)):
        if folder is None:
            continue
        if folder.resolve() in (other.resolve() for other in places.values()):
            raise UserError("two data sets in one folder", where=f"{flag} {folder}", fix=f"{flag} {free(folder)}")
        Owned(folder, "instruct").check([folder / file])
        places[flag] = folder
    with ExitStack() as bar:
        shows: list[Any] = []  # the bar, once the number of pictures is known

        def progress(done: int, total: int) -> None:
            if not shows:
                shows.append(bar.enter_context(tracking("instructions", done=0, total=total)))
            shows[0](done, "pictures")

        summary = write_instructions(
            source, out, crops=crops, turned=turned, boxes=boxes, seed=seed, progress=progress, **chosen
        )
    table(["family", "questions", "commonest answers"], summary.rows())
    typer.echo(summary.line())
    for reason, count in summary.dropped.items():
        note(f"{count} x {reason}")
    made(summary.path)
    if boxes is not None:
        made(boxes / LABELS)
    if control is not None:
        made(write_control(summary.path, control, seed))


def sides(text: str) -> tuple[int, int]:
    """`448-896` as (448, 896), `512` as (512, 512).

    Raises:
        UserError: not one or two whole numbers from 1 on, the smaller first.
    """
    parts = text.split("-")
    if len(parts) <= 2 and all(part.isdigit() and int(part) > 0 for part in parts):
        low, high = int(parts[0]), int(parts[-1])
        if low <= high:
            return low, high
    raise UserError(f"--crop-size {text!r} is not a size in pixels", fix="--crop-size 512 or --crop-size 448-896")
