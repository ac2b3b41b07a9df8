"""COCO's panoptic annotations: things as objects with masks, and the class of every pixel beside them.

    annotations/panoptic_<split>.json          images, categories with isthing, annotations with segments_info
    annotations/panoptic_<split>/NAME.png      the segment of every pixel, R + 256 G + 65536 B; 0: of none
    <split>/NAME.jpg                           the images

The classes of the objects are the things, in the order of their category ids. Label maps count things in the same order
and then stuff; what belongs to no segment does not count. Boxes are those of the pixels. Always named:
`--format coco-panoptic`; classes are not chosen, as stuff cannot be told from what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes import coco_walk
from vistruct.data.formats.boxes.coco_find import find_json, json_files
from vistruct.data.formats.boxes.image_names import record_ids
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.rasters import read_raster
from vistruct.issues import IssueCounter
from vistruct.ops.mask_runs import encode_patch

NO_SEGMENTS = "image left out: no panoptic annotation names it"
ABSENT = "segment left out: no pixel of the png has its id"
VOID = 65535  # in label maps: of no segment

_PREFIX = "panoptic_"
_READERS = 8  # threads that decode pngs


@dataclass(frozen=True)
class Classes:
    """Reads the class of every pixel; can travel to a worker process."""

    segments: Mapping[str, Mapping[int, int]]  # by image_id: the class of each segment id

    def __call__(self, record: Record) -> np.ndarray:
        """uint16[h, w] of the record's window: things, then stuff, or VOID."""
        assert record.label_map is not None
        numbers, inverse = np.unique(ids_of(read_raster(record.label_map, record.window_xyxy)), return_inverse=True)
        known = self.segments[record.image_id]
        table = np.array([known.get(int(one), VOID) for one in numbers], np.uint16)
        return table[inverse.reshape(-1)].reshape(record.size_hw or ())


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a png and its segments say."""

    png: Path
    size_hw: tuple[int, ...]
    things: list[dict[str, Any]]  # annotations as COCO has them of objects, without ids
    labels: dict[int, int]  # class of each segment id
    absent: list[str]  # segments without a pixel


def ids_of(colours: np.ndarray) -> np.ndarray:
    """int64[h, w] segment ids of colours uint8[h, w, 3]."""
    return colours.astype(np.int64) @ np.array([1, 256, 65536])


def colours_of(ids: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] that `ids_of` reads back as int[h, w] ids below 2 ** 24."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def splits(path: Path) -> tuple[str, ...]:
    """What the names of the json files of a folder have after `panoptic_`; none of a file."""
    return tuple(_files(path)) if path.is_dir() else ()


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record for each image that has an annotation, in the order of the file; its objects are things."""
    annotation = _find(path, ask.split)
    content = coco_walk.document(annotation)
    things, stuff = _categories(content, annotation)
    names = tuple(one["name"] for one in (*things, *stuff))
    if ask.join or ask.drop or (ask.classes is not None and tuple(ask.classes) != names[: len(things)]):
        fix = "leave --classes, --join and --drop out"
        raise UserError("the classes of panoptic annotations are not chosen", where=annotation, fix=fix)
    label_of = {one["id"]: label for label, one in enumerate((*things, *stuff))}
    entries, folder = _entries(content, annotation, stop), _folder(annotation)
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda one: _read(one, folder, label_of, len(things), annotation), entries.values())
        pairs = list(zip(entries, read, strict=True))
    for _, one in pairs:
        if isinstance(one, UserError):
            stop(one)
    found = {image: one for image, one in pairs if not isinstance(one, UserError)}
    rows = [row for one in found.values() for row in one.things]
    for one in found.values():
        for place in one.absent:
            report.note(ABSENT, place)
    plain = {
        **content,
        "categories": [{"id": one["id"], "name": one["name"]} for one in things],
        "annotations": [{**row, "id": number} for number, row in enumerate(rows, start=1)],
    }
    walked = coco_walk.walk(annotation, replace(ask, split=None), report, stop, content=plain)
    named = [one for one in content["images"] if isinstance(one, dict) and isinstance(one.get("file_name"), str)]
    ids = dict(zip(record_ids([one["file_name"] for one in named]), (one.get("id") for one in named), strict=True))
    records = []
    for record in walked.records:
        one = found.get(ids[record.id])
        if one is None:
            report.note(NO_SEGMENTS, record.id)
        elif one.size_hw != record.size_hw:
            what = "a png of another size than its image"
            stop(UserError(what, where=f"{one.png}, {record.images[0]}", fix="use the image that was annotated"))
        else:
            records.append(replace(record, label_map=one.png))
    labels = {record.image_id: found[ids[record.id]].labels for record in records}
    return Walked(
        records=records,
        class_names=walked.class_names,
        coding=Coding(classes=names, ignored=(VOID,)),
        is_chosen=True,
        raster=Classes(labels),
    )


def _files(path: Path) -> dict[str, Path]:
    files = [file for file in json_files(path).values() if file.stem.startswith(_PREFIX)]
    return {file.stem.removeprefix(_PREFIX): file for file in files}


