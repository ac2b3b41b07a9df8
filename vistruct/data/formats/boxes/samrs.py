"""SAMRS (SOTA, SIOR, FAST): objects whose masks a promptable segmenter drew, as they were released. See `samrs_place`.

Of an image there may be

    ins/NAME.pkl    a pickled list of {mask: run lengths, bbox | rbox and rhbox, category, label, size}
    a json          {segm_file, ...} for each image, category ids being label ids, counted from 0
    rbbtxts/NAME.txt, or DIOR's xml     oriented boxes: x1 y1 ... x4 y4 category label

Instances come from the pickles, which nothing of is run (`files/plain_pickle.py`); without them from the json, whose
boxes are the hulls of masks; without both from the texts. Where instances have no oriented box, those of the texts (or
xml) are given to them, by class and by how far the hulls overlap. The tenth column of the texts is the number of the
class, and no difficult flag. `gray/NAME.png` are the label maps beside them: 255 is the background, and an image
without objects has none of these files. Early pickles have the number in `category`.

Classes come in the order of the label ids, which for SOTA is not DOTA's (`samrs_ids`).

Source: the readme and the published files of SAMRS (Wang et al., 2023), the data side of MTP (Wang et al., 2024).
Differs: MTP numbers instances by the order of the categories and oriented boxes by a list of its own, takes the tenth
    column for a difficult flag, and has the hulls of masks for boxes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes import coco_walk
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, ImageObjects
from vistruct.data.formats.boxes.per_image import size_or_error
from vistruct.data.formats.boxes.published import FAST, SIOR, SOTA
from vistruct.data.formats.boxes.samrs_ids import BACKGROUND_VALUE, LabelIds, check_maps
from vistruct.data.formats.boxes.samrs_place import Place, find_place, folders, is_instances
from vistruct.data.formats.boxes.samrs_rows import (
    Drawn,
    add_instances,
    read_instances,
    read_lines,
    read_xml_boxes,
    with_boxes,
)
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.splits import IMAGE_SUFFIXES, read_list
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter
from vistruct.progress import tracking

NO_FILES = "image left out: no instances, and no list names it"
EMPTY = "image without instances and label map: it is listed, and one without objects"
AS_BACKGROUND = "label maps in which 255 is the background, and counts"
ORDER: dict[tuple[str, ...], str] = {  # what is easily taken for something else
    SOTA: "classes in the order of SOTA's label ids, which is not that of DOTA",
    SIOR: "classes in the order of SIOR's label ids, which is that of DIOR-R and not of DIOR",
    FAST: "classes in the order of FAST's label ids, which is that of FAIR1M; names have hyphens",
}
NO_INSTANCES = "image left out: a label map without instances"

_MANY = 2000  # files from which on the reading is shown
_READERS = 8  # threads that look at headers
_SOME = 20  # texts that are looked at where their boxes are not needed


def looks_like(path: Path) -> bool:
    """Whether label maps called `gray` lie in it with instances, or it is a json whose images name their label map."""
    return is_instances(path) if path.is_file() else bool(folders(path))


def splits(path: Path) -> tuple[str, ...]:
    """Lists of names, else the jsons."""
    return find_place(path).splits if path.is_dir() and len(folders(path)) == 1 else ()


def coding_of(class_names: Sequence[str]) -> Coding:
    """Of the label maps."""
    values = (BACKGROUND_VALUE, *range(len(class_names)))
    return Coding(classes=("background", *class_names), values=values, ignored=())


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, with its label map; class names in the order of the label ids."""
    place = find_place(Path(path))
    place = place if ask.images is None else replace(place, images=(ask.images,))
    lists, jsons = place.of_split(ask.split)
    contents, ids = {json: _document(json) for json in jsons}, LabelIds()
    if place.pickles is None and contents:
        records = list(_of_jsons(contents, place, ids, ask, report, stop))
    else:
        found = _found(place, _stems(place, lists, contents, report), ids, ask, report, stop)
        for json, content in contents.items():
            _categories(json, content, ids, stop)
        records = _records(found, _image_files(place, stop), place, ask, report, stop)
    is_oriented = any(record.objects.quads is not None for record in records)
    are_lines = place.pickles is None and not contents
    beside = [] if are_lines else records[: _SOME if is_oriented else None]
    boxes = {one.id: _boxes(place, one, ids, report, stop) for one in beside}
    names = ids.class_names(ask.classes, path, stop)
    if names in ORDER:
        report.note(ORDER[names], str(path), "kept")
    if any(boxes.values()) and not is_oriented:
        numbers = {name: number for number, name in enumerate(names)}
        records = [
            with_boxes(one, _numbered(boxes[one.id], numbers, stop), report, stop, as_written=ask.as_written)
            for one in records
        ]
    if place.gray is None:
        return Walked(records=records, class_names=names)
    records = _with_maps(records, place.gray, stop)
    check_maps(records, names, stop)
    report.note(AS_BACKGROUND, str(place.gray), "kept")
    return Walked(records=records, class_names=names, coding=coding_of(names))


