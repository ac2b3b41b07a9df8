"""xView: every box of every image in one GeoJSON, read and written.

Of each feature's properties are read `bounds_imcoords` ("x0,y0,x1,y1", pixels), `type_id` and `image_id`
("1036.tif"); where it lies on the earth is not. The 60 classes always have the order of the published table. Two
numbers that occur, 75 and 82, are in no table; image 1395.tif is in no archive. An image without a feature may never
have been looked at, so it is left out.

Source: Lam et al., arXiv:1802.07856, xview_class_labels.txt and the scorer of its authors.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, Edges, ImageObjects
from vistruct.data.formats.boxes.per_image import UNANNOTATED
from vistruct.data.formats.format import Ask, Format, Stop, Walked, Writer
from vistruct.data.formats.json_kind import json_kind
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError, closest
from vistruct.files.images import image_size
from vistruct.files.json_files import read_json
from vistruct.files.text import write_text
from vistruct.issues import IssueCounter

CLASSES = {
    11: "Fixed-wing Aircraft", 12: "Small Aircraft", 13: "Cargo Plane", 15: "Helicopter", 17: "Passenger Vehicle",
    18: "Small Car", 19: "Bus", 20: "Pickup Truck", 21: "Utility Truck", 23: "Truck", 24: "Cargo Truck",
    25: "Truck w/Box", 26: "Truck Tractor", 27: "Trailer", 28: "Truck w/Flatbed", 29: "Truck w/Liquid",
    32: "Crane Truck", 33: "Railway Vehicle", 34: "Passenger Car", 35: "Cargo Car", 36: "Flat Car", 37: "Tank car",
    38: "Locomotive", 40: "Maritime Vessel", 41: "Motorboat", 42: "Sailboat", 44: "Tugboat", 45: "Barge",
    47: "Fishing Vessel", 49: "Ferry", 50: "Yacht", 51: "Container Ship", 52: "Oil Tanker", 53: "Engineering Vehicle",
    54: "Tower crane", 55: "Container Crane", 56: "Reach Stacker", 57: "Straddle Carrier", 59: "Mobile Crane",
    60: "Dump Truck", 61: "Haul Truck", 62: "Scraper/Tractor", 63: "Front loader/Bulldozer", 64: "Excavator",
    65: "Cement Mixer", 66: "Ground Grader", 71: "Hut/Tent", 72: "Shed", 73: "Building", 74: "Aircraft Hangar",
    76: "Damaged Building", 77: "Facility", 79: "Construction Site", 83: "Vehicle Lot", 84: "Helipad",
    86: "Storage Tank", 89: "Shipping container lot", 91: "Shipping Container", 93: "Pylon", 94: "Tower",
}  # fmt: skip
NAMELESS = (75, 82)
UNPUBLISHED = frozenset({"1395.tif"})  # annotated, but in no archive of images
GONE = "image left out: the published archive of images lacks it"
NO_CLASS = "box left out: type_id 75 or 82, which are in no table of classes"

ROUNDED = "box rounded to whole pixels, which is all that the scorer reads"
NO_FEATURE = "image without a box: only boxes are listed, so it may count as not looked at"

_KEYS = ("bounds_imcoords", "type_id", "image_id")
_FOLDERS = ("train_images", "images", "val_images", ".")


def looks_like(path: Path) -> bool:
    """Whether it is a GeoJSON whose first features have xView's keys, or a folder with one."""
    try:
        return has_keys(_file(Path(path)))
    except UserError:
        return False


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """Read xView_train.geojson: its split is "train", or none is asked for.

    Images lie in `train_images` or `images` beside the file, or in its own folder.
    """
    file = _file(path)
    features = _features(file)
    if ask.split not in (None, "train"):
        fix = "xView has public annotations of train only; take every n-th record for validation"
        raise UserError(f"no split {ask.split!r} here", where=path, fix=fix)
    root = ask.images if ask.images is not None else _image_folder(file, features)
    found = _images(features, file, root, report, stop, ask)
    label_of = {type_id: label for label, type_id in enumerate(CLASSES)}
    for number, feature in enumerate(features):
        where = f"{file}, feature {number}"
        try:
            edges, type_id, name = _object(feature, where)
        except UserError as error:
            stop(error)
            continue
        image = found.get(name)
        if image is None:  # already said
            continue
        if type_id in NAMELESS:
            report.note(NO_CLASS, f"{name}: feature {number}")
            continue
        image.add_box(edges, label_of[type_id], f"{name}: feature {number}", report)
    records = [image.record() for image in found.values() if image is not None]
    return Walked(records=records, class_names=tuple(CLASSES.values()))


def type_id(name: str, where: object, fix: str) -> int:
    """The number of a class in the published table; its name may have hyphens for spaces, or other capitals.

    Raises:
        UserError: it is none of the 60.
    """
    if _plain(name) not in _NUMBERS:
        raise UserError(f"xView has no class {name!r}; {closest(name, CLASSES.values())}", where=where, fix=fix)
    return _NUMBERS[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]+", "", name).lower()


_NUMBERS = {_plain(name): number for number, name in CLASSES.items()}


