"""Data sets with one annotation file an image: from what the files say to records.

A format of this family only says what its folders are called and what one of its files says (`Page`). Finding the
images, looking at their sizes, judging the shapes and numbering the classes is the same for all, and is done here.

The annotation file `a/b.xml` belongs to the image whose name without its ending is `b`, in capitals or not; a name
inside the file is not believed, since tools write the path of the machine they ran on. A record's id is the name of
its image file, or its path from the root where two images have the same name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES, Edges, ImageObjects, Told
from vistruct.data.formats.boxes.places import AnnotationFile, Layout, find_sources, splits_in
from vistruct.data.formats.format import Ask, Format, Stop, Walked, Writer, never
from vistruct.data.formats.order import class_order
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.images import image_size
from vistruct.issues import IssueCounter
from vistruct.progress import tracking

UNANNOTATED = "image left out: no annotation file"
TURNED_SIZE = "height and width in the annotation file swapped: those of the image taken"

_MANY = 2000  # files from which on the reading is shown
_READERS = 8  # threads that look at image headers; on a network drive most of the time is waiting


@dataclass(frozen=True, kw_only=True)
class ToldShape:
    """One object as a file has it: four corners, or the edges of a horizontal box."""

    name: str  # of its class
    line: int
    corners: tuple[tuple[float, float], ...] = ()  # four of (x, y), pixels, one after the other; or none
    edges: Edges = (0.0, 0.0, 0.0, 0.0)  # x0, y0, x1, y1, pixels; where there are no corners
    is_difficult: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """What one annotation file says of its image."""

    shapes: Sequence[ToldShape]
    size_hw: tuple[int, int] | None = None  # pixels; None: not told
    notes: Mapping[str, str] = field(default_factory=dict)


def per_image(
    *,
    layout: Layout,
    read: Callable[[Path, IssueCounter, Stop], Page],
    looks_like: Callable[[Path], bool] = never,
    published: Sequence[tuple[str, ...]] = (),
    oriented: bool | None = None,
    size_may_be_turned: bool = False,
    top: Callable[[Path], Path] = Path,
    writer: Writer | None = None,
) -> Format:
    """A format with one annotation file an image.

    Args:
        layout: what its folders are called.
        read: an annotation file -> what it says; a fault of one object goes to `stop`, one of the file is raised.
        published: class lists in the order that others number them.
        oriented: whether records have quads; None: if any object has.
        size_may_be_turned: count a size told as width x height and meant as height x width, instead of stopping.
        top: the folder that the layout begins in, where it is not the one that was named.
    """

    def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
        root = top(path)
        sources, is_all = find_sources(root, ask.images, ask.split, layout, report)
        pages = _pages(sources, root, is_all, ask, report, stop, read=read, size_may_be_turned=size_may_be_turned)
        class_names = class_order(pages.numbers, published=published)
        to = np.array([class_names.index(name) for name in pages.numbers] or [0], np.int64)
        has_quads = pages.has_corners if oriented is None else oriented
        columns = {} if has_quads else {"quads": None}
        records = [record.with_columns(labels=to[record.objects.labels], **columns) for record in pages.records]
        return Walked(records=records, class_names=class_names)

    return Format(
        kind="boxes",
        looks_like=looks_like,
        splits=lambda path: splits_in(path, layout),
        walk=walk,
        writer=writer,
    )


def _pages(
    sources: Sequence[AnnotationFile],
    root: Path,
    is_all: bool,
    ask: Ask,
    report: IssueCounter,
    stop: Stop,
    *,
    read: Callable[[Path, IssueCounter, Stop], Page],
    size_may_be_turned: bool,
) -> _Told:
    """What all annotation files together say."""
    paths = _find_images(sources, report, stop, ask.missing, is_all=is_all)
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(size_or_error, paths.values()))
    ids = record_ids(list(paths.values()), root)
    told = _Told()
    with tracking("annotation files", 0, len(paths), quiet=len(paths) < _MANY) as show:
        for done, ((annotation, path), size_hw, record_id) in enumerate(zip(paths.items(), sizes, ids, strict=True), 1):
            show(done, "")
            try:
                if isinstance(size_hw, UserError):
                    raise size_hw
                page = read(annotation, report, stop)
            except UserError as error:
                stop(error)
                continue
            if size_agrees(page.size_hw, size_hw, annotation, report, stop, size_may_be_turned):
                found = ImageObjects(record_id, path, size_hw, page.notes, as_written=ask.as_written)
                for shape in page.shapes:
                    told.look_at(shape, size_hw)
                    _add(shape, found, told.numbers[shape.name], annotation, report)
                told.records.append(found.record(is_oriented=True))
    if told.numbers and told.is_shares:
        what = "no coordinate is above 1, so these are shares of the image and not pixels"
        stop(UserError(what, where=root, fix="multiply x by the image's width and y by its height"))
    return told


@dataclass
class _Told:
    """What all files together say; known when the last one was read."""

    records: list[Record] = field(default_factory=list)  # labels count in `numbers`
    numbers: dict[str, int] = field(default_factory=dict)  # classes by their order of appearance
    has_corners: bool = False
    is_shares: bool = (
        True  # no coordinate is above 1, on images that are larger than that; trained on, it would be noise
    )

    def look_at(self, shape: ToldShape, size_hw: tuple[int, int]) -> None:
        self.numbers.setdefault(shape.name, len(self.numbers))
        self.has_corners |= bool(shape.corners)
        if self.is_shares:
            values = [value for corner in shape.corners for value in corner] or shape.edges
            self.is_shares = min(size_hw) >= 8 and all(abs(value) <= 1 for value in values)


def _add(shape: ToldShape, found: ImageObjects, label: int, annotation: Path, report: IssueCounter) -> None:
    here = f"{annotation}, line {shape.line}"
    if shape.corners:
        found.add_quad(shape.corners, label, here, report, Told(is_difficult=shape.is_difficult))
    else:
        found.add_box(shape.edges, label, here, report, Told(is_difficult=shape.is_difficult))


def _find_images(
    sources: Sequence[AnnotationFile],
    report: IssueCounter,
    stop: Stop,
    missing: Literal["stop", "drop"],
    *,
    is_all: bool,
) -> dict[Path, Path]:
    """The image of each annotation file that has one; the others are said."""
    indices: dict[tuple[Path, ...], dict[str, list[Path]]] = {}
    found: dict[Path, Path] = {}
    absent: list[AnnotationFile] = []
    for source in sources:
        if source.images not in indices:
            indices[source.images] = _by_stem(source.images)
        stem = source.annotation.stem
        alike = indices[source.images].get(stem.lower(), [])
        fitting = [path for path in alike if path.stem == stem] or alike
        if source.images == (source.annotation.parent,):  # at home, before what lies in folders in it
            fitting = [path for path in fitting if path.parent == source.annotation.parent] or fitting
        if len(fitting) > 1:
            where = f"{source.annotation}: {', '.join(str(path) for path in fitting[:3])}"
            fix = "name the folder that is meant: --images FOLDER; or keep one of them"
            stop(UserError("several images could be meant", where=where, fix=fix))
        elif fitting:
            found[source.annotation] = fitting[0]
        else:
            absent.append(source)
    if absent and missing == "stop":
        shown = ", ".join(str(source.annotation) for source in absent[:3]) + (", ..." if len(absent) > 3 else "")
        folders = ", ".join(str(folder) for folder in absent[0].images)
        where = f"{len(absent)} of {len(sources)} have none in {folders}: {shown}"
        stop(UserError("annotation files without an image on disk", where=where, fix=WHERE_IMAGES))
    for source in absent if missing == "drop" else ():
        report.note(MISSING_IMAGE, str(source.annotation))
    if absent and missing == "drop" and not found:
        where = ", ".join(str(folder) for folder in absent[0].images)
        stop(UserError("none of the images is on disk", where=where, fix=WHERE_IMAGES))
    if is_all:
        annotated = {source.annotation.stem.lower() for source in sources}
        for index in indices.values():
            for stem in sorted(index.keys() - annotated):
                report.note(UNANNOTATED, str(index[stem][0]))
    return found


def _by_stem(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The image files in folders and below, by their names without endings in small letters."""
    index: dict[str, list[Path]] = {}
    for top in folders:
        for folder, folders_inside, names in os.walk(top):
            folders_inside.sort()
            for name in sorted(names):
                stem, end = os.path.splitext(name)
                if end.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                    index.setdefault(stem.lower(), []).append(Path(folder, name))
    return {stem: list(dict.fromkeys(paths)) for stem, paths in index.items()}  # a folder may lie in another one


