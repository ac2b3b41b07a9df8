"""Where images without a word about them lie: in folders and below them, in lists of paths, or named one by one.

Images are pictures, rasters, and volumes: files by their endings, DICOM by its series, one or several in a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.data.formats.classes.folders import NO_IMAGE
from vistruct.data.formats.format import Stop
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.below import folders_below
from vistruct.files.dicom_series import dicom_files, is_series, series_files, series_in
from vistruct.files.text import read_text
from vistruct.files.volume_names import file_of, is_volume_file
from vistruct.issues import IssueCounter

SUFFIXES = IMAGE_SUFFIXES | {".jp2"}
LIST = ".txt"
TWICE = "image left out: it is listed before"
SEGMENTATION = "file left out: the segmentation of a volume"
LIKE_LABELS = "image in a folder that is called as those of labels are: learned like any other"

_LABELS = re.compile(
    r"(labels?|masks?|annotations?|segmentations?|ground[-_ ]?truth|gt)([-_ ]?(tr|ts|va|train|val|test|ing)+)?", re.I
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image or a volume."""

    name: str  # that no other one has
    path: Path  # of an image or a volume: a file, the folder of a DICOM series, or one of several in it
    top: Path  # which of the paths that were named it was found at


def is_volume_path(path: Path) -> bool:
    """Whether it is (a channel of) a volume file, or the folder of a series."""
    return is_volume_file(file_of(path)) or file_of(path).is_dir()


def files_of(path: Path) -> list[Path]:
    """What is on disk of an image or a volume."""
    return series_files(path) if file_of(path).is_dir() else [file_of(path)]


def found_at(paths: Sequence[Path], report: IssueCounter, stop: Stop) -> list[Found]:
    """Every image and volume once, path by path, in the order of their names; none is opened.

    Raises:
        UserError: no such path, a folder that may not be looked into, no list; what a list names and is not there goes
            to `stop`.
    """
    found: dict[object, Found] = {}
    for top in paths:
        if not top.exists():
            raise UserError("no such folder or image", where=top, fix="see what is there: ls")
        root = top if top.is_dir() else top.parent
        for path in _listed(top, report, stop) if top.suffix.lower() == LIST and top.is_file() else _at(top, report):
            key = _identity(path)
            if key in found:
                report.note(TWICE, str(path))
                continue
            own = path.relative_to(root) if path.is_relative_to(root) and path != root else path
            if own is not path and any(map(_LABELS.fullmatch, own.parent.parts)):
                report.note(LIKE_LABELS, str(path), "kept")
            found[key] = Found(name=(own if len(paths) == 1 else path).as_posix(), path=path, top=top)
    return list(found.values())


def _identity(path: Path) -> object:
    """The same for a file and what is linked to it."""
    try:
        status = os.stat(path)
    except OSError:  # who opens it will say what is wrong
        return path
    return status.st_dev, status.st_ino


def has_images(path: Path) -> bool:
    """Whether it is an image or a volume by its name, a list whose first line names one, or a folder with one in or
    below it."""
    if path.is_file() and path.suffix.lower() == LIST:
        with open(path, "rb") as file:
            first = os.fsdecode(file.readline(4096).strip())
        named = path.parent / first
        return first != "" and named.suffix.lower() != LIST and os.path.exists(named) and has_images(named)
    if path.is_file():
        return path.suffix.lower() in SUFFIXES or is_volume_file(path)
    return path.is_dir() and next(iter(_below(path, IssueCounter())), None) is not None


def _at(top: Path, report: IssueCounter) -> Iterable[Path]:
    return _below(top, report) if top.is_dir() else [top]


def _below(folder: Path, report: IssueCounter) -> Iterable[Path]:
    for place, names in folders_below(folder, report):
        slices = {file.name for file in dicom_files(place)} if is_series(place) else set()
        if slices:
            yield from series_in(place)
        for name in names:
            file = place / name
            if name.endswith(".seg.nrrd"):
                report.note(SEGMENTATION, str(file))
            elif file.suffix.lower() in SUFFIXES or is_volume_file(file):
                yield file
            elif name not in slices and name != "Thumbs.db":
                report.note(NO_IMAGE, str(file))


def _listed(file: Path, report: IssueCounter, stop: Stop) -> Iterable[Path]:
    """What the lines of a file name, from its own folder on."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = file.parent / line.strip()
        if os.path.exists(path) and path.suffix.lower() != LIST:
            yield from _at(path, report)
            continue
        what = f"no such image: {line.strip()[:200]}"
        stop(UserError(what, where=f"{file}:{number}", fix="a path a line, as from the folder of the list"))
