"""Walking through a COCO json: what is usable becomes records, what is not is counted or stops.

Training and `vistruct check` both read through here. What training can do without is counted in a `Report`;
what would make it wrong goes to `stop`, which raises (training) or collects (check).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.text import read_text
from vistruct.data.images import image_size
from vistruct.data.report import Report
from vistruct.errors import UserError

# What is counted rather than stopped at; the wording says what happens to it.
NOT_FINITE = "box left out: NaN or infinite"
NO_AREA = "box left out: no area"
OUTSIDE = "box left out: outside its image"
CLIPPED = "box clipped to its image"
DUPLICATE = "box left out: duplicate"
MISSING_IMAGE = "image left out: file missing"

ROUNDING_PX = 1e-3  # an edge that is less than this outside is rounding of x + width, and no news

Stop = Callable[[UserError], None]


@dataclass
class _Image:
    """One entry of `images`, with the boxes found for it so far."""

    record_id: str
    path: Path
    size_hw: tuple[int, int]
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)
    seen: set[tuple[object, ...]] = field(default_factory=set)


def walk(
    annotation: Path,
    images: Path | None,
    report: Report,
    stop: Stop,
    *,
    missing: Literal["stop", "drop"] = "stop",
) -> tuple[list[Record], tuple[str, ...]]:
    """`read` with a choice of what happens at an error: where `stop` returns, the faulty entry is left
    out."""
    annotation = Path(annotation)
    try:
        content = document(annotation)
    except UserError as error:
        stop(error)
        return [], ()
    label_of, class_names = _categories(content["categories"], annotation, stop)
    root = Path(images) if images is not None else annotation.parent
    found = _images(content["images"], annotation, root, report, stop, missing)
    for position, entry in enumerate(content["annotations"]):
        _add_box(entry, position, annotation, found, label_of, report, stop)
    kept = [image for image in found.values() if image is not None]
    _refuse_relative(kept, annotation, stop)
    return [_record(image) for image in kept], class_names


def document(annotation: Path) -> dict[str, Any]:
    """The json with its three lists, `images` and `categories` not being empty.

    Raises:
        UserError: no file, not json (with line and column), or not COCO.
    """
    text = read_text(annotation)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{annotation}, line {error.lineno}, column {error.colno}"
        raise UserError(f"not valid json: {error.msg}", where=where, fix="correct or write the file again") from error
    if not isinstance(content, dict):
        what = f"COCO json is an object with images, annotations and categories, not a {type(content).__name__}"
        fix = "conversations go one object a line, in a .jsonl file"
        raise UserError(what, where=annotation, fix=fix)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            known = ", ".join(content) or "none"
            raise UserError(f"no list of {key!r} in this json", where=annotation, fix=f"COCO needs it; keys: {known}")
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"the list of {key!r} is empty", where=annotation, fix="there is nothing to learn from")
    return content


def _categories(entries: list[Any], annotation: Path, stop: Stop) -> tuple[dict[int, int], tuple[str, ...]]:
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        if not (isinstance(entry, dict) and _is_int(entry.get("id")) and isinstance(entry.get("name"), str)):
            what = f"category {position} of the list has no whole-number id and name: {entry!r}"
            stop(UserError(what, where=annotation, fix="correct this entry"))
        elif entry["id"] in names or entry["name"] in names.values():
            what = f"category {entry['name']!r} (id {entry['id']}) repeats an id or a name"
            stop(UserError(what, where=annotation, fix="give each category its own"))
        else:
            names[entry["id"]] = entry["name"]
    order = sorted(names)
    return {category: label for label, category in enumerate(order)}, tuple(names[category] for category in order)


def _images(
    entries: list[Any],
    annotation: Path,
    root: Path,
    report: Report,
    stop: Stop,
    missing: Literal["stop", "drop"],
) -> dict[int, _Image | None]:
    """Images by their id; None for one that is known but left out, so that its boxes are not called lost."""
    found: dict[int, _Image | None] = {}
    file_names: Counter[str] = Counter()
    absent: list[Path] = []
    for position, entry in enumerate(entries):
        if not (isinstance(entry, dict) and _is_int(entry.get("id")) and isinstance(entry.get("file_name"), str)):
            what = f"image {position} of the list has no whole-number id and file_name"
            stop(UserError(what, where=annotation, fix="correct this entry"))
            continue
        name = entry["file_name"]
        file_names[name] += 1
        if entry["id"] in found or file_names[name] > 1:
            what = f"image {name!r} (id {entry['id']}) is listed twice, or shares its id with another"
            stop(UserError(what, where=annotation, fix="list each image once, with its own id"))
            continue
        found[entry["id"]] = None
        path = root / name
        if not path.is_file():
            absent.append(path)
            continue
        try:
            size_hw = image_size(path)
        except UserError as error:
            stop(error)
            continue
        if _size_agrees(entry, size_hw, annotation, stop):
            found[entry["id"]] = _Image(name, path, size_hw)
    if absent and missing == "stop":
        shown = ", ".join(str(path) for path in absent[:3]) + (", ..." if len(absent) > 3 else "")
        what = f"{len(absent)} of {len(entries)} images are not on disk: {shown}"
        stop(UserError(what, where=annotation, fix="say where the image folder is, or leave missing images out"))
    for path in absent if missing == "drop" else ():
        report.note(MISSING_IMAGE, str(path))
    if absent and missing == "drop" and not any(found.values()):
        stop(UserError("none of the images is on disk", where=annotation, fix="say where the image folder is"))
    return found


def _size_agrees(entry: dict[str, Any], size_hw: tuple[int, int], annotation: Path, stop: Stop) -> bool:
    """Boxes drawn on an image of another size would all be wrong, so this is no matter for a count."""
    told = entry.get("height"), entry.get("width")
    if told == (None, None) or told == size_hw:
        return True
    what = f"the json says {told[1]} x {told[0]} pixels, the file has {size_hw[1]} x {size_hw[0]}"
    fix = "its boxes would be wrong: use the image that was annotated, or correct width and height"
    if told == size_hw[::-1]:
        fix = "its boxes may belong to the image before its EXIF rotation: save the image without one and check"
    stop(UserError(what, where=f"{annotation}, image {entry['file_name']}", fix=fix))
    return False


def _add_box(
    entry: Any,
    position: int,
    annotation: Path,
    images: dict[int, _Image | None],
    label_of: dict[int, int],
    report: Report,
    stop: Stop,
) -> None:
    number = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
    where = f"{annotation}, annotation {number}"
    for reason in _faults(entry, images, label_of):
        stop(UserError(reason, where=where, fix="correct or remove this annotation"))
        return
    image = images[entry["image_id"]]
    if image is None:  # already said
        return
    here = f"{image.record_id}: annotation {number}"
    x, y, width, height = (float(value) for value in entry["bbox"])
    label, crowd = label_of[entry["category_id"]], bool(entry.get("iscrowd", 0))
    if not np.isfinite([x, y, width, height]).all():
        report.note(NOT_FINITE, here)
        return
    if width <= 0 or height <= 0:
        report.note(NO_AREA, here)
        return
    edges = (x, y, x + width, y + height)
    if (label, crowd, edges) in image.seen:
        report.note(DUPLICATE, here)
        return
    image.seen.add((label, crowd, edges))
    box = _clip(edges, image.size_hw)
    if box[2] <= box[0] or box[3] <= box[1]:
        is_away = x >= image.size_hw[1] or y >= image.size_hw[0] or edges[2] <= 0 or edges[3] <= 0
        report.note(OUTSIDE if is_away else NO_AREA, here)
        return
    if max(abs(a - b) for a, b in zip(box, edges, strict=True)) > ROUNDING_PX:
        report.note(CLIPPED, here)
    image.boxes.append(box)
    image.labels.append(label)
    image.is_crowd.append(crowd)


def _faults(entry: Any, images: dict[int, _Image | None], label_of: dict[int, int]) -> Iterator[str]:
    """Why an annotation cannot be understood at all, if so."""
    if not isinstance(entry, dict):
        yield f"an annotation is an object, this is {entry!r}"
    elif not _is_int(entry.get("image_id")) or entry["image_id"] not in images:
        yield f"no image has the id {entry.get('image_id')!r}"
    elif not _is_int(entry.get("category_id")) or entry["category_id"] not in label_of:
        yield f"no category has the id {entry.get('category_id')!r}; known: {sorted(label_of)[:20]}"
    elif not (
        isinstance(entry.get("bbox"), list)
        and len(entry["bbox"]) == 4
        and all(isinstance(value, int | float) and not isinstance(value, bool) for value in entry["bbox"])
    ):
        yield f"bbox is [x, y, width, height] in pixels, this is {entry.get('bbox')!r}"


def _refuse_relative(images: Sequence[_Image], annotation: Path, stop: Stop) -> None:
    """Boxes between 0 and 1 are parts of the image, not pixels; trained on, they would teach nothing at
    all."""
    with_boxes = [image for image in images if image.boxes]
    if not with_boxes or min(min(image.size_hw) for image in with_boxes) < 8:  # here a box may be one pixel
        return
    if max(edge for image in with_boxes for box in image.boxes for edge in box) <= 1:
        what = "every box lies between 0 and 1, so these are shares of the image and not pixels"
        stop(
            UserError(
                what,
                where=annotation,
                fix="multiply x and width by the image's width, y and height by its height",
            )
        )


def _clip(edges: tuple[float, float, float, float], size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip to the image, in float32: a box that is thinner than float32 can say has no area."""
    height, width = size_hw
    x0, y0, x1, y1 = (float(np.float32(edge)) for edge in np.clip(edges, 0, [width, height, width, height]))
    return x0, y0, x1, y1


def _record(image: _Image) -> Record:
    return Record(
        id=image.record_id,
        images=(image.path,),
        size_hw=image.size_hw,
        boxes_xyxy=np.asarray(image.boxes, np.float32).reshape(-1, 4),
        labels=np.asarray(image.labels, np.int64),
        is_crowd=np.asarray(image.is_crowd, bool),
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
