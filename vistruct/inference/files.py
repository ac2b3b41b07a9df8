"""A detector asked about many image files: looked at one by one, kept, drawn, and written as others take it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from vistruct.contracts import BoxPrediction
from vistruct.data.formats.boxes import fair1m
from vistruct.data.formats.boxes.dota import refuse_twins
from vistruct.data.formats.boxes.submissions import check_dota_names, write_coco, write_dota, zip_files
from vistruct.errors import UserError
from vistruct.files.images import image_size, read_image
from vistruct.files.text import write_text
from vistruct.inference.cache import Found, Parts
from vistruct.inference.model import Model
from vistruct.pictures.objects import draw_prediction
from vistruct.progress import notice, tracking

Format = Literal["coco", "dota", "fair1m"]


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image to look at."""

    file: Path
    name: str  # in the results: its path inside the folder that was given, or its own name


def predict_files(
    model: Model, images: Sequence[ImageFile], target: Path, *, min_score: float = 0.3, batch: int = 8
) -> Parts:
    """Look at every image that is not done yet, draw it to `target/pictures` and keep what was found.

    What was done stays done, also if this is interrupted; another model, other windows or another image of the same
    name are looked at anew, and it is said.

    Args:
        min_score: detections below are kept but not drawn.
        batch: windows in one pass.

    Returns:
        The parts, one of each image.

    Raises:
        UserError: an image that cannot be read; those before it are done.
    """
    parts = Parts(target / "parts", settings(model), model.class_names)
    if parts.num_removed:
        notice(f"{target}: another model, other windows or other views than last time; all images are looked at again")
    done = [parts.has(image.name, image.file) for image in images]
    if any(done):
        notice(f"{target}: {sum(done)} of {len(images)} images were done before")
    pictures = _pictures(images, target, parts, min_score)
    counts = [len(model.places(image_size(image.file))) for image in images]
    before = sum(count for count, is_done in zip(counts, done, strict=True) if is_done)
    with tracking("predicting", done=before, total=sum(counts)) as show:
        for image, count, is_done in zip(images, counts, done, strict=True):
            picture = pictures[image.name]
            if is_done and picture.exists():
                continue
            if is_done:
                prediction = parts.read(image.name).prediction
            else:
                prediction = model.boxes(
                    image.file,
                    image.name,
                    batch=batch,
                    show=lambda windows, start=before, name=image.name: show(start + windows, name),
                )
                before += count
            _draw(image, prediction, picture, min_score)
            if not is_done:  # last, so that what is done has its picture
                parts.write(image.name, image.file, Found(size_hw=image_size(image.file), prediction=prediction))
    return parts


def settings(model: Model) -> dict[str, object]:
    """What decides the results, in words for json."""
    config = getattr(model.task, "config", None)
    views = getattr(config, "views", None)
    card = json.dumps(model.card.values, sort_keys=True, default=str)
    return {
        "model": hashlib.sha256(card.encode()).hexdigest(),  # its weights' checksum is among the values
        "input": model.input.model_dump(mode="json"),
        "views": None if views is None else views.model_dump(mode="json"),
        "flips": list(getattr(config, "flips", ())),
    }


def write_results(
    parts: Parts, images: Sequence[ImageFile], target: Path, formats: Sequence[Format]
) -> tuple[int, dict[Format, Path]]:
    """Write what was found in each format: `predictions.json`, `dota/Task1.zip`, `fair1m/test.zip`, and their files.

    Returns:
        How many detections there are, and what was written in each format.

    Raises:
        UserError: as `check_formats`.
    """
    sizes_hw = {image.name: image_size(image.file) for image in images}
    num_found, written = 0, {}

    def predictions() -> Iterator[BoxPrediction]:
        nonlocal num_found
        num_found = 0
        for image in images:  # one at a time: together they may not fit into memory
            prediction = parts.read(image.name).prediction
            num_found += len(prediction.scores)
            yield prediction

    if "coco" in formats:
        written["coco"] = target / "predictions.json"
        write_coco(written["coco"], sizes_hw, predictions(), parts.class_names)
    if "dota" in formats:
        written["dota"] = write_dota(target / "dota", predictions(), parts.class_names)
    if "fair1m" in formats:
        files = fair1m.write_predictions(target / "fair1m" / "test", predictions(), sizes_hw)
        written["fair1m"] = zip_files(target / "fair1m" / "test.zip", files, folder="test")
    return num_found, written


def check_formats(formats: Sequence[Format], images: Sequence[ImageFile], class_names: Sequence[str]) -> None:
    """
    Raises:
        UserError: names of images or classes that a format cannot hold; said before hours of work and not after.
    """
    if "dota" in formats:
        check_dota_names([image.name for image in images], class_names, Path("--format dota"))
    if "fair1m" in formats:
        names = [image.name for image in images]
        refuse_twins([Path(name).stem for name in names], names, "images", Path("--format fair1m"))
        for name in class_names:
            fair1m.official_name(name)


def possible_formats(images: Sequence[ImageFile], class_names: Sequence[str]) -> list[Format]:
    """All formats that can hold these names; of the others it is said why not."""
    possible: list[Format] = ["coco"]
    others: tuple[Format, ...] = ("dota", "fair1m")
    for format in others:
        try:
            check_formats([format], images, class_names)
        except UserError as error:
            notice(f"no {format}: {error.what}")
        else:
            possible.append(format)
    return possible


def _draw(image: ImageFile, prediction: BoxPrediction, picture: Path, min_score: float) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_prediction(read_image(image.file), prediction, min_score=min_score).save(picture, quality=90)


def _pictures(images: Sequence[ImageFile], target: Path, parts: Parts, min_score: float) -> dict[str, Path]:
    """Where the picture of each image goes; those drawn from another score are removed, and drawn from the parts."""
    files = picture_files([image.name for image in images], target)
    note, drawn = parts.folder / "pictures.json", json.dumps({"min_score": min_score})
    if not note.is_file() or note.read_text() != drawn:
        for file in files.values():
            file.unlink(missing_ok=True)
        write_text(note, [drawn])
    return files


def picture_files(names: Sequence[str], target: Path) -> dict[str, Path]:
    """Where the picture of each image goes: its path, flattened, so that no two are one."""
    flat = {name: name.strip("/").replace("/", "__") for name in names}
    flat = {name: text if text.endswith(".jpg") else f"{text}.jpg" for name, text in flat.items()}
    number = Counter(flat.values())
    return {
        name: target / "pictures" / (text if number[text] == 1 else f"{quote(name, safe='')}.jpg")
        for name, text in flat.items()
    }
