"""`vistruct instruct`: turn annotations into conversations about the images, in words or pointing at objects."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from vistruct.cli.groups import grouped
from vistruct.cli.output import made, note, table
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import UserError


@grouped
def command(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Annotated boxes; with --pointing any annotations, or a public set.")
    ],
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
    questions: Annotated[int | None, typer.Option(min=1, help="Questions in a conversation, at most.")] = None,
    pointing: Annotated[
        bool, typer.Option("--pointing", help="Questions that show regions, answers that point: boxes, masks, ...")
    ] = False,
    task: Annotated[
        list[str] | None, typer.Option(help="With --pointing: ask only this task type, such as point-mask; repeatable.")
    ] = None,
    per_image: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --pointing: conversations about a picture; by default all that is said is used."
        ),
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Ask only this family of questions; repeatable.")] = None,
    always: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Ask this family about every picture; repeatable.")
    ] = None,
    rot90: Annotated[
        bool,
        typer.Option("--rot90", help="Random rotations by 90 degrees and flips: aerial, microscopy."),
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

    With --pointing the questions show regions (as boxes, points, scribbles, masks) and the answers point at
    objects, for a model that draws them: of boxes, masks, key points, captions, label maps, classes, or of a
    public set such as RefCOCO; its table has every task type, and why some were not possible.
    """
    from vistruct.data.instructions.control import write_control
    from vistruct.data.instructions.write import FILE, LABELS, write_instructions

    told: dict[str, Any] = {"reading": reading, "values": values, "split": split, "crops": crops}
    told |= {"rot90": rot90, "seed": seed}
    told["crop_size"] = None if crop_size is None else sides(crop_size)
    if pointing:
        _refuse("leave it out, or --pointing", family=family, always=always, boxes=boxes)
        _places(out, {"--control": (control, FILE)})
        _point(source, out, control, told, {"tasks": task, "per_image": per_image, "turns": questions})
        return
    _refuse("add --pointing", task=task, per_image=per_image)
    _places(out, {"--control": (control, FILE), "--boxes": (boxes, LABELS)})
    asked = {"questions": questions, "families": family, "always": always}
    chosen: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}  # the rest has its own defaults
    with _progress() as progress:
        summary = write_instructions(source, out, boxes=boxes, progress=progress, **told, **chosen)
    table(["family", "questions", "commonest answers"], summary.rows())
    typer.echo(summary.line())
    for reason, count in summary.dropped.items():
        note(f"{count} x {reason}")
    made(summary.path)
    if boxes is not None:
        made(boxes / LABELS)
    if control is not None:
        made(write_control(summary.path, control, seed))


def _point(source: Path, out: Path, control: Path | None, told: dict[str, Any], asked: dict[str, Any]) -> None:
    """Write instructions that point, and say what they are."""
    from vistruct.data.instructions.control import write_control
    from vistruct.data.instructions.point import write_pointing

    chosen: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
    with _progress() as progress:
        summary = write_pointing(source, out, progress=progress, **told, **chosen)
    table(["task type", "given", "answer", "questions", "commonest answers"], summary.rows())
    if missing := summary.missing():
        table(["not written", "why"], list(missing.items()))
    typer.echo(summary.line())
    for line in summary.report.lines():
        note(line)
    note(f"next: vistruct show {summary.path}")
    made(summary.path)
    if control is not None:
        made(write_control(summary.path, control, told["seed"]))


def _refuse(fix: str, **options: Any) -> None:
    """
    Raises:
        UserError: an option that means nothing for these instructions was given.
    """
    for name, value in options.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} means nothing for these instructions", where=flag, fix=fix)


def _places(out: Path, others: dict[str, tuple[Path | None, str]]) -> None:
    """
    Raises:
        UserError: two data sets would be written into one folder, or over what others wrote.
    """
    from vistruct.files.owned import Owned, free

    taken = [out.resolve()]
    for flag, (folder, file) in others.items():
        if folder is None:
            continue
        if folder.resolve() in taken:
            raise UserError("two data sets in one folder", where=f"{flag} {folder}", fix=f"{flag} {free(folder)}")
        Owned(folder, "instruct").check([folder / file])
        taken.append(folder.resolve())


@contextmanager
def _progress() -> Generator[Any]:
    """A bar that begins once the number of pictures is known."""
    from vistruct.progress import tracking

    with ExitStack() as bar:
        shows: list[Any] = []

        def progress(done: int, total: int | None) -> None:
            if not shows:
                shows.append(bar.enter_context(tracking("instructions", done=0, total=total)))
            shows[0](done, "pictures")

        yield progress


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
