"""Label Studio: a json of tasks, each with an image and what its annotators drew; whole, or as JSON-MIN.

    [{"id": 1, "data": {"image": "/data/upload/1/a1b2c3d4-a0.jpg"},
      "annotations": [{"result": [{"type": "rectanglelabels", "original_width": 96, "original_height": 80,
        "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 30, "rectanglelabels": ["crown"]}}]}]}]

    [{"image": "/data/upload/1/a1b2c3d4-a0.jpg", "label": [{"x": 10, ..., "original_width": 96}]}]      (JSON-MIN)

Everything is in hundredths of the image's width and height. A box is turned clockwise by `rotation` degrees about its
top left corner, on the pixels of the image. An ellipse has its centre and radii, and becomes an outline.

The image is looked for by the name that the task has, and without what Label Studio puts before uploaded names (eight
characters and a dash). A task that nobody annotated, or that was skipped, is counted. Several annotations of one image
are a question: the one changed last is read as `label-studio-latest`. Predictions are read as
`label-studio-predictions`. Brushes, key points, choices and texts are counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from vistruct.data.formats.boxes.drawn import (
    NO_SHAPE,
    Export,
    Picture,
    Shape,
    number,
    outline,
    points_of,
    size_of,
    tails,
)
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.boxes.outlines import ELLIPSE, ellipse, upright
from vistruct.data.formats.format import Ask, Format, Stop
from vistruct.data.formats.json_kind import json_kind
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

UNANNOTATED = "image left out: nobody annotated it"
SKIPPED = "image left out: its annotation was skipped"
BRUSH = "brush mask left out: export it as COCO, or as masks"
NOT_PREDICTED = "image left out: nothing was predicted for it"

_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")

Which = Literal["only", "latest", "predictions"]


def is_one(file: Path) -> bool:
    """Whether a json begins as Label Studio's do."""
    return json_kind(file) == "label studio"


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop, which: Which = "only") -> Export:
    """What a json says.

    Raises:
        UserError: not json, or no list of tasks.
    """
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise UserError("an export of Label Studio is a list of tasks", where=file, fix="leave --format out")
    pictures, others = [], []
    for position, task in enumerate(tasks):
        where = f"{file}, task {task.get('id', position) if isinstance(task, dict) else position}"
        try:
            picture = _picture(task, file, where, report, stop, which)
        except UserError as error:
            stop(error)
            continue
        if isinstance(picture, Picture):
            pictures.append(picture)
        else:
            others += picture
    if not pictures and tasks and which == "only" and any(_of_task(task, "predictions") for task in tasks):
        fix = "--format label-studio-predictions reads what a model found"
        raise UserError("predictions only, and no annotations", where=file, fix=fix)
    return Export(pictures=pictures, others=tuple(others))


def _picture(
    task: Any, file: Path, where: str, report: IssueCounter, stop: Stop, which: Which
) -> Picture | tuple[str, ...]:
    """An image with its objects; or the names of one that is left out."""
    if not isinstance(task, dict):
        raise UserError("a task is an object, this is not", where=where, fix="correct this task")
    is_whole = isinstance(task.get("data"), dict)
    image = _image(task["data"] if is_whole else task, where)
    regions = _regions(task, image, where, report, which) if is_whole else _flat_regions(task)
    if regions is None:
        return _names(image)
    shapes: list[Shape] = []
    sizes: set[tuple[int, int]] = set()
    for here, region, names in _named(regions, where):
        try:
            size_hw = _size(region, here) if _has_shape(region) else (0, 0)
            found = _shapes(region, names, size_hw, here, report)
        except UserError as error:
            stop(error)
            continue
        shapes += found
        sizes |= {size_hw} if found else set()
    if len(sizes) > 1:
        raise UserError("regions of one image say different sizes of it", where=where, fix="export it again")
    return Picture(names=_names(image), beside=file, where=where, shapes=shapes, size_hw=next(iter(sizes), None))


def _of_task(task: Any, key: str) -> list[Any]:
    found = task.get(key) if isinstance(task, dict) else None
    return found if isinstance(found, list) else []


