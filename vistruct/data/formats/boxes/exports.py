"""Exports of annotation tools: from files that name images, with the shapes drawn on them, to records.

A format of this family says which files are its own and what one of them says (`Export`). Finding the images, looking
at their sizes, judging the shapes and numbering the classes is the same for all, and is done here.

An outline is a mask, and its hull a box. Where any box is turned, or every outline has four corners and not all of them
are upright, the data set is of oriented boxes: outlines of four corners are taken as they are, others by their smallest
rectangle. Outlines that all have four corners are no masks, unless masks are wanted.

Exports lie where they were unpacked: in the folder, in one for annotations, or in a folder for each split (or task).
Images are looked for from their names, at home first; see `coco_find.find_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.coco_find import find_images
from vistruct.data.formats.boxes.drawn import Export, Picture, Shape
from vistruct.data.formats.boxes.image_names import ImageFolder, same_file
from vistruct.data.formats.boxes.objects import (
    MISSING_IMAGE,
    WHERE_IMAGES,
    ImageObjects,
    Told,
)
from vistruct.data.formats.boxes.outlines import hull_of, is_upright, outline_points, smallest_rectangle
from vistruct.data.formats.boxes.per_image import record_ids, size_agrees, size_or_error
from vistruct.data.formats.format import Ask, Format, Stop, Walked, never
from vistruct.data.formats.splits import IMAGE_SUFFIXES, chosen
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

OTHER_FILE = "json left out: of another format than the others"
UNLISTED = "image left out: the annotations do not name it"
RECTANGLE = "outline among turned boxes: its smallest rectangle taken"

_FOLDERS = ("annotations", "Annotations", "annotation", "labels", "ann", "json", "labelme")
_SPLITS = {"train", "val", "valid", "validation", "test", "trainval", "training"}
_SNIFFED = 20  # files of a folder that are looked into; more of them are one for each image
_READ = 50  # files that are read to know their splits


Read = Callable[[Path, Ask, IssueCounter, Stop], Export]


def drawn_format(
    *, is_one: Callable[[Path], bool], read: Read, suffixes: Sequence[str] = (".json",), is_guessed: bool = True
) -> Format:
    """A format of files that name many images.

    Args:
        is_one: whether a file is of this format, told by its beginning.
        read: what a file says; a fault of one object goes to `stop`, one of the file is raised.
        is_guessed: False: it must be named, since other formats have the same files.
    """

    def read_all(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Export]:
        return [
            replace(export, pictures=[replace(one, split=one.split or split) for one in export.pictures])
            for split, file in export_files(path, suffixes, is_one).items()
            for export in [read(file, ask, report, stop)]
        ]

    def splits(path: Path) -> tuple[str, ...]:
        files = export_files(path, suffixes, is_one)
        if len(files) > _READ:
            return tuple(files)
        try:
            exports = read_all(path, Ask(), IssueCounter(), lambda error: None)
        except UserError:  # said when it is read
            return ()
        return tuple(dict.fromkeys(one.split for export in exports for one in export.pictures if one.split))

    return _format(read_all, is_one, lambda path: export_files(path, suffixes, is_one), splits, is_guessed)


def drawn_pages(*, is_one: Callable[[Path], bool], read: Read) -> Format:
    """A format of a json for each image; see `drawn_format`."""

    def read_all(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> list[Export]:
        exports: list[Export] = []
        for split, files in page_files(path, is_one).items():
            for file in files:
                if len(files) > 1 and not is_one(file):
                    report.note(OTHER_FILE, str(file))
                    continue
                try:
                    found = read(file, ask, report, stop)
                except UserError as error:
                    stop(error)
                    continue
                first = next(
                    other for other in files if other.parent == file.parent
                )  # one search for a folder's images
                exports.append(Export(pictures=[replace(one, beside=first, split=split) for one in found.pictures]))
        return exports

    def files_of(path: Path) -> dict[str, list[Path]]:
        return page_files(path, is_one)

    return _format(read_all, is_one, files_of, lambda path: tuple(files_of(path)))


def _format(
    read_all: Callable[[Path, Ask, IssueCounter, Stop], list[Export]],
    is_one: Callable[[Path], bool],
    files_of: Callable[[Path], Mapping[str, object]],
    splits: Callable[[Path], tuple[str, ...]],
    is_guessed: bool = True,
) -> Format:
    def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
        return walk_exports(read_all(path, ask, report, stop), path, ask, report, stop)

    def looks_like(path: Path) -> bool:
        try:
            return is_one(path) if path.is_file() else bool(files_of(path))
        except UserError:
            return False

    return Format(kind="boxes", looks_like=looks_like if is_guessed else never, splits=splits, walk=walk)


def page_files(path: Path, is_one: Callable[[Path], bool]) -> dict[str, list[Path]]:
    """The files of one image each by the name of their split, "" where there is one; of the first place that has any.

    Raises:
        UserError: no such file or folder.
    """
    if path.is_file():
        return {"": [path]}
    for places in places_of(path):
        found = {place: files for place in places if (files := _json(place)) and any(map(is_one, files[:_SNIFFED]))}
        if found:
            by_split: dict[str, list[Path]] = {}
            for place, files in found.items():
                top = place.parent if place.name in _FOLDERS else place
                by_split.setdefault("" if top == path else top.name, []).extend(files)
            return by_split
    return {}


def _json(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".json" and file.is_file()]


def export_files(path: Path, suffixes: Sequence[str], is_one: Callable[[Path], bool]) -> dict[str, Path]:
    """The files of an export by the name of their split, "" where there is one: of the first place that has any.

    Raises:
        UserError: no such file or folder; a file that cannot be read.
    """
    if path.is_file():
        return {"": path}
    for places in places_of(path):
        found = {place: files for place in places if (files := _own(place, suffixes, is_one))}
        if found:
            return _by_split(found, path)
    return {}


def places_of(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders that may hold annotations: the root, those for annotations, those of splits and of annotations in them.

    Raises:
        UserError: no such folder.
    """
    if not path.is_dir():
        raise UserError("no such file or folder", where=path, fix="check the path")
    named = [path / name for name in _FOLDERS if (path / name).is_dir()]
    inner = sorted(one for one in path.iterdir() if one.is_dir() and one not in named and not one.name.startswith("."))
    inner += [one / name for one in inner for name in _FOLDERS if (one / name).is_dir()]
    return [path], named, inner