def _find(path: Path, split: str | None) -> Path:
    """The one json file that is meant; `val` means panoptic_val2017 too.

    Raises:
        UserError: nothing there, none of that split, or several.
    """
    files = _files(path) if path.is_dir() else {}
    if not files:
        return find_json(path, split)
    meant = [name for name in files if split in (None, name, name.rstrip("0123456789"))]
    if len(meant) != 1:
        what = "several splits are here" if meant else f"no split {split!r} here"
        raise UserError(f"{what}: {', '.join(files)}", where=path, fix=f"--split {(meant or list(files))[0]}")
    return files[meant[0]]


def _folder(annotation: Path) -> Path:
    """Of the pngs: that of the json's name, beside it or a floor above.

    Raises:
        UserError: there is none.
    """
    places = (annotation.with_suffix(""), annotation.parent.parent / annotation.stem)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        what = f"no folder {annotation.stem} of the segments' pngs"
        raise UserError(what, where=annotation, fix=f"unpack {annotation.stem}.zip beside {annotation.name}")
    return found


def _categories(content: dict[str, Any], annotation: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Things and stuff, each in the order of their ids.

    Raises:
        UserError: one does not say what it is, repeats an id or a name; or none is a thing.
    """
    found, seen = ([], []), set()
    for one in content["categories"]:
        if not (isinstance(one, dict) and type(one.get("id")) is int and isinstance(one.get("name"), str)):
            what = "a category without a whole-number id and a name"
            raise UserError(what, where=f"{annotation}: {one!r:.60}", fix="correct this entry")
        where = f"{annotation}: {one['name']!r} (id {one['id']})"
        if one.get("isthing") not in (0, 1):
            what = "a category that does not say whether it is a thing"
            raise UserError(what, where=where, fix='"isthing": 1 of things, 0 of stuff; or --format coco')
        if {one["id"], one["name"]} & seen:
            raise UserError("a category repeats an id or a name", where=where, fix="give each category its own")
        seen |= {one["id"], one["name"]}
        found[not one["isthing"]].append(one)
    if not found[0]:
        raise UserError("no category is a thing", where=annotation, fix="vistruct train segment learns stuff alone")
    things, stuff = (sorted(part, key=lambda one: one["id"]) for part in found)
    return things, stuff


def _entries(content: dict[str, Any], annotation: Path, stop: Stop) -> dict[int, dict[str, Any]]:
    """The annotation of each image, by its id."""
    known = {one["id"] for one in content["images"] if isinstance(one, dict) and type(one.get("id")) is int}
    entries: dict[int, dict[str, Any]] = {}
    for position, one in enumerate(content["annotations"]):
        where = f"{annotation}, annotation {position} of the list"
        is_whole = isinstance(one, dict) and isinstance(one.get("file_name"), str)
        if not (is_whole and isinstance(one.get("segments_info"), list) and one.get("image_id") in known):
            what = "an annotation without the id of an image, file_name of its png, or segments_info"
            stop(UserError(what, where=where, fix="correct this entry; or --format coco"))
        elif one["image_id"] in entries:
            stop(UserError("an image has two panoptic annotations", where=where, fix="leave one"))
        else:
            entries[one["image_id"]] = one
    return entries


def _read(
    entry: dict[str, Any], folder: Path, label_of: Mapping[int, int], num_things: int, annotation: Path
) -> _Found | UserError:
    """What a png and its segments say together."""
    where, png = f"{annotation}: {entry['file_name']}", folder / entry["file_name"]
    try:
        colours = read_raster(png)
    except UserError as error:
        return error
    if colours.ndim != 3:
        return UserError("a png of segments in grey", where=png, fix="R + 256 G + 65536 B is the id of a segment")
    numbers, inverse = np.unique(ids_of(colours), return_inverse=True)
    inverse = inverse.reshape(colours.shape[:2])
    told: dict[int, dict[str, Any]] = {}
    for one in entry["segments_info"]:
        is_whole = isinstance(one, dict) and type(one.get("id")) is int and one["id"] > 0
        if not is_whole or one.get("category_id") not in label_of or one["id"] in told:
            what = "a segment without an id of its own above 0, or with a category that there is not"
            return UserError(what, where=f"{where}: {one!r:.80}", fix="correct this segment")
        told[one["id"]] = one
    strange = [int(one) for one in numbers if one and int(one) not in told]
    if strange:
        what = "a png has segments that the json does not"
        return UserError(what, where=f"{where}: ids {strange[:3]}", fix="use the json that belongs to these pngs")
    labels = {number: label_of[one["category_id"]] for number, one in told.items()}
    there = {int(number): place for place, number in enumerate(numbers)}
    things = [
        _thing(told[number], inverse == there[number], entry["image_id"])
        for number, label in labels.items()
        if label < num_things and number in there
    ]
    absent = [f"{where}: segment {number}" for number in told if number not in there]
    return _Found(png=png, size_hw=inverse.shape, things=things, labels=labels, absent=absent)


def _thing(segment: dict[str, Any], mask: np.ndarray, image: int) -> dict[str, Any]:
    """The annotation of one thing as COCO has it of objects, without its id."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1, x0, x1 = (int(one) for one in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    runs = encode_patch(mask[y0:y1, x0:x1], x0, y0, mask.shape)
    return {
        "image_id": image,
        "category_id": segment["category_id"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "iscrowd": int(bool(segment.get("iscrowd", 0))),
        "segmentation": {**runs, "counts": runs["counts"].decode("ascii")},
    }


FORMAT = Format(kind="boxes", splits=splits, walk=walk)
