"""`vistruct predict`: what a trained model finds in images, as COCO json and pictures; or what it answers."""

from __future__ import annotations

import json as json_
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vistruct.cli.output import as_json, made, note
from vistruct.errors import UserError

if TYPE_CHECKING:
    from vistruct.contracts import AnswerPrediction, BoxPrediction
    from vistruct.engine.predict import Model

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
        float, typer.Option(min=0, max=1, help="Draw detections from this score; the json has all.")
    ] = 0.3,
    json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Predict on images and folders: COCO json and pictures with boxes, or answers."""
    if together and ask is None:
        raise UserError("--together is for a question", where="--together", fix='--ask "What has changed?"')
    images = images_at(sources)
    from vistruct.engine.predict import load

    model = load(run)
    target = out if out is not None else run / "predictions"
    if ask is not None:
        value, written = _ask(model, [images] if together else [[image] for image in images], ask, target)
        lines = [f"{', '.join(image.name for image in group)}: {text}" for group, text in value.pop("said")]
    else:
        value, written = _detect(model, images, target, min_score)
        lines = [f"{len(value['annotations'])} detections in {len(images)} images", f"pictures in {value['pictures']}"]
    if json:
        as_json({**value, "written": written})
        return
    typer.echo("\n".join(lines))
    made(written)


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


def _detect(model: Model, images: Sequence[Found], target: Path, min_score: float) -> tuple[dict[str, Any], Path]:
    """Find boxes in each image and draw them; what is printed, and the file that was written."""
    from vistruct.data.images import image_size
    from vistruct.progress import tracking

    found: list[tuple[str, tuple[int, int], BoxPrediction]] = []
    with tracking("predicting", done=0, total=len(images)) as show:
        for image in images:
            prediction: Any = model.predict(image.file)
            found.append((image.name, image_size(image.file), prediction))
            _draw(image, prediction, target / "pictures", min_score)
            show(len(found), image.name)
    document = coco_document(found, model.class_names)
    written = target / "predictions.json"
    written.write_text(json_.dumps(document) + "\n")
    return {**document, "pictures": target / "pictures"}, written


def _draw(image: Found, prediction: BoxPrediction, folder: Path, min_score: float) -> None:
    """A picture named by the image's path, flattened, so that no two are one."""
    from vistruct.data.images import read_image
    from vistruct.engine.draw import draw_prediction

    flat = image.name.strip("/").replace("/", "__")
    target = folder / (flat if flat.endswith(".jpg") else f"{flat}.jpg")
    folder.mkdir(parents=True, exist_ok=True)
    draw_prediction(read_image(image.file), prediction, min_score=min_score).save(target, quality=90)