def _image_files(place: Place, stop: Stop) -> dict[str, Path]:
    """By their names without endings."""
    files: dict[str, Path] = {}
    for file in (file for folder in place.images for file in sorted(folder.rglob("*"))):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            if file.stem in files:
                where = f"{files[file.stem]}, {file}"
                fix = "name the folder that is meant: --images FOLDER; or keep one of them"
                stop(UserError("several images could be meant", where=where, fix=fix))
            files.setdefault(file.stem, file)
    return files


def _stems(
    place: Place, lists: Sequence[Path], contents: Mapping[Path, dict[str, Any]], report: IssueCounter
) -> list[str]:
    """Names of the images of a split: of its lists, of its jsons, or all that have a file."""
    if lists:
        return list(dict.fromkeys(name for file in lists for name in read_list(file)))
    if contents:
        entries = [entry for content in contents.values() for entry in content["images"] if isinstance(entry, dict)]
        return list(dict.fromkeys(Path(str(entry.get("file_name", ""))).stem for entry in entries))
    folder, suffix = (place.pickles, ".pkl") if place.pickles is not None else (place.texts, ".txt")
    known = sorted(file.stem for file in folder.glob(f"*{suffix}")) if folder is not None else []
    for name in sorted(_image_files(place, lambda error: None).keys() - set(known)):
        report.note(NO_FILES, name)
    return known


def _found(
    place: Place, names: Sequence[str], ids: LabelIds, ask: Ask, report: IssueCounter, stop: Stop
) -> dict[str, Sequence[Drawn]]:
    """The objects of each image, by its name; without those that cannot be read."""
    found: dict[str, Sequence[Drawn]] = {}
    with tracking("instances", 0, len(names), quiet=len(names) < _MANY) as show:
        for done, name in enumerate(names, 1):
            show(done, "")
            try:
                found[name] = _objects(place, name, ids, report, stop)
            except _NoInstances as lacking:
                if ask.missing == "drop":
                    report.note(NO_INSTANCES, lacking.where)
                else:
                    stop(lacking)
            except UserError as error:
                stop(error)
    return found


class _NoInstances(UserError):
    """Of a label map that has none."""


def _objects(place: Place, name: str, ids: LabelIds, report: IssueCounter, stop: Stop) -> Sequence[Drawn]:
    """Of one image: of its pickle, else its text.

    Raises:
        UserError: they cannot be read; a label map has none.
    """
    if place.pickles is None and place.texts is not None:
        file = place.texts / f"{name}.txt"
        return _with_ids(read_lines(file, ids, report, stop), stop) if os.path.isfile(file) else ()
    assert place.pickles is not None
    file = place.pickles / f"{name}.pkl"
    if os.path.lexists(file):  # names of lists may be anything, which `Path.exists` raises at
        return read_instances(file, ids, stop)
    if place.gray is not None and os.path.isfile(label_map := place.gray / f"{name}.png"):
        fix = "copy them; or --missing drop leaves the image out"
        raise _NoInstances("a label map without instances", where=f"{label_map}: no {file.name}", fix=fix)
    report.note(EMPTY, name, "kept")
    return ()


def _with_ids(rows: Sequence[Drawn], stop: Stop) -> list[Drawn]:
    """Lines of text alone must have the numbers of their classes, as nothing else says them."""
    bare = next((one for one in rows if one.label is None), None)
    if bare is not None:
        fix = "write the number of the class in the tenth column; or --format dota"
        stop(UserError("a class without its number, and no instances that say it", where=bare.here, fix=fix))
    return [one for one in rows if one.label is not None]