def _own(folder: Path, suffixes: Sequence[str], is_one: Callable[[Path], bool]) -> list[Path]:
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in suffixes and file.is_file()]
    return [file for file in files[:_SNIFFED] if not file.name.startswith(".") and is_one(file)]


def _by_split(found: dict[Path, list[Path]], root: Path) -> dict[str, Path]:
    split: dict[str, Path] = {}
    for folder, files in found.items():
        top = folder.parent if folder.name in _FOLDERS else folder
        own = "" if top == root else top.name
        for file in files:
            word = file.stem if len(files) > 1 or file.stem.lower() in _SPLITS else ""
            split["/".join(part for part in (own, word) if part)] = file
    return split


def walk_exports(exports: Sequence[Export], path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """The records of what several files say, of the splits that are asked for."""
    everything = [picture for export in exports for picture in export.pictures]
    if not everything:
        raise UserError("no image is named here", where=path, fix="name the file of another export")
    known = list(dict.fromkeys(picture.split for picture in everything))
    top = path if path.is_dir() else path.parent
    is_whole = known == [""] and ask.split in (None, top.name, path.stem)
    names = known if is_whole else chosen(ask.split, known, path)
    wanted = [picture for picture in everything if picture.split in names]
    also = [name for export in exports for name in export.others]
    also += [name for picture in everything for name in picture.names]
    files = _find_all(wanted, also, path, ask, report, stop)
    ordered = [name for export in exports for name in export.class_names]
    return records_of(files, ordered, path, ask, report, stop)


def records_of(
    files: Mapping[Path, Picture], ordered: Sequence[str], path: Path, ask: Ask, report: IssueCounter, stop: Stop
) -> Walked:
    """The records of images whose shapes are known.

    Args:
        ordered: classes in the order of the tool; those that it does not name follow.
    """
    shapes = [shape for picture in files.values() for shape in picture.shapes]
    names = dict.fromkeys(ordered)
    class_names = (*names, *sorted({shape.name for shape in shapes} - {*names}))
    taker = Taker(label_of={name: label for label, name in enumerate(class_names)}, report=report)
    taker.look_at(shapes, ask)
    with ThreadPoolExecutor(8) as pool:  # on a network drive most of the time is waiting
        sizes = list(pool.map(size_or_error, files))
    records: list[Record] = []
    ids = record_ids(list(files), path)
    for (file, picture), size_hw, record_id in zip(files.items(), sizes, ids, strict=True):
        if isinstance(size_hw, UserError):
            stop(size_hw)
        elif size_agrees(picture.size_hw, size_hw, picture.where, report, stop):
            image = ImageObjects(record_id, file, size_hw, as_written=ask.as_written)
            for shape in picture.shapes:
                taker.take(shape, image)
            records.append(taker.record(image))
    _refuse_shares(records, path, stop)
    return Walked(records=records, class_names=class_names)


@dataclass(kw_only=True)
class Taker:
    """Puts shapes into images, all of a data set alike."""

    label_of: dict[str, int]
    report: IssueCounter
    is_oriented: bool = field(default=False, init=False)
    has_masks: bool = field(default=False, init=False)

    def look_at(self, shapes: Sequence[Shape], ask: Ask) -> None:
        """Decide what the outlines of a data set are."""
        outlines = [shape for shape in shapes if shape.mask != () and not shape.is_crowd]
        quads = [shape.quad for shape in outlines]
        are_quads = None not in quads
        is_turned = any(quad is not None and not is_upright(quad) for quad in quads)
        self.is_oriented = any(shape.corners for shape in shapes) or (are_quads and is_turned)
        self.has_masks = bool(outlines) and (not are_quads or ask.masks)

    def take(self, shape: Shape, image: ImageObjects) -> None:
        """Add an object to its image."""
        told = Told(is_crowd=shape.is_crowd, is_difficult=shape.is_difficult, mask=shape.mask if self.has_masks else ())
        label = self.label_of[shape.name]
        corners = shape.corners
        if self.is_oriented and not corners and shape.mask != () and shape.edges is None:
            corners = shape.quad or smallest_rectangle(outline_points(shape.mask))
            if shape.quad is None:
                self.report.note(RECTANGLE, shape.where, "repaired")
        if corners:
            image.add_quad(corners, label, shape.where, self.report, told)
        else:
            edges = shape.edges if shape.edges is not None else hull_of(shape.mask)
            image.add_box(edges, label, shape.where, self.report, told)

    def record(self, image: ImageObjects) -> Record:
        return image.record(is_oriented=self.is_oriented, has_masks=self.has_masks)


def _find_all(
    wanted: Sequence[Picture], names: Sequence[str], path: Path, ask: Ask, report: IssueCounter, stop: Stop
) -> dict[Path, Picture]:
    """The file of each image that has one; the others are said."""
    found: dict[Path, Picture] = {}
    absent: list[Picture] = []
    folders: dict[tuple[Path, str], ImageFolder] = {}
    for picture in wanted:
        home = (picture.beside, picture.split)
        try:
            if home not in folders:
                alike = [one for one in wanted if (one.beside, one.split) == home]
                folders[home] = image_folder(alike, ask)
            file = _find(picture, folders[home])
        except UserError as error:
            stop(error)
            continue
        if file is None:
            absent.append(picture)
        elif file in found:
            what = "an image is listed twice, or shares its file with another"
            where = f"{picture.where}; {found[file].where}"
            stop(UserError(what, where=where, fix="keep one of the two; or name the one file that is meant"))
        else:
            found[file] = picture
    if absent and ask.missing == "stop":
        shown = ", ".join(picture.names[0] for picture in absent[:3]) + (", ..." if len(absent) > 3 else "")
        where = f"{absent[0].beside}: {len(absent)} of {len(wanted)}: {shown}"
        stop(UserError("images that are not on disk", where=where, fix=WHERE_IMAGES))
    for picture in absent if ask.missing == "drop" else ():
        report.note(MISSING_IMAGE, picture.where)
    if absent and ask.missing == "drop" and not found:
        stop(UserError("none of the images is on disk", where=path, fix=WHERE_IMAGES))
    named = {name.replace("\\", "/").rpartition("/")[2] for name in names}
    for folder in dict.fromkeys(file.parent for file in found):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in IMAGE_SUFFIXES and file not in found and file.name not in named:
                report.note(UNLISTED, str(file))
    return found


def image_folder(pictures: Sequence[Picture], ask: Ask) -> ImageFolder:
    """Where the images of a file are: the folder that was named, or the one that has most of them."""
    if ask.images is not None:
        return ImageFolder(ask.images, is_named=True)
    best, most = pictures[0].beside.parent, -1
    for rank in range(max(len(picture.names) for picture in pictures)):
        names = [picture.names[min(rank, len(picture.names) - 1)] for picture in pictures]
        folder = find_images(pictures[0].beside, names)
        number = sum(ImageFolder(folder, is_named=False).find(name) is not None for name in names[:50])
        best, most = (folder, number) if number > most else (best, most)
    return ImageFolder(best, is_named=False)


def _find(picture: Picture, folder: ImageFolder) -> Path | None:
    """
    Raises:
        UserError: different files of two of its names.
    """
    files = [file for name in picture.names if (file := folder.find(name)) is not None]
    other = next((file for file in files[1:] if not same_file(files[0], file)), None)
    if other is not None:
        fix = f"name the folder that is meant: --images {files[0].parent}; or keep one of them"
        raise UserError("several images could be meant", where=f"{picture.where}: {files[0]}, {other}", fix=fix)
    return files[0] if files else None


def _refuse_shares(records: Sequence[Record], path: Path, stop: Stop) -> None:
    """Boxes between 0 and 1 are parts of the image, not pixels; trained on, they would teach nothing."""
    with_boxes = [record for record in records if len(record.objects)]
    if not with_boxes or any(min(record.size_hw or (0, 0)) < 8 for record in with_boxes):  # here a box may be one pixel
        return
    if max(float(record.objects.boxes_xyxy.max()) for record in with_boxes) <= 1:
        what = "every box lies between 0 and 1, so these are shares of the image and not pixels"
        stop(UserError(what, where=path, fix="multiply x by the image's width and y by its height"))
