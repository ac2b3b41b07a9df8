"""`vistruct predict`: what a trained model finds in images, as files for others and pictures; or what it answers."""

from __future__ import annotations

import json as json_
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vistruct.cli.output import as_json, made, note
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.contracts import AnswerPrediction
    from vistruct.engine.predict import Model
    from vistruct.tasks.views import Views

FlipOption = Annotated[
    list[str] | None, typer.Option(metavar="FLIP", help="Look again flipped: horizontal, vertical, diagonal; repeat.")
]
ScaleOption = Annotated[list[float] | None, typer.Option(help="Look at so many times the size; repeat, with 1.")]
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
ASKED_AT_ONCE = 8  # questions; each answer waits for the longest among them


@dataclass(frozen=True)
class Found:
    """An image to look at."""

    file: Path
    name: str  # in the results: its path inside the folder that was given, or its own name


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    sources: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="What to look at.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the results; by default in the run.")] = None,
    ask: Annotated[str | None, typer.Option(metavar="QUESTION", help="Ask a model that has language.")] = None,
    together: Annotated[bool, typer.Option("--together", help="One question about all the images.")] = False,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Draw detections from this score; the files have all.")
    ] = 0.3,
    format: Annotated[
        Literal["coco", "dota", "fair1m", "all"], typer.Option(help="Files to write; dota and fair1m to submit.")
    ] = "coco",
    window: Annotated[
        int | None, typer.Option(min=1, metavar="PX", help="Cut into windows; by default as the training data.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=0, metavar="PX", help="Of windows; the largest object.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a pass.")] = 8,
    flip: FlipOption = None,
    scale: ScaleOption = None,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Predict on images and folders: COCO json, files to submit and pictures, or answers.

    What is done is kept in the results' folder: the same command goes on where it was stopped.
    """
    if together and ask is None:
        raise UserError("--together is for a question", where="--together", fix='--ask "What has changed?"')
    if ask is not None and (window is not None or overlap is not None):
        raise UserError("windows are for detectors", where="--window, --overlap", fix="leave them out with --ask")
    images = images_at(sources)
    views = views_of(flip, scale)
    from vistruct.engine.predict import load

    model = load(run)
    target = out if out is not None else run / "predictions"
    if ask is not None:
        value, written = _ask(model, [images] if together else [[image] for image in images], ask, target)
        lines = [f"{', '.join(image.name for image in group)}: {text}" for group, text in value.pop("said")]
    else:
        model = _in_windows(model, window, overlap)
        model = model if views is None else model.seen_in(views)
        value, written = _detect(model, images, target, format, min_score, batch)
        lines = [f"{value['detections']} detections in {len(images)} images", f"pictures in {value['pictures']}"]
        lines += [f"{name}: {file}" for name, file in value["files"].items()]
    if json:
        as_json({**value, "written": written})
        return
    typer.echo("\n".join(lines))
    made(written)


def views_of(flip: list[str] | None, scale: list[float] | None) -> Views | None:
    """Test-time augmentation as asked for: the image itself, each flip of it, all of these at every scale."""
    if not flip and not scale:
        return None
    from pydantic import ValidationError

    from vistruct.tasks.views import Views

    values: Any = {"flips": tuple(dict.fromkeys(["none", *(flip or ())])), "scales": tuple(scale or (1.0,))}
    try:
        return Views(**values)
    except ValidationError:
        raise UserError(
            f"no such view: flips {', '.join(flip or ())}, scales {', '.join(map(str, scale or ()))}",
            where="--flip, --scale",
            fix="flips are horizontal, vertical and diagonal; scales are factors like 0.75 and 1.25",
        ) from None


def images_at(sources: Sequence[Path]) -> list[Found]:
    """The images themselves, and all images in folders and below them by name, in the order given.

    Raises:
        UserError: nothing at a path, or no image in a folder.
    """
    found: list[Found] = []
    for source in sources:
        for file in [source] if source.is_file() else _images_in(source):
            name = file.relative_to(source).as_posix() if source.is_dir() else file.name
            found.append(Found(file, name))
    names = Counter(image.name for image in found)
    return [image if names[image.name] == 1 else Found(image.file, image.file.as_posix()) for image in found]


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError("no such image or folder", where=folder, fix="check the path")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not files:
        raise UserError("no images in this folder", where=folder, fix=f"images end in {', '.join(sorted(IMAGES))}")
    others = sum(p.is_file() for p in folder.rglob("*")) - len(files)
    if others:
        note(f"{folder}: {len(files)} images; {others} other files are not looked at")
    return files


def _in_windows(model: Model, window: int | None, overlap: int | None) -> Model:
    """The same model with windows of this size; by default they share as much as those of its data, or a fifth."""
    from dataclasses import replace

    from vistruct.data.tiles import Tiles

    data: Any = model.card.run.data
    known: Tiles | None = getattr(data, "tiles", None)
    if window is None and overlap is None:
        return model
    size = window or (known.size if known is not None else None)
    if size is None:
        raise UserError("an overlap of no windows", where="--overlap", fix="give --window PX too")
    if overlap is None:
        overlap = min(known.overlap, size // 2) if known is not None else size // 5
    return replace(model, tiles=Tiles(size=size, overlap=overlap))


def _ask(model: Model, groups: Sequence[Sequence[Found]], ask: str, target: Path) -> tuple[dict[str, Any], Path]:
    """Ask about each group of images; what is printed, and the file that was written."""
    from vistruct.progress import tracking

    answers: list[AnswerPrediction] = []
    with tracking("answering", done=0, total=len(groups)) as show:
        for start in range(0, len(groups), ASKED_AT_ONCE):
            part = groups[start : start + ASKED_AT_ONCE]
            answers += model.ask([[image.file for image in group] for group in part], ask)
            show(len(answers), part[-1][-1].name)
    rows = []
    for group, answer in zip(groups, answers, strict=True):
        files = [str(image.file) for image in group]
        image = files[0] if len(files) == 1 else files
        rows.append({"image": image, "question": answer.question, "answer": answer.answer})
    target.mkdir(parents=True, exist_ok=True)
    written = target / "answers.jsonl"
    written.write_text("".join(json_.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"answers": rows, "said": [(g, a.answer) for g, a in zip(groups, answers, strict=True)]}, written


def _detect(
    model: Model, images: Sequence[Found], target: Path, wanted: str, min_score: float, batch: int
) -> tuple[dict[str, Any], Path]:
    """Find objects in each image and draw them; what is printed, and the file that was written, or their folder."""
    from vistruct.engine.predict_files import (
        ImageFile,
        check_formats,
        possible_formats,
        predict_files,
        write_results,
    )

    files = [ImageFile(file=image.file, name=image.name) for image in images]
    formats: list[Any] = possible_formats(files, model.class_names) if wanted == "all" else [wanted]
    check_formats(formats, files, model.class_names)
    parts = predict_files(model, files, target, min_score=min_score, batch=batch)
    number, written = write_results(parts, files, target, formats)
    value = {"images": len(files), "detections": number, "files": written, "pictures": target / "pictures"}
    return value, written[formats[0]] if len(formats) == 1 else target