def _records(
    found: Mapping[str, Sequence[Drawn]],
    images: Mapping[str, Path],
    place: Place,
    ask: Ask,
    report: IssueCounter,
    stop: Stop,
) -> list[Record]:
    """A record for each of these names whose image is on disk."""
    where = ", ".join(map(str, place.images)) or f"{place.root}: no folder of images"
    absent = [name for name in found if name not in images]
    if absent and ask.missing == "stop":
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        lacking = f"{len(absent)} of {len(found)} in {where}: {shown}"
        stop(UserError("images that are not on disk", where=lacking, fix=WHERE_IMAGES))
    for name in absent if ask.missing == "drop" else ():
        report.note(MISSING_IMAGE, name)
    present = [name for name in found if name in images]
    if absent and not present and ask.missing == "drop":
        stop(UserError("none of the images is on disk", where=where, fix=WHERE_IMAGES))
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(size_or_error, [images[name] for name in present]))
    is_oriented = any(one.corners for rows in found.values() for one in rows)
    usable = []
    for name, size_hw in zip(present, sizes, strict=True):
        if isinstance(size_hw, UserError):
            stop(size_hw)
            continue
        image = ImageObjects(images[name].name, images[name], size_hw, as_written=ask.as_written)
        add_instances(image, found[name], report, stop)
        usable.append(image)
    has_masks = any(row.told.mask for image in usable for row in image.rows)
    return [image.record(is_oriented=is_oriented, has_masks=has_masks) for image in usable]


def _of_jsons(
    contents: Mapping[Path, dict[str, Any]], place: Place, ids: LabelIds, ask: Ask, report: IssueCounter, stop: Stop
) -> Iterator[Record]:
    """Of the instances of jsons, by the reader of COCO; labels are the category ids."""
    for json, content in contents.items():
        numbers = _categories(json, content, ids, stop)
        first = Path(str(next((one.get("file_name") for one in content["images"] if isinstance(one, dict)), ""))).name
        folder = next((one for one in place.images if os.path.isfile(one / first)), None)
        wanted = replace(ask, split=None, images=ask.images or folder)
        walked = coco_walk.walk(json, wanted, report, stop, content=content)
        to = np.array([numbers[name] for name in walked.class_names] or [0], np.int64)
        yield from (one.with_columns(labels=to[one.objects.labels]) for one in walked.records)


def _document(json: Path) -> dict[str, Any]:
    """Without annotations the converter leaves their key out."""
    content = read_json(json)
    if isinstance(content, dict):
        content.setdefault("annotations", [])
    return coco_walk.checked(content, json)


def _categories(json: Path, content: dict[str, Any], ids: LabelIds, stop: Stop) -> dict[str, int]:
    """What the categories of a json say; the id of each by its name."""
    found: dict[str, int] = {}
    for entry in content["categories"]:
        if isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("name"), str):
            found.setdefault(entry["name"], entry["id"])
            if not 0 <= entry["id"] < BACKGROUND_VALUE:
                what = f"label ids are from 0 to 254, this category has {entry['id']}"
                stop(UserError(what, where=f"{json}: {entry['name']!r:.60}", fix="--format coco"))
            else:
                ids.add(entry["id"], entry["name"], f"{json}, categories", stop, is_json=True)
    return found


def _boxes(place: Place, record: Record, ids: LabelIds, report: IssueCounter, stop: Stop) -> Sequence[Drawn]:
    """The oriented boxes that lie beside the instances of an image."""
    stem = Path(record.id).stem
    try:
        if place.texts is not None and os.path.isfile(file := place.texts / f"{stem}.txt"):
            return read_lines(file, ids, report, stop)
        if place.xmls is not None and os.path.isfile(file := place.xmls / f"{stem}.xml"):
            return read_xml_boxes(file, report, stop)
    except UserError as error:
        stop(error)
    return ()


def _numbered(rows: Sequence[Drawn], numbers: Mapping[str, int], stop: Stop) -> list[Drawn]:
    """With the numbers of their classes; `stop` is told of a class that no instance has."""
    for one in rows:
        if one.name not in numbers:
            what = f"an oriented box of {one.name!r:.60}, which is no class of the instances"
            stop(UserError(what, where=one.here, fix="write both with the same names"))
    return [replace(one, label=numbers[one.name]) for one in rows if one.name is not None and one.name in numbers]


def _with_maps(records: Sequence[Record], gray: Path, stop: Stop) -> list[Record]:
    """With their label maps, where they have one; without those whose label map has another size."""
    files = [gray / f"{Path(record.id).stem}.png" for record in records]
    found = [file if os.path.lexists(file) else None for file in files]
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(lambda file: None if file is None else size_or_error(file), found))
    kept = []
    for record, file, size_hw in zip(records, found, sizes, strict=True):
        if isinstance(size_hw, UserError):
            stop(size_hw)
        elif size_hw is not None and size_hw != record.size_hw:
            what = f"a label map of {size_hw[1]} x {size_hw[0]} pixels for an image of another size"
            stop(UserError(what, where=f"{file}, {record.images[0]}", fix="use the image that was annotated"))
        else:
            kept.append(replace(record, label_map=file))
    return kept


FORMAT = Format(kind="boxes", looks_like=looks_like, splits=splits, walk=walk)