def size_or_error(path: Path) -> tuple[int, int] | UserError:
    try:
        return image_size(path)
    except UserError as error:
        return error


def size_agrees(
    told_hw: tuple[int, int] | None,
    size_hw: tuple[int, int],
    annotation: object,
    report: IssueCounter,
    stop: Stop,
    may_be_turned: bool = False,
) -> bool:
    """Shapes drawn on an image of another size would all be wrong, so this is no matter for a count."""
    if told_hw is None or told_hw == size_hw:
        return True
    if may_be_turned and told_hw == size_hw[::-1]:
        report.note(TURNED_SIZE, str(annotation), "repaired")
        return True
    what = "an annotation file for an image of another size"
    told = f"it says {told_hw[1]} x {told_hw[0]} pixels, the image has {size_hw[1]} x {size_hw[0]}"
    fix = "its boxes would be wrong: use the image that was annotated, or correct the size"
    if told_hw == size_hw[::-1]:
        fix = "its boxes may belong to the image before its EXIF rotation: save the image without one and check"
    stop(UserError(what, where=f"{annotation}: {told}", fix=fix))
    return False


def record_ids(paths: Sequence[Path], root: Path) -> list[str]:
    """Names of images: those of their files; paths from the root where two are the same."""
    times = Counter(path.name for path in paths)
    if not times or max(times.values()) == 1:
        return [path.name for path in paths]
    return [Path(os.path.relpath(path, root if root.is_dir() else root.parent)).as_posix() for path in paths]
