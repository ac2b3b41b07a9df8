"""Walking through a COCO json: what is usable becomes records, what is not is counted or stops.

Training and `vistruct check` both read through here. What training can do without is counted in a `IssueCounter`;
what would make it wrong goes to `stop`, which raises (training) or collects (check).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes import coco_angles, coco_shapes
from vistruct.data.formats.boxes.coco_angles import Angles
from vistruct.data.formats.boxes.coco_find import find_images, find_json
from vistruct.data.formats.boxes.coco_shapes import Fault, Orientation
from vistruct.data.formats.boxes.image_names import ImageFolder, parts_of, record_ids
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, Edges, ImageObjects, Told
from vistruct.data.formats.format import Ask, Stop, Walked
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

NO_MASK = "object without a mask: taken as a box only"
NO_POINTS = "object without key points, which its category has: taken as a box only"
GROUPING = "category left out: it groups all others and has no objects of its own"
FOREIGN_NAME = "path of another machine: its end looked for in the folder of the images"
BESIDE_TURNED = "box without a rotation among turned ones: taken as upright"


def walk(
    path: Path,
    ask: Ask,
    report: IssueCounter,
    stop: Stop,
    *,
    angles: Angles = "auto",
    content: dict[str, Any] | None = None,
) -> Walked:
    """One record for each image in the order of the file, its id being `file_name`; also of those without boxes.

    Class names come in the order of their category ids. A box keeps what COCO calls a crowd in `is_crowd`, and `ignore`
    in `is_difficult`.

    Args:
        content: what the file says, where it was read before.
    """
    parts = [None] if ask.split is None else ask.split.split("+")
    if len(parts) > 1:
        return _joined([walk(path, replace(ask, split=part), report, stop, angles=angles) for part in parts], path)
    annotation = find_json(path, parts[0])
    content = usual(document(annotation) if content is None else content)
    if any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"][:1]):
        raise UserError("these are panoptic annotations", where=annotation, fix="--format coco-panoptic")
    label_of, class_names = _categories(content, annotation, report, stop)
    names = [entry["file_name"] for entry in content["images"] if _has_name(entry)]
    root = ask.images if ask.images is not None else find_images(annotation, names)
    folder = ImageFolder(root, is_named=ask.images is not None)
    found = _images(content["images"], annotation, folder, report, stop, ask)
    where = coco_shapes.orientation(content, angles)
    entries = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    is_oriented = where in ("bbox", "quad", "segmentation")
    question = coco_angles.angle_question(entries, is_oriented, angles, annotation)
    if question is not None:
        stop(question)
    points = _points_of_categories(content["categories"])
    reader = _Reader(annotation, found, label_of, points, where, angles, report, ask.attributes)
    for position, entry in enumerate(content["annotations"]):
        reader.add(entry, position, stop)
    kept = [image for image in found.values() if image is not None]
    _refuse_relative(kept, annotation, stop)
    means_boxes = where == "segmentation" and coco_shapes.means_boxes(content)
    most = max((len(row.told.keypoints) // 3 for image in kept for row in image.rows), default=0)
    has_masks = not means_boxes and any(row.told.mask for image in kept for row in image.rows)
    if has_masks:
        _count_maskless(kept, report)
    records = [image.record(is_oriented=where != "none", has_masks=has_masks, num_keypoints=most) for image in kept]
    return Walked(records=records, class_names=class_names)


def usual(content: dict[str, Any]) -> dict[str, Any]:
    """Images by names and whole numbers, where they are by the addresses of COCO's (LVIS) and by texts (ADE20k)."""
    entries = [one for one in content["images"] if isinstance(one, dict)]
    texts = dict.fromkeys(one["id"] for one in entries if isinstance(one.get("id"), str))
    if not texts and all("file_name" in one for one in entries):
        return content
    first = 1 + max((one["id"] for one in entries if _is_int(one.get("id"))), default=0)
    numbers = {text: number for number, text in enumerate(texts, first)}

    def told_usually(one: Any, key: str) -> Any:
        if not isinstance(one, dict):
            return one
        told: dict[str, Any] = {key: numbers[one[key]]} if isinstance(one.get(key), str) and one[key] in numbers else {}
        if key == "id" and "file_name" not in one and isinstance(one.get("coco_url"), str):
            told["file_name"] = "/".join(parts_of(one["coco_url"])[-2:])
        return {**one, **told}

    images = [told_usually(one, "id") for one in content["images"]]
    return {
        **content,
        "images": images,
        "annotations": [told_usually(one, "image_id") for one in content["annotations"]],
    }


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
    return checked(read_json(annotation), annotation)


