"""`vistruct predict`: what a trained model finds in images, as COCO json and pictures; or what it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import made, note
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.contracts import AnswerPrediction, BoxPrediction

IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or its model directory.")],
    source: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER", help="What to look at.")],
    out: Annotated[Path | None, typer.Option(help="Directory of the results; by default in the run.")] = None,
    ask: Annotated[str | None, typer.Option(metavar="QUESTION", help="Ask a model that has language.")] = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Draw detections from this score; the json has all.")
    ] = 0.3,
) -> None:
    """Predict on one image or a folder: COCO json and pictures with boxes, or answers."""
    files = images_at(source)
    from vistruct.engine.predict import load
    from vistruct.engine.progress import tracking

    model = load(run)
    target = out if out is not None else run / "predictions"
    target.mkdir(parents=True, exist_ok=True)
    found: list[tuple[Path, Any]] = []
    with tracking("predicting", done=0, total=len(files)) as show:
        for file in files:
            prediction: Any = model.predict(file, ask=ask)
            found.append((file, prediction))
            if hasattr(prediction, "boxes_xyxy"):
                _draw(file, prediction, _picture(target, file, source), min_score)
            show(len(found), file.name)
    if hasattr(found[0][1], "answer"):
        made(_write_answers(found, target / "answers.jsonl"))
    else:
        made(_write_boxes(found, source, target / "predictions.json"))


def images_at(source: Path) -> list[Path]:
    """The image itself, or all images in a folder and below it, by name.

    Raises:
        UserError: nothing there, or no image in the folder.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError("no such image or folder", where=source, fix="check the path")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not files:
        raise UserError("no images in this folder", where=source, fix=f"images end in {', '.join(sorted(IMAGES))}")
    others = sum(p.is_file() for p in source.rglob("*")) - len(files)
    if others:
        note(f"{len(files)} images; {others} other files are not looked at")
    return files


def coco_document(
    found: Sequence[tuple[str, tuple[int, int], BoxPrediction]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Detections as a COCO json with its images and categories, a score on each annotation; ids count from 1.

    Args:
        found: file name, (height, width) in pixels, and the detections of each image.
        class_names: what the labels stand for.
    """
    annotations: list[dict[str, Any]] = []
    images = []
    for image_id, (name, (height, width), prediction) in enumerate(found, 1):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        rows = zip(
            prediction.boxes_xyxy.tolist(),
            prediction.scores.tolist(),
            prediction.labels.tolist(),
            strict=True,
        )
        for (x0, y0, x1, y1), score, label in rows:
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            entry = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "score": score,
            }
            annotations.append(entry | shape)
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _picture(target: Path, file: Path, source: Path) -> Path:
    """Where an image's picture goes: its path inside the folder, flattened, so that no two are one."""
    name = file.relative_to(source) if source.is_dir() else Path(file.name)
    flat = "__".join(name.parts)
    return target / "pictures" / (flat if name.suffix == ".jpg" else f"{flat}.jpg")


def _draw(file: Path, prediction: BoxPrediction, target: Path, min_score: float) -> None:
    from vistruct.data.images import read_image
    from vistruct.engine.draw import draw_prediction

    target.parent.mkdir(parents=True, exist_ok=True)
    draw_prediction(read_image(file), prediction, min_score=min_score).save(target, quality=90)


def _write_boxes(found: Sequence[tuple[Path, BoxPrediction]], source: Path, target: Path) -> Path:
    from vistruct.data.images import image_size

    root = source if source.is_dir() else source.parent
    named = [(str(file.relative_to(root)), image_size(file), prediction) for file, prediction in found]
    document = coco_document(named, found[0][1].class_names)
    target.write_text(json.dumps(document) + "\n")
    typer.echo(f"{len(document['annotations'])} detections in {len(found)} images")
    typer.echo(f"pictures in {target.parent / 'pictures'}")
    return target


def _write_answers(found: Sequence[tuple[Path, AnswerPrediction]], target: Path) -> Path:
    lines = []
    for file, prediction in found:
        typer.echo(f"{file.name}: {prediction.answer}")
        row = {"image": str(file), "question": prediction.question, "answer": prediction.answer}
        lines.append(json.dumps(row, ensure_ascii=False))
    target.write_text("\n".join(lines) + "\n")
    return target
