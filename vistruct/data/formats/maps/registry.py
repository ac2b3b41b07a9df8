"""Which format of label maps lies at a path, and the one way to read any of them.

A format is a module here with

    looks_like(path) -> bool                            # cheap; of a folder (or file)
    walk(path, wish, report, stop) -> Walked
    splits(path) -> Sequence[str]                       # of which one must be chosen; empty: there is nothing to choose

`walk` only finds out which files belong together: sizes are looked up here, for all formats alike. A format whose
labels are no rasters (outlines that are painted) gives `Walked.raster`. A new one is one line in MAP_FORMATS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import Stop
from vistruct.errors import UserError, closest
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.rasters import raster_size
from vistruct.issues import IssueCounter
from vistruct.progress import tracking

# Imported only when asked for. From the particular to the general: what looks like several is the first of them.
MAP_FORMATS = {
    "isaid": "vistruct.data.formats.maps.isaid",
    "loveda": "vistruct.data.formats.maps.loveda",
    "uavid": "vistruct.data.formats.maps.uavid",
    "potsdam": "vistruct.data.formats.maps.potsdam",
    "vaihingen": "vistruct.data.formats.maps.vaihingen",
    "oscd": "vistruct.data.formats.maps.oscd",
    "spacenet": "vistruct.data.formats.maps.spacenet",
    "s2looking": "vistruct.data.formats.maps.s2looking",
    "covid_quex": "vistruct.data.formats.classes.covid_quex",
    "change_folders": "vistruct.data.formats.maps.change_folders",
    "mask_folders": "vistruct.data.formats.maps.mask_folders",
    "objects": "vistruct.data.formats.maps.painted_objects",
}
_READERS = 8  # threads that look at headers; on a network drive most of the time is waiting
_MANY = 2000  # files from which on the looking is shown


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a reader beside the folder; the fields are those of `maps.MapDataConfig`."""

    split: str | None = None
    images: str | None = None  # folder of the images below the root
    labels: str | None = None
    image_suffix: str | None = None  # what follows the common part of the names
    label_suffix: str | None = None
    coding: Coding | None = None
    classes: tuple[str, ...] | None = None
    fill: Literal["masks", "boxes"] = "masks"
    missing: Literal["stop", "drop"] = "stop"


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a format found: files that belong together. Records need no sizes yet."""

    records: list[Record]
    coding: Coding | None  # of these labels; None: nothing was found
    intake: Intake | None = None  # what a format of many bands is read with, where the user says nothing
    raster: Callable[[Record], np.ndarray] | None = None  # integer[h, w] of a record's window, as `coding` has it


@dataclass(frozen=True, kw_only=True)
class MapSet:
    """A data set of label maps before any pixel is decoded."""

    records: list[Record]  # each with its size
    coding: Coding
    report: IssueCounter
    intake: Intake | None = None
    raster: Callable[[Record], np.ndarray] | None = None  # None: `Record.label_map` is a raster file


def module_of_maps(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: no format of that name.
    """
    if name not in MAP_FORMATS:
        raise UserError(f"no format of label maps {name!r}", fix=closest(name, MAP_FORMATS))
    return importlib.import_module(MAP_FORMATS[name])


def matching_maps(path: Path) -> list[str]:
    """The format of label maps that a path looks like, the most particular one; none or one.

    Painted objects are not among them: annotations of boxes are boxes, unless somebody says otherwise.
    """
    path = Path(path)
    names = (name for name in MAP_FORMATS if name != "objects")
    return next(([name] for name in names if module_of_maps(name).looks_like(path)), [])


def detect_maps(path: Path) -> str:
    """The format of the label maps at a path; "objects" for annotations of boxes.

    Raises:
        UserError: none.
    """
    from vistruct.data.formats.boxes.registry import matching

    path = Path(path)
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="check the path")
    found = matching_maps(path)
    if found:
        return found[0]
    if path.suffix in (".json", ".yaml") or matching(path):
        return "objects"
    fix = "say where both are: images=FOLDER labels=FOLDER (below it); or name the folder that holds both"
    raise UserError("no images with label maps are found here", where=path, fix=fix)


def map_splits(path: Path, name: str) -> tuple[str, ...]:
    """The splits of a data set of a known format; nothing where there is nothing to choose."""
    found = tuple(module_of_maps(name).splits(Path(path)))
    return found if len(found) > 1 else ()