def _regions(
    task: dict[str, Any], image: str, where: str, report: IssueCounter, which: Which
) -> list[dict[str, Any]] | None:
    """The regions of the annotation that is meant; None, and counted, where there is none.

    Raises:
        UserError: several annotations, and no word of which.
    """
    drawn = [one for one in _of_task(task, "annotations") or _of_task(task, "completions") if isinstance(one, dict)]
    if which == "predictions":
        drawn = [one for one in _of_task(task, "predictions") if isinstance(one, dict)]
    else:
        if drawn and all(one.get("was_cancelled") for one in drawn):
            report.note(SKIPPED, f"{where}: {image}")
            return None
        drawn = [one for one in drawn if not one.get("was_cancelled")]
    if not drawn:
        report.note(NOT_PREDICTED if which == "predictions" else UNANNOTATED, f"{where}: {image}")
        return None
    if len(drawn) > 1 and which == "only":
        fix = "--format label-studio-latest takes the one that was changed last"
        raise UserError("several annotations of one image", where=f"{where}: {image}", fix=fix)
    last = max(drawn, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
    return [region for region in _of_task(last, "result") if isinstance(region, dict)]


def _flat_regions(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of JSON-MIN: what a control of the project gave, whatever it is called."""
    lists = [value for value in task.values() if isinstance(value, list)]
    flat = [one for value in lists for one in value if isinstance(one, dict)]
    return [{"value": one, **{key: one[key] for key in one if key.startswith("original")}} for one in flat]


def _named(regions: list[dict[str, Any]], where: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Each region once, with the labels that it or another entry of its id has."""
    labels: dict[str, list[str]] = {}
    ids = [str(region.get("id", f"number {position}")) for position, region in enumerate(regions)]
    for key, region in zip(ids, regions, strict=True):
        value = region.get("value")
        for name in _LABELS:
            found = value.get(name) if isinstance(value, dict) else None
            labels.setdefault(key, []).extend(found if isinstance(found, list) else [])
    by_id: dict[str, dict[str, Any]] = {}
    for key, region in zip(ids, regions, strict=True):
        if key not in by_id or not _has_shape(by_id[key]):
            by_id[key] = region
    for key, region in by_id.items():
        yield f"{where}: region {key}", region, list(dict.fromkeys(map(str, labels.get(key, []))))


def _has_shape(region: dict[str, Any]) -> bool:
    value = region.get("value")
    return isinstance(value, dict) and bool({"width", "points", "radiusX", "rle"} & value.keys())


def _shapes(
    region: dict[str, Any], names: list[str], size_hw: tuple[int, int], here: str, report: IssueCounter
) -> list[Shape]:
    value = region.get("value")
    if not isinstance(value, dict):
        raise UserError("a region has a value, this has none", where=here, fix="correct this region")
    if "rle" in value:
        report.note(BRUSH, here)
        return []
    if not _has_shape(region) or ("width" in value and "height" not in value):
        report.note(NO_SHAPE, here)
        return []
    if len(names) != 1:
        what = "several classes of one object" if names else "an object without a class"
        raise UserError(what, where=f"{here}: {', '.join(names)}", fix="give it one class and export again")
    if region.get("image_rotation") not in (None, 0):
        what = "shapes drawn on an image that was turned in the tool"
        raise UserError(what, where=here, fix="turn it back in the tool, or turn the file")
    name, (height, width) = names[0], size_hw
    across, down = width / 100, height / 100
    if "points" in value:
        flat = points_of(value["points"], here)
        at = [one * (down if place % 2 else across) for place, one in enumerate(flat)]
        return outline(name, at, here, report)
    x, y = number(value.get("x"), here) * across, number(value.get("y"), here) * down
    angle = math.radians(number(value.get("rotation") or 0, here, "rotation"))
    if "radiusX" in value:
        report.note(ELLIPSE, here, "kept")
        radii = number(value["radiusX"], here) * across, number(value.get("radiusY"), here) * down
        return outline(name, ellipse(x, y, *radii, angle), here, report)
    w, h = number(value["width"], here) * across, number(value["height"], here) * down
    if not math.degrees(angle) % 360:
        return [Shape(name=name, where=here, edges=upright(x, y, x + w, y + h))]
    cos, sin = math.cos(angle), math.sin(angle)
    offsets = ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))
    corners = [(x + cos * dx - sin * dy, y + sin * dx + cos * dy) for dx, dy in offsets]
    return [Shape(name=name, where=here, corners=corners)]


def _size(region: dict[str, Any], here: str) -> tuple[int, int]:
    if not isinstance(region.get("value"), dict):
        raise UserError("a region has a value, this has none", where=here, fix="correct this region")
    return size_of(region.get("original_height"), region.get("original_width"), here)


def _image(data: dict[str, Any], where: str) -> str:
    """The path or URL of the image: of its key, or the only text that ends as an image's.

    Raises:
        UserError: none, or several.
    """
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    alike = [value for value in texts.values() if Path(urlsplit(_plain(value)).path).suffix.lower() in IMAGE_SUFFIXES]
    said = texts.get("image") or texts.get("img")
    found = [said] if said else list(dict.fromkeys(alike))
    if len(found) != 1:
        what = "several images of one task" if found else "a task without an image"
        raise UserError(what, where=f"{where}: {', '.join(texts)}", fix="export a project with one image a task")
    return found[0]


def _plain(said: str) -> str:
    """The path in what Label Studio serves: /data/local-files/?d=folder/a.jpg, /data/upload/1/a.jpg."""
    url = urlsplit(said)
    query = parse_qs(url.query)
    if "d" in query:
        return "/" + query["d"][0].lstrip("/")
    return unquote(said[len("/data") :]) if said.startswith("/data/upload/") else unquote(said)


def _names(image: str) -> tuple[str, ...]:
    path = _plain(image)
    folder, _, last = path.rpartition("/")
    plain = _PREFIX.sub("", last, count=1) if _PREFIX.match(last) else last
    return tuple(dict.fromkeys([*tails(path), *([f"{folder}/{plain}", plain] if plain != last else [])]))


def _format(which: Which = "only") -> Format:
    def one(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
        return read(file, ask, report, stop, which)

    return drawn_format(is_one=is_one, read=one, is_guessed=which == "only")


FORMAT, LATEST, PREDICTIONS = _format(), _format("latest"), _format("predictions")
