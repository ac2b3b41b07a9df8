"""Walking through a COCO json: what is usable becomes records, what is not is counted or stops.

Training and `vistruct check` both read through here. What training can do without is counted in a `IssueCounter`;
what would make it wrong goes to `stop`, which raises (training) or collects (check).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vistruct.data.formats.boxes import coco_shapes
from vistruct.data.formats.boxes.coco_find import find_images, find_json
from vistruct.data.formats.boxes.coco_shapes import Orientation
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, Edges, ImageObjects, Told
from vistruct.data.formats.format import Ask, Stop, Walked
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

NO_MASK = "object without a mask: taken as a box only"


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record for each image in the order of the file, its id being `file_name`; also of those without boxes.

    Class names come in the order of their category ids. A box keeps what COCO calls a crowd in `is_crowd`, and `ignore`
    in `is_difficult`.
    """
    parts = [None] if ask.split is None else ask.split.split("+")
    if len(parts) > 1:
        return _joined([walk(path, replace(ask, split=part), report, stop) for part in parts], path)
    annotation = find_json(path, parts[0])
    content = document(annotation)
    label_of, class_names = _categories(content["categories"], annotation, stop)
    num_points = _points_of_categories(content["categories"])
    names = [entry["file_name"] for entry in content["images"] if _has_name(entry)]
    root = ask.images if ask.images is not None else find_images(annotation, names)
    found = _images(content["images"], annotation, root, report, stop, ask.missing)
    where = coco_shapes.orientation(content)
    for position, entry in enumerate(content["annotations"]):
        try:
            _add_object(entry, position, annotation, found, label_of, num_points, where, report, stop)
        except OverflowError:  # whole numbers of json have any length
            place = f"{annotation}, annotation number {position}"
            stop(UserError("a number that is no number of pixels", where=place, fix="correct this annotation"))
    kept = [image for image in found.values() if image is not None]
    _refuse_relative(kept, annotation, stop)
    means_boxes = where == "segmentation" and coco_shapes.means_boxes(content)
    most = max((len(row.told.keypoints) // 3 for image in kept for row in image.rows), default=0)
    has_masks = not means_boxes and any(row.told.mask for image in kept for row in image.rows)
    if has_masks:
        _count_maskless(kept, report)
    records = [image.record(is_oriented=where != "none", has_masks=has_masks, num_keypoints=most) for image in kept]
    return Walked(records=records, class_names=class_names)


def _joined(parts: Sequence[Walked], path: Path) -> Walked:
    """Several splits as one; they must agree on the classes, and no image may be in two."""
    records = [record for part in parts for record in part.records]
    if len({part.class_names for part in parts}) > 1:
        raise UserError("the splits have different categories", where=path, fix="read them one by one")
    twice = [name for name, times in Counter(record.id for record in records).items() if times > 1]
    if twice:
        raise UserError(f"images of the same name in several splits: {', '.join(twice[:3])}", where=path, fix="rename")
    return Walked(records=records, class_names=parts[0].class_names)


def document(annotation: Path) -> dict[str, Any]:
    """The json with its three lists, `images` and `categories` not being empty.

    Raises:
        UserError: no file, not json (with line and column), or not COCO.
    """
    content = read_json(annotation)
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
    report: IssueCounter,
    stop: Stop,
    missing: Literal["stop", "drop"],
) -> dict[int, ImageObjects | None]:
    """Images by their id; None for one that is known but left out, so that its boxes are not called lost."""
    found: dict[int, ImageObjects | None] = {}
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
            found[entry["id"]] = ImageObjects(name, path, size_hw)
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


def _add_object(
    entry: Any,
    position: int,
    annotation: Path,
    images: dict[int, ImageObjects | None],
    label_of: dict[int, int],
    num_points: dict[int, int],
    oriented_by: Orientation,
    report: IssueCounter,
    stop: Stop,
) -> None:
    number = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
    where = f"{annotation}, annotation {number}"
    for reason in _faults(entry, images, label_of, oriented_by):
        stop(UserError(reason, where=where, fix="correct or remove this annotation"))
        return
    image = images[entry["image_id"]]
    if image is None:  # already said
        return
    for reason in coco_shapes.faults(entry, oriented_by, image.size_hw, num_points.get(entry["category_id"], 0)):
        stop(UserError(reason, where=where, fix="correct or remove this annotation"))
        return
    here = f"{image.record_id}: annotation {number}"
    label, corners = label_of[entry["category_id"]], coco_shapes.corners(entry, oriented_by)
    told = Told(
        is_crowd=bool(entry.get("iscrowd", 0)),
        is_difficult=bool(entry.get("ignore", 0)),
        mask=coco_shapes.mask(entry, here, report),
        keypoints=coco_shapes.key_points(entry, here, report),
    )
    if corners is not None:
        image.add_quad(corners, label, here, report, told)
        return
    x, y, width, height = (float(value) for value in entry["bbox"])
    edges: Edges = (x, y, x + width, y + height)
    image.add_box(edges, label, here, report, told)


def _faults(
    entry: Any, images: dict[int, ImageObjects | None], label_of: dict[int, int], oriented_by: Orientation
) -> Iterator[str]:
    """Why an annotation cannot be understood at all, if so."""
    if not isinstance(entry, dict):
        yield f"an annotation is an object, this is {entry!r}"
    elif not _is_int(entry.get("image_id")) or entry["image_id"] not in images:
        yield f"no image has the id {entry.get('image_id')!r}"
    elif not _is_int(entry.get("category_id")) or entry["category_id"] not in label_of:
        yield f"no category has the id {entry.get('category_id')!r}; known: {sorted(label_of)[:20]}"
    elif not coco_shapes.are_numbers(entry.get("bbox")) or len(entry["bbox"]) != (5 if oriented_by == "bbox" else 4):
        what = "[cx, cy, width, height, degrees]" if oriented_by == "bbox" else "[x, y, width, height]"
        yield f"bbox is {what} in pixels, this is {entry.get('bbox')!r}"
    elif not isinstance(entry.get("iscrowd", 0), int) or not isinstance(entry.get("ignore", 0), int):
        yield f"iscrowd and ignore are 0 or 1, these are {entry.get('iscrowd')!r} and {entry.get('ignore')!r}"


def _refuse_relative(images: Sequence[ImageObjects], annotation: Path, stop: Stop) -> None:
    """Boxes between 0 and 1 are parts of the image, not pixels; trained on, they would teach nothing at
    all."""
    with_boxes = [image for image in images if image.rows]
    if not with_boxes or min(min(image.size_hw) for image in with_boxes) < 8:  # here a box may be one pixel
        return
    if max(edge for image in with_boxes for row in image.rows for edge in row.box) <= 1:
        what = "every box lies between 0 and 1, so these are shares of the image and not pixels"
        stop(
            UserError(
                what,
                where=annotation,
                fix="multiply x and width by the image's width, y and height by its height",
            )
        )


def _count_maskless(images: Sequence[ImageObjects], report: IssueCounter) -> None:
    """In a data set of masks, an object without one is a box that must not teach an empty mask."""
    for image in images:
        for number, row in enumerate(image.rows):
            if not row.told.mask and not row.told.is_crowd:
                report.note(NO_MASK, f"{image.record_id}: object {number}", "kept")


def _points_of_categories(entries: list[Any]) -> dict[int, int]:
    """How many key points each category has, where it says so."""
    named = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("keypoints"), list)]
    return {entry["id"]: len(entry["keypoints"]) for entry in named if _is_int(entry.get("id"))}


def _has_name(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