def read_maps(path: Path, *, format: str = "auto", wish: Wish | None = None) -> MapSet:
    """Find the images and their labels, whatever the format.

    Args:
        path: the folder of the data set; of painted objects, what `registry.read_boxes` takes.
        format: one of MAP_FORMATS; "auto": found by looking.

    Raises:
        UserError: no format, no such split or several, images without labels or the other way round (unless they are
            to be dropped), sizes that differ, classes that nobody said.
    """
    wish = wish or Wish()
    if format == "auto" and (wish.images is not None or wish.labels is not None):
        format = "mask_folders"
    name = detect_maps(path) if format == "auto" else format
    report = IssueCounter()
    walked = walk_maps(path, name, wish, report, _raise)
    if not walked.records or walked.coding is None:
        what = "no images with label maps are left" + (f": {'; '.join(report.lines())}" if report.counts else "")
        raise UserError(what, where=path, fix="`vistruct check` says more")
    return MapSet(
        records=walked.records, coding=walked.coding, report=report, intake=walked.intake, raster=walked.raster
    )


def walk_maps(path: Path, name: str, wish: Wish, report: IssueCounter, stop: Stop) -> Walked:
    """What the walker of a format finds, with sizes; where `stop` returns, what is faulty is left out.

    The coding is in the order of the classes that are wished for; None where nothing says it.
    """
    walked = module_of_maps(name).walk(Path(path), wish, report, stop)
    records = _sized(_named(walked.records, stop), stop, with_labels=walked.raster is None)
    coding = walked.coding
    try:
        if coding is not None and wish.classes is not None:
            coding = in_order(coding, wish.classes, path)
    except UserError as error:
        stop(error)
    return replace(walked, records=records, coding=coding)


def in_order(coding: Coding, class_names: Sequence[str], where: object) -> Coding:
    """The same with its classes in another order, such as that of a trained model.

    Raises:
        UserError: not the same classes.
    """
    if tuple(class_names) == coding.classes:
        return coding
    strange = [name for name in class_names if name not in coding.classes]
    absent = [name for name in coding.classes if name not in class_names]
    if strange or absent:
        what = f"classes {', '.join(class_names)}, and the labels have {', '.join(coding.classes)}"
        fix = closest(strange[0], coding.classes) if strange else "name all of them, or say them in coding.classes"
        raise UserError(what, where=where, fix=fix)
    if coding.threshold is not None:
        raise UserError("a threshold makes the second class of high values", where=where, fix="keep the order")
    order = [coding.classes.index(name) for name in class_names]
    values = coding.values if coding.values is not None or coding.colours else tuple(range(len(order)))
    sorted_ = {
        key: given and tuple(given[place] for place in order)
        for key, given in (("values", values), ("colours", coding.colours), ("palette", coding.palette))
    }
    return coding.model_copy(update={"classes": tuple(class_names), **sorted_})


def _sized(records: list[Record], stop: Stop, *, with_labels: bool) -> list[Record]:
    """With the sizes of the images; stops at those that cannot be opened, or whose files are of different sizes.

    A record whose size the format has said (bands of several resolutions) keeps it.
    """
    unknown = [record for record in records if record.size_hw is None]
    files = [
        [*record.images, *([record.label_map] if with_labels and record.label_map is not None else [])]
        for record in unknown
    ]
    found: dict[str, tuple[int, int]] = {}
    with (
        ThreadPoolExecutor(_READERS) as pool,
        tracking("image sizes", 0, len(unknown), quiet=len(unknown) < _MANY) as show,
    ):
        for done, (record, paths, sizes) in enumerate(zip(unknown, files, pool.map(_sizes, files), strict=True), 1):
            show(done, "")
            if isinstance(sizes, UserError):
                stop(sizes)
            elif len(set(sizes)) > 1:
                number = next(number for number, size in enumerate(sizes) if size != sizes[0])
                (h, w), (height, width) = sizes[number], sizes[0]
                what = f"{w} x {h} pixels, and its image {paths[0].name} has {width} x {height}"
                stop(UserError(what, where=paths[number], fix="bring both to the same grid"))
            else:
                found[record.id] = sizes[0]
    return [
        record if record.size_hw is not None else replace(record, size_hw=found[record.id])
        for record in records
        if record.size_hw is not None or record.id in found
    ]


def _sizes(files: Sequence[Path]) -> list[tuple[int, int]] | UserError:
    try:
        return [raster_size(file) for file in files]
    except UserError as error:
        return error


def _named(records: list[Record], stop: Stop) -> list[Record]:
    """Without those whose id another has: no message could tell them apart."""
    seen: dict[str, Record] = {}
    for record in records:
        if record.id in seen:
            both = f"{seen[record.id].images[0]}, {record.images[0]}"
            stop(UserError(f"two images are called {record.id}", where=both, fix="keep or rename one of them"))
        seen.setdefault(record.id, record)
    return list(seen.values())


def _raise(error: UserError) -> NoReturn:
    raise error