def write(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write `out/xView_train.geojson`.

    Returns:
        What was rounded, and the images that no box names.

    Raises:
        ValueError: a record that is a window.
        UserError: a class that is none of the 60.
    """
    numbers = [
        type_id(name, "--to xview", f'--join "Small Car={name}", or whatever xView calls it; or --drop "{name}"')
        for name in class_names
    ]
    report = IssueCounter()
    features: list[dict[str, Any]] = []
    for record in records:
        if record.window_xyxy is not None:
            raise ValueError(f"{record.id}: xView's boxes are of whole images")
        objects = record.objects
        if not len(objects):
            report.note(NO_FEATURE, record.id, "kept")
        for number, (box, label) in enumerate(zip(objects.boxes_xyxy, objects.labels, strict=True)):
            edges = [round(float(value)) for value in box]
            edges[2:] = [max(low + 1, high) for low, high in zip(edges[:2], edges[2:], strict=True)]
            if edges != box.tolist():
                report.note(ROUNDED, f"{record.id}: object {number}", "repaired")
            said = {
                "bounds_imcoords": ",".join(map(str, edges)), "type_id": numbers[label], "image_id": record.id,
                "feature_id": len(features),
            }  # fmt: skip
            features.append({"type": "Feature", "properties": said, "geometry": None})
    lines = (json.dumps(feature) + (",\n" if at < len(features) else "\n") for at, feature in enumerate(features, 1))
    head = '{"type": "FeatureCollection", "features": [\n'
    write_text(Path(out) / "xView_train.geojson", itertools.chain([head], lines, ["]}\n"]))
    return report


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.geojson")) if path.is_dir() else []
    if len(files) != 1:
        what = f"{len(files)} .geojson files here"
        raise UserError(what, where=path, fix="name the annotation file, xView_train.geojson")
    return files[0]


def has_keys(file: Path) -> bool:
    """Whether a file is a GeoJSON as xView's is."""
    if json_kind(file) != "geojson":
        return False
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        head = opened.read(64 * 1024)
    return all(f'"{key}"' in head for key in _KEYS)


def _features(file: Path) -> list[Any]:
    content = read_json(file)
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list) or not features:
        raise UserError("no list of features in this json", where=file, fix="xView's annotations are a GeoJSON")
    return features


def _object(feature: Any, where: str) -> tuple[Edges, int, str]:
    """x0, y0, x1, y1 in pixels, type_id and image_id.

    Raises:
        UserError: one of them is not there or makes no sense.
    """
    said = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(said, dict) or not all(key in said for key in _KEYS):
        raise UserError(f"a feature has {', '.join(_KEYS)} in its properties", where=where, fix="correct this feature")
    type_id, name, bounds = said["type_id"], said["image_id"], said["bounds_imcoords"]
    if not isinstance(name, str) or not name:
        told = f"{where}: {name!r}"
        raise UserError("image_id is the name of a file, this is not", where=told, fix="correct this feature")
    if isinstance(type_id, bool) or not isinstance(type_id, int) or type_id not in (*CLASSES, *NAMELESS):
        told = f"{where}: {type_id!r}"
        raise UserError("no class has this type_id", where=told, fix="known are 11 to 94, see the table")
    try:
        x0, y0, x1, y1 = (float(value) for value in str(bounds).split(","))
    except ValueError:
        what = "bounds_imcoords is x0,y0,x1,y1 in pixels, this is not"
        raise UserError(what, where=f"{where}: {bounds!r:.60}", fix="correct this feature") from None
    return (x0, y0, x1, y1), type_id, name


def _names(features: list[Any]) -> list[str]:
    """The images that features name, each once, in the order of their numbers."""
    said = (feature.get("properties") for feature in features if isinstance(feature, dict))
    names = {one["image_id"] for one in said if isinstance(one, dict) and isinstance(one.get("image_id"), str)}
    return sorted(names, key=lambda name: (_number(Path(name).stem), name))


def _image_folder(file: Path, features: list[Any]) -> Path:
    names = _names(features)[:20]
    folders = [file.parent / name for name in _FOLDERS]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


def _images(
    features: list[Any], file: Path, root: Path, report: IssueCounter, stop: Stop, ask: Ask
) -> dict[str, ImageObjects | None]:
    """Images by their names; None for one that is left out."""
    names = _names(features)
    absent = [name for name in names if not (root / name).is_file()]
    gone = UNPUBLISHED & set(absent) if len(absent) < len(names) else frozenset()
    absent = [name for name in absent if name not in gone]
    for name in gone:
        report.note(GONE, str(root / name))
    if absent and ask.missing == "stop":
        shown = ", ".join(str(root / name) for name in absent[:3]) + (", ..." if len(absent) > 3 else "")
        where = f"{file}: {len(absent)} of {len(names)}: {shown}"
        stop(UserError("images that are not on disk", where=where, fix=WHERE_IMAGES))
    elif absent and len(absent) == len(names):
        stop(UserError("none of the images is on disk", where=file, fix=WHERE_IMAGES))
    for name in absent if ask.missing == "drop" else ():
        report.note(MISSING_IMAGE, str(root / name))
    found: dict[str, ImageObjects | None] = dict.fromkeys(names)
    for name in names:
        if name not in absent and name not in gone:
            try:
                found[name] = ImageObjects(name, root / name, image_size(root / name), as_written=ask.as_written)
            except UserError as error:
                stop(error)
    if root.is_dir():
        for image in sorted(root.iterdir()):
            if image.suffix.lower() in IMAGE_SUFFIXES and image.name not in found:
                report.note(UNANNOTATED, image.name)
    return found


FORMAT = Format(kind="boxes", looks_like=looks_like, walk=walk, writer=Writer(write=write, images="train_images"))


def _number(stem: str) -> float:
    """Of an image that is called by it; a number of thousands of digits is none."""
    return int(stem) if stem.isdecimal() and len(stem) < 20 else math.inf
