"""The one way to read a data set, whatever its family and format.

`walk` is what training and `vistruct check` share: the walker of a format, and after it what is the same for all
formats of a family. `read` is that with every fault raised, and with the classes in the order asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vistruct.data.formats import find_format
from vistruct.data.formats.detect import detect
from vistruct.data.formats.format import Ask, Kind, Stop, VolumeCase, Walked
from vistruct.data.formats.maps.counted import with_pixels
from vistruct.data.formats.maps.sizes import with_sizes
from vistruct.data.formats.order import chosen_beside, chosen_coding, chosen_images, chosen_objects, stop_here
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

_LEFT: dict[Kind, str] = {
    "boxes": "images with box annotations",
    "maps": "images with label maps",
    "volumes": "volumes of format {format}",
    "image_classes": "images",
    "captions": "images with captions",
    "questions": "questions about images",
}


def read(path: Path, kind: Kind, *, format: str = "auto", ask: Ask | None = None) -> tuple[Walked, IssueCounter]:
    """Read a data set of a family; no pixel is decoded.

    Args:
        path: the annotation file, or the folder of the data set.
        format: of that family, or `module:NAME`; "auto": found by looking.

    Returns:
        what it says, and what was left out or repaired.

    Raises:
        UserError: no format or several, no such split or several, nothing left, classes that are not asked for, and
            everything that would make training wrong, with file and line.
    """
    ask = ask or Ask()
    format = format_of(path, kind, format, ask)
    report = IssueCounter()
    walked = walk(path, kind, format, ask, report, stop_here)
    if not (walked.records or walked.cases) and kind != "boxes":
        more = f": {'; '.join(report.lines())}" if report.counts else ""
        raise UserError(
            f"no {_LEFT[kind].format(format=format)} are left{more}", where=path, fix="`vistruct check` says more"
        )
    return walked, report


def format_of(path: Path, kind: Kind, format: str, ask: Ask) -> str:
    """The format that is meant; "auto": what was said of it decides, else what is found by looking.

    Raises:
        UserError: no format or several.
    """
    if format != "auto":
        return format
    if kind == "maps" and (ask.images is not None or ask.labels is not None):
        return "mask_folders"
    if kind == "image_classes" and ask.lists is not None and Path(path).exists():
        return "list"
    return detect(path, kind)


def walk(path: Path, kind: Kind, format: str, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """What the walker of a format finds; where `stop` returns, what is faulty is left out."""
    path, one = Path(path), find_format(format, kind)
    assert one.walk is not None  # of conversations, which come another way
    try:
        if kind != "boxes" and not (path.is_dir() if kind == "volumes" else path.exists()):
            what = "no such folder" if kind == "volumes" else "no such file or folder"
            raise UserError(what, where=path, fix="check the path")
        # A walker would stop at classes that are about to be joined or left out; those that paint objects choose them.
        told = replace(ask, classes=None) if kind == "image_classes" and ask.chooses and not one.chooses else ask
        walked = one.walk(path, told, report, stop)
    except UserError as error:  # of the data set as a whole
        stop(error)
        return Walked()
    if kind == "maps":
        walked = with_sizes(walked, stop, are_checked=ask.coordinates == "checked")
    if kind == "volumes":
        walked = replace(walked, cases=_told_apart(walked.cases, stop))
    walked = _chosen(walked, kind, ask, path, report, stop)
    return with_pixels(walked, ask, report, stop) if kind == "maps" else walked


def _chosen(walked: Walked, kind: Kind, ask: Ask, path: Path, report: IssueCounter, stop: Stop) -> Walked:
    """With the classes that are wanted, in their order."""
    if walked.is_chosen or (ask.classes is None and not ask.chooses):
        return walked
    try:
        if kind == "maps" and walked.coding is not None:
            coding = chosen_coding(walked.coding, ask, where=path, report=report, stop=stop)
            return replace(walked, coding=coding)
        if kind == "boxes" or (kind == "image_classes" and ask.chooses):
            take = chosen_objects if kind == "boxes" else chosen_images
            found = take(walked.records, walked.class_names, ask, where=path, report=report, stop=stop)
            walked = replace(walked, records=found[0], class_names=found[1])
            if walked.coding is not None:
                walked = replace(walked, coding=chosen_beside(walked.coding, found[1], ask, where=path))
    except UserError as error:
        stop(error)
    return walked


def _told_apart(cases: list[VolumeCase], stop: Stop) -> list[VolumeCase]:
    """In the order of splits and names; without those whose name another has."""
    seen: dict[str, VolumeCase] = {}
    for case in sorted(cases, key=lambda case: (case.split, case.name)):
        if case.name in seen:
            both = f"{next(iter(seen[case.name].images.values()))}, {next(iter(case.images.values()))}"
            stop(UserError(f"two cases are called {case.name}", where=both, fix="rename one, or remove it"))
        seen.setdefault(case.name, case)
    return list(seen.values())