def checked(content: Any, annotation: Path) -> dict[str, Any]:
    """The same of what a json says."""
    if not isinstance(content, dict):
        what = f"COCO json is an object with images, annotations and categories, not a {type(content).__name__}"
        fix = "conversations go one object a line, in a .jsonl file"
        raise UserError(what, where=annotation, fix=fix)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            fix = f"COCO needs it; keys: {', '.join(content) or 'none'}"
            if key == "categories" and any(
                isinstance(one, dict) and "caption" in one for one in content["annotations"]
            ):
                fix = "these are captions, which have no boxes: vistruct train caption, or visft.caption"
            raise UserError(f"no list of {key!r} in this json", where=annotation, fix=fix)
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"the list of {key!r} is empty", where=annotation, fix="there is nothing to learn from")
    return content


def categories(content: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The categories in the order of their ids, and the one that only groups: all others name it, no object does."""
    entries = [entry for entry in content["categories"] if isinstance(entry, dict) and _is_int(entry.get("id"))]
    used = [entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict)]
    used = {category for category in used if _is_int(category)}
    names = [entry.get("name") for entry in entries]
    for root in entries if len(entries) > 1 else ():
        others = [entry for entry in entries if entry is not root]
        groups = all(entry.get("supercategory") == root.get("name") for entry in others)
        if groups and root["id"] not in used and root.get("supercategory") not in names:
            return sorted(others, key=lambda entry: entry["id"]), root
    return sorted(entries, key=lambda entry: entry["id"]), None


def _categories(
    content: dict[str, Any], annotation: Path, report: IssueCounter, stop: Stop
) -> tuple[dict[int, int], tuple[str, ...]]:
    """The label of each category by its id, and the names of the classes."""
    for position, entry in enumerate(content["categories"]):
        if not (isinstance(entry, dict) and _is_int(entry.get("id")) and isinstance(entry.get("name"), str)):
            where = f"{annotation}, category {position} of the list: {entry!r:.60}"
            stop(UserError("a category without a whole-number id and a name", where=where, fix="correct this entry"))
    named, grouping = categories(content)
    if grouping is not None:
        report.note(GROUPING, f"{annotation}: {grouping['name']}")
    names: dict[int, str] = {}
    for entry in (entry for entry in named if isinstance(entry.get("name"), str)):
        if entry["id"] in names or entry["name"] in names.values():
            where = f"{annotation}: {entry['name']!r} (id {entry['id']})"
            stop(UserError("a category repeats an id or a name", where=where, fix="give each category its own"))
        else:
            names[entry["id"]] = entry["name"]
    return {category: label for label, category in enumerate(names)}, tuple(names.values())


def _images(
    entries: list[Any],
    annotation: Path,
    folder: ImageFolder,
    report: IssueCounter,
    stop: Stop,
    ask: Ask,
) -> dict[int, ImageObjects | None]:
    """Images by their id; None for one that is known but left out, so that its boxes are not called lost."""
    found: dict[int, ImageObjects | None] = {}
    named = [entry for entry in entries if _has_name(entry)]
    ids = dict(zip(map(id, named), record_ids([entry["file_name"] for entry in named]), strict=True))
    owner: dict[Path | str, str] = {}  # of a name, or of a file
    absent: list[Path] = []
    for position, entry in enumerate(entries):
        if not (_has_name(entry) and _is_int(entry.get("id"))):
            where = f"{annotation}, image {position} of the list"
            stop(UserError("an image without a whole-number id and file_name", where=where, fix="correct this entry"))
            continue
        name, record_id = entry["file_name"], ids[id(entry)]
        try:
            path = folder.find(name)
        except UserError as error:
            found[entry["id"]] = None
            stop(error)
            continue
        if entry["id"] in found or name in owner or (path is not None and path in owner):
            where = f"{annotation}: {name!r} (id {entry['id']})"
            what = "an image is listed twice, or shares its id or its file with another"
            stop(UserError(what, where=where, fix="list each image once, with its own id"))
            continue
        found[entry["id"]] = None
        owner |= {name: name} if path is None else {name: name, path: name}
        if path is None:
            absent.append(folder.root / name)
            continue
        if record_id != name and path.resolve() != (folder.root / name).resolve():
            report.note(FOREIGN_NAME, name, "repaired")
        try:
            size_hw = image_size(path)
        except UserError as error:
            stop(error)
            continue
        if _size_agrees(entry, size_hw, annotation, stop):
            found[entry["id"]] = ImageObjects(record_id, path, size_hw, as_written=ask.as_written)
    if absent and ask.missing == "stop":
        shown = ", ".join(str(path) for path in absent[:3]) + (", ..." if len(absent) > 3 else "")
        where = f"{annotation}: {len(absent)} of {len(entries)}: {shown}"
        stop(UserError("images that are not on disk", where=where, fix=WHERE_IMAGES))
    for path in absent if ask.missing == "drop" else ():
        report.note(MISSING_IMAGE, str(path))
    if absent and ask.missing == "drop" and not any(found.values()):
        stop(UserError("none of the images is on disk", where=annotation, fix=WHERE_IMAGES))
    return found


def _size_agrees(entry: dict[str, Any], size_hw: tuple[int, int], annotation: Path, stop: Stop) -> bool:
    """Boxes drawn on an image of another size would all be wrong, so this is no matter for a count."""
    told = entry.get("height"), entry.get("width")
    if told == (None, None) or told == size_hw:
        return True
    sizes = f"the json says {told[1]} x {told[0]} pixels, the file has {size_hw[1]} x {size_hw[0]}"
    fix = "its boxes would be wrong: use the image that was annotated, or correct width and height"
    if told == size_hw[::-1]:
        fix = "its boxes may belong to the image before its EXIF rotation: save the image without one and check"
    where = f"{annotation}, image {entry['file_name']}: {sizes}"
    stop(UserError("an image of another size than the json says", where=where, fix=fix))
    return False


@dataclass
class _Reader:
    """Takes annotations, one after the other."""

    annotation: Path
    images: dict[int, ImageObjects | None]
    label_of: dict[int, int]
    num_points: dict[int, int]
    oriented_by: Orientation
    angles: Angles
    report: IssueCounter
    with_attributes: bool = False
    seen: set[object] = field(default_factory=set)  # ids

    def add(self, entry: Any, position: int, stop: Stop) -> None:
        number = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
        where = f"{self.annotation}, annotation {number}"
        try:
            for what, told in self._faults(entry, number):
                stop(UserError(what, where=f"{where}: {told}", fix="correct or remove this annotation"))
                return
            image = self.images[entry["image_id"]]
            if image is not None:  # else already said
                self._take(entry, image, f"{image.record_id}: annotation {number}")
        except OverflowError:  # whole numbers of json have any length
            stop(UserError("a number that is no number of pixels", where=where, fix="correct this annotation"))

    def _take(self, entry: dict[str, Any], image: ImageObjects, here: str) -> None:
        label = self.label_of[entry["category_id"]]
        corners = coco_shapes.corners(entry, self.oriented_by, self.angles)
        if self.oriented_by == "rotation" and not coco_angles.says_rotation(entry):
            self.report.note(BESIDE_TURNED, here, "kept")
        is_turned_rectangle = self.oriented_by == "rotation" and corners and coco_angles.is_plain_box(entry)
        told = Told(
            is_crowd=bool(entry.get("iscrowd", 0)),
            is_difficult=bool(entry.get("ignore", 0)),
            mask=[] if is_turned_rectangle else coco_shapes.mask(entry, here, self.report),
            keypoints=coco_shapes.key_points(entry, here, self.report),
            extra=self._attributes(entry),
        )
        if self.num_points.get(entry["category_id"]) and not told.is_crowd and not any(told.keypoints[2::3]):
            self.report.note(NO_POINTS, here, "kept")
        if corners is not None:
            image.add_quad(corners, label, here, self.report, told)
            return
        x, y, width, height = (float(value) for value in entry["bbox"])
        edges: Edges = (x, y, x + width, y + height)
        image.add_box(edges, label, here, self.report, told)

    def _attributes(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A column of them; without a rotation, which corners say."""
        told = entry.get("attributes")
        if not self.with_attributes or not isinstance(told, dict):
            return {}
        told = {name: value for name, value in told.items() if name != "rotation"}
        return {coco_shapes.ATTRIBUTES: told} if told else {}

    def _faults(self, entry: Any, number: object) -> Iterator[Fault]:
        """Why an annotation cannot be understood, if so."""
        if not isinstance(entry, dict):
            yield "an annotation is an object, this is not", f"{entry!r:.60}"
            return
        if "id" in entry and isinstance(number, int | str):
            if number in self.seen:
                yield "an annotation has the id of another one", f"image {entry.get('image_id')!r}"
            self.seen.add(number)
        five = self.oriented_by == "bbox"
        if not _is_int(entry.get("image_id")) or entry["image_id"] not in self.images:
            yield "no image has the id that an annotation names", f"image_id {entry.get('image_id')!r}"
        elif not _is_int(entry.get("category_id")) or entry["category_id"] not in self.label_of:
            known = sorted(self.label_of)[:20]
            told = f"category_id {entry.get('category_id')!r}; known: {known}"
            yield "no category has the id that an annotation names", told
        elif not coco_shapes.are_numbers(entry.get("bbox")) or len(entry["bbox"]) != (5 if five else 4):
            what = "[cx, cy, width, height, degrees]" if five else "[x, y, width, height]"
            yield f"bbox is {what} in pixels, this is another", f"{entry.get('bbox')!r:.60}"
        elif not isinstance(entry.get("iscrowd", 0), int) or not isinstance(entry.get("ignore", 0), int):
            yield "iscrowd and ignore are 0 or 1, these are not", f"{entry.get('iscrowd')!r}, {entry.get('ignore')!r}"
        elif (image := self.images[entry["image_id"]]) is not None:
            num_points = self.num_points.get(entry["category_id"], 0)
            yield from coco_shapes.faults(entry, self.oriented_by, image.size_hw, num_points)


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
