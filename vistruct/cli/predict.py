"""`vistruct predict`: what a trained model finds in images, pairs and volumes, as files and pictures, or answers."""

from __future__ import annotations

import json as json_
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vistruct.cli.output import as_json, made
from vistruct.cli.sources import images_at, pairs_at
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.contracts import AnswerPrediction
    from vistruct.inference.model import Model
    from vistruct.inference.scenes import Case
    from vistruct.windows.views import Views

FlipOption = Annotated[
    list[str] | None, typer.Option(metavar="FLIP", help="Look again flipped: horizontal, vertical, diagonal; repeat.")
]
ScaleOption = Annotated[list[float] | None, typer.Option(help="Look at so many times the size; repeat, with 1.")]
ASKED_AT_ONCE = 8  # questions; each answer waits for the longest among them
BOX_FORMATS = ("coco", "dota", "fair1m")
MAP_FORMATS = ("png", "color", "geotiff", "loveda", "uavid", "isaid")
VOLUME_FORMATS = ("nifti",)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    sources: Annotated[list[Path], typer.Argument(metavar="IMAGE|VOLUME|FOLDER...", help="What to look at.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the results; by default in the run.")] = None,
    ask: Annotated[str | None, typer.Option(metavar="QUESTION", help="Ask a model that has language.")] = None,
    together: Annotated[bool, typer.Option("--together", help="One question about all the images.")] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Two sources, before and after, matched by name: what changed.")
    ] = False,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Draw detections from this score; the files have all.")
    ] = 0.3,
    format: Annotated[
        Literal["coco", "dota", "fair1m", "png", "color", "geotiff", "loveda", "uavid", "isaid", "nifti", "all"] | None,
        typer.Option(help="Files to write. Boxes: coco, dota, fair1m. Classes of pixels: png, ... Volumes: nifti."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="PX", help="Cut into windows; by default as the training data.")
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=0, metavar="PX", help="Of windows; the largest object.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a pass.")] = 8,
    flip: FlipOption = None,
    scale: ScaleOption = None,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Predict on images, pairs, volumes and folders: files of the usual formats and pictures, or answers.

    What is done is kept in the results' folder: the same command goes on where it was stopped.
    """
    if together and ask is None:
        raise UserError("--together is for a question", where="--together", fix='--ask "What has changed?"')
    if ask is not None and (window is not None or overlap is not None):
        raise UserError(
            "windows are for boxes and pixels", where="--window, --overlap", fix="leave them out with --ask"
        )
    if pairs and (len(sources) != 2 or ask is not None):
        raise UserError(
            f"--pairs with {len(sources)} sources", where="--pairs", fix="two: before/ after/, or two images"
        )
    for source in sources:
        if not source.exists():
            raise UserError("no such image or folder", where=source, fix="check the path")
    views = views_of(flip, scale)
    from vistruct.inference.model import load

    model = load(run)
    target = out if out is not None else run / "predictions"
    if ask is not None:
        images = images_at(sources)
        value, written = _ask(model, [images] if together else [[image] for image in images], ask, target)
        lines = [f"{', '.join(image.name for image in group)}: {text}" for group, text in value.pop("said")]
    else:
        _check_kind(model, format, pairs=pairs)
        model = _in_windows(model, window, overlap)
        model = model if views is None else model.seen_in(views)
        if model.kind in ("segment", "change"):
            value, written, lines = _map(model, sources, target, format, batch)
        elif model.kind == "classify":
            value, written, lines = _classify(model, sources, target, batch)
        else:
            value, written, lines = _detect(model, images_at(sources), target, format or "coco", min_score, batch)
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

    from vistruct.windows.views import Views

    values: Any = {"flips": tuple(dict.fromkeys(["none", *(flip or ())])), "scales": tuple(scale or (1.0,))}
    try:
        return Views(**values)
    except ValidationError:
        raise UserError(
            f"no such view: flips {', '.join(flip or ())}, scales {', '.join(map(str, scale or ()))}",
            where="--flip, --scale",
            fix="flips are horizontal, vertical and diagonal; scales are factors like 0.75 and 1.25",
        ) from None


def _check_kind(model: Model, format: str | None, *, pairs: bool) -> None:
    """
    Raises:
        UserError: a format or pairs that this kind of model does not give or take.
    """
    kind = "volumes" if model.input.slices is not None else model.kind
    possible = {"detect": BOX_FORMATS, "segment": MAP_FORMATS, "change": MAP_FORMATS, "volumes": VOLUME_FORMATS}
    known = possible.get(kind, ())
    if format not in (None, "all", *known):
        fix = f"one of {', '.join(known)}" if known else "leave it out: classes.csv is written"
        raise UserError(f"a model of kind {kind} gives no {format}", where="--format", fix=fix)
    if pairs != (kind == "change"):
        what = "this model looks at single images" if pairs else "this model compares pairs of images"
        fix = "leave --pairs out" if pairs else "vistruct predict RUN before/ after/ --pairs"
        raise UserError(what, where="--pairs", fix=fix)


def _in_windows(model: Model, window: int | None, overlap: int | None) -> Model:
    """The same model with windows of this size; by default they share as much as those of its data, or a fifth."""
    if window is None and overlap is None:
        return model
    if model.kind == "classify":
        what = "a classifier looks at whole images"
        raise UserError(what, where="--window, --overlap", fix="leave them out")
    known = model.input.windows
    size = window or (known.size if known is not None else None)
    if size is None:
        raise UserError("an overlap of no windows", where="--overlap", fix="give --window PX too")
    if overlap is None:
        overlap = min(known.overlap, size // 2) if known is not None else size // 5
    return model.in_windows(size, overlap)


def _ask(model: Model, groups: Sequence[Sequence[Case]], ask: str, target: Path) -> tuple[dict[str, Any], Path]:
    """Ask about each group of images; what is printed, and the file that was written."""
    from vistruct.progress import tracking

    answers: list[AnswerPrediction] = []
    with tracking("answering", done=0, total=len(groups)) as show:
        for start in range(0, len(groups), ASKED_AT_ONCE):
            part = groups[start : start + ASKED_AT_ONCE]
            answers += model.ask([[image.files[0] for image in group] for group in part], ask)
            show(len(answers), part[-1][-1].name)
    rows = []
    for group, answer in zip(groups, answers, strict=True):
        files = [str(image.files[0]) for image in group]
        image = files[0] if len(files) == 1 else files
        rows.append({"image": image, "question": answer.question, "answer": answer.answer})
    target.mkdir(parents=True, exist_ok=True)
    written = target / "answers.jsonl"
    written.write_text("".join(json_.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"answers": rows, "said": [(g, a.answer) for g, a in zip(groups, answers, strict=True)]}, written


def _detect(
    model: Model, images: Sequence[Case], target: Path, wanted: str, min_score: float, batch: int
) -> tuple[dict[str, Any], Path, list[str]]:
    """Find objects in each image and draw them; what is printed, and the file that was written, or their folder."""
    from vistruct.inference.files import (
        ImageFile,
        check_formats,
        possible_formats,
        predict_files,
        write_results,
    )

    files = [ImageFile(file=image.files[0], name=image.name) for image in images]
    formats: list[Any] = possible_formats(files, model.class_names) if wanted == "all" else [wanted]
    check_formats(formats, files, model.class_names)
    parts = predict_files(model, files, target, min_score=min_score, batch=batch)
    number, written = write_results(parts, files, target, formats)
    value = {"images": len(files), "detections": number, "files": written, "pictures": target / "pictures"}
    lines = [f"{number} detections in {len(images)} images", f"pictures in {target / 'pictures'}"]
    lines += [f"{name}: {file}" for name, file in written.items()]
    return value, written[formats[0]] if len(formats) == 1 else target, lines


def _map(
    model: Model, sources: Sequence[Path], target: Path, wanted: str | None, batch: int
) -> tuple[dict[str, Any], Path, list[str]]:
    """The class of every pixel of each image, of what changed in each pair, or of every voxel."""
    if model.input.slices is not None:
        from vistruct.inference.volumes import predict_volumes, volumes_at

        cases, what = volumes_at(model, sources), "volumes"
        areas, written = predict_volumes(model, cases, target, batch=batch)
    else:
        from vistruct.inference.maps import possible_map_formats, predict_maps

        cases, what = (pairs_at(sources), "pairs") if model.kind == "change" else (images_at(sources), "images")
        formats: Any = possible_map_formats(cases, model.class_names) if wanted == "all" else wanted and [wanted]
        areas, written = predict_maps(model, cases, target, formats=formats, batch=batch)
    counts = Counter({name: 0 for name in model.class_names})
    for area in areas:
        counts[area.class_name] += area.count
    shares = {name: count / max(counts.total(), 1) for name, count in counts.most_common()}
    value = {what: len(cases), "shares": shares, "files": written, "pictures": target / "pictures"}
    lines = [f"{len(cases)} {what}", *(f"  {name}: {share:.2%}" for name, share in shares.items() if share)]
    lines += [f"pictures in {target / 'pictures'}", *(f"{name}: {file}" for name, file in written.items())]
    return value, target, lines


def _classify(
    model: Model, sources: Sequence[Path], target: Path, batch: int
) -> tuple[dict[str, Any], Path, list[str]]:
    """The class of each image; what is printed, and the csv."""
    from vistruct.inference.classes import predict_classes, said

    predictions, written = predict_classes(model, images_at(sources), target, batch=batch)
    counts = Counter(name for one in predictions for name in said(one))
    rows = [{"image": one.image_id, "classes": said(one)} for one in predictions]
    lines = [f"{len(predictions)} images", *(f"  {name}: {count}" for name, count in counts.most_common())]
    return {"images": len(predictions), "classes": rows}, written, lines
