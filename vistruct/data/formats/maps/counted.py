"""How many pixels each class has in all label maps, and whether the labels are what their coding says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vistruct.contracts import IGNORED
from vistruct.data.formats.format import Ask, Stop, Walked
from vistruct.data.formats.maps.coding import to_type
from vistruct.data.formats.maps.values import Values, look_at
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

ALL_IGNORED = "label map of which no pixel counts"
NO_DATA = "label map whose image has pixels without data, which do not count"
NO_PIXEL = "class without a pixel here, which is in no mean"


def with_pixels(walked: Walked, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """With the pixels of each class; `stop` is told of values of no class, and of masks that are coded otherwise.

    Labels that a format makes itself (`Walked.raster`) are not looked at.
    """
    coding = walked.coding
    files = [record.label_map for record in walked.records if record.label_map is not None]
    if coding is None or walked.raster is not None or not files:
        return walked
    values = look_at(walked.records, ask.kept, ask.intake or walked.intake)
    strange: dict[tuple[str, str], list[Path]] = defaultdict(list)
    pixels: Counter[int] = Counter()
    for file, found in values.items():
        try:
            classes = coding.decode(found.raster(by_colour=coding.colours is not None), file)[0]
        except UserError as error:
            strange[error.what, error.fix].append(file)
            continue
        own: Counter[int] = Counter()
        for number, count in zip(classes.tolist(), found.counts.values(), strict=True):
            own[number] += count
        own[IGNORED] += found.hidden
        pixels += own
        if found.hidden:
            report.note(NO_DATA, str(file), "kept")
        if set(+own) == {IGNORED}:
            report.note(ALL_IGNORED, str(file), "kept")
    for (what, fix), places in strange.items():
        _tell(f"{what} in {len(places)} of {len(values)} label maps", places, fix, stop)
    _one_coding(coding, values, stop)
    if coding.colours is None and (ask.coding is None or ask.coding.values is None):
        _one_palette(coding, values, stop)
    for number, name in enumerate(coding.classes):
        if not pixels[number]:
            report.note(NO_PIXEL, name, "kept")
    return replace(walked, pixels=pixels)


def _one_coding(coding: Coding, values: Values, stop: Stop) -> None:
    """Stop at masks of 0 and 255 among masks of 0 and 1, which would vanish, or of 0 and 1 below a threshold."""
    numbers = {file: set(found) for file, one in values.items() if (found := one.numbers) is not None}
    if coding.threshold is not None:
        high = [file for file, own in numbers.items() if max(own, default=0) >= coding.threshold]
        low = [file for file, own in numbers.items() if own == {0, 1} or own == {1}]
        if low and coding.threshold > 1:
            what = f"{len(low)} of {len(values)} label maps have 0 and 1"
            if high:
                what += f" where the others have 0 and {max(max(numbers[file]) for file in high)}"
            fix = "write them all in one way" if high else to_type(coding.classes, (0, 1))
            _tell(f"{what}, and the second class begins at {coding.threshold}", low, fix, stop)
        return
    if "ignored" in coding.model_fields_set or coding.colours is not None:
        return
    known = set(coding.values if coding.values is not None else range(len(coding.classes)))
    for value in coding.ignored:
        without = known - {0, value}
        mine = [file for file, own in numbers.items() if value in own]
        others = [file for file, own in numbers.items() if value not in own and own & without]
        if mine and others and not any(numbers[file] & without for file in mine):
            beside = ", ".join(map(str, sorted(set.union(*(numbers[file] for file in others)) & known)))
            what = f"labels coded in two ways: {len(mine)} of {len(values)} have 0 and {value}, the others {beside}"
            options = to_type(coding.classes, coding.values or range(len(coding.classes)), (value,))
            fix = f"write them all in one way; or {options}: it never counts"
            _tell(what, mine, fix, stop)


def _one_palette(coding: Coding, values: Values, stop: Stop) -> None:
    """Stop at indexed files in which a number has another colour than in others: which of the two is the class?"""
    first: dict[int, tuple[int, Path]] = {}
    others: dict[Path, str] = {}
    colours: dict[int, None] = {}
    for file, found in values.items():
        for value, colour in found.palette.items():
            colours[colour] = None
            known, where = first.setdefault(value, (colour, file))
            if known != colour:
                others.setdefault(file, f"{value} is #{known:06x} in {where.name} and #{colour:06x} in {file.name}")
    if others:
        names = [*coding.classes, *(f"class_{number}" for number in range(len(coding.classes), len(colours)))]
        lines = [f"{name},{c >> 16},{c >> 8 & 255},{c & 255}" for name, c in zip(names, colours, strict=False)]
        what = (
            f"indexed label maps whose palettes differ, {len(others)} of {len(values)}: {next(iter(others.values()))}"
        )
        numbers = to_type(coding.classes, coding.values or range(len(coding.classes)), coding.ignored)
        fix = f"numbers count: {numbers}; or colours: write class_dict.csv beside, in lines: {' '.join(lines)}"
        _tell(what, list(others), fix, stop)


def refused(class_names: Sequence[str], pixels: Counter[int], *, named: bool, ignored: Sequence[int] = ()) -> str:
    """Why nothing can be learned from (or measured on) so many pixels of each class; "": it can.

    Args:
        named: whether somebody named the classes for these data: then each has a pixel somewhere.
    """
    total = pixels.total()
    if not total:
        return ""
    counted = [number for number in range(len(class_names)) if pixels[number]]
    lost = f"; {pixels[IGNORED]} of {total} pixels do not count" if pixels[IGNORED] else ""
    if not counted:
        return "no pixel of these label maps counts"
    if len(counted) == 1 and len(class_names) > 1:
        return f"nothing but {class_names[counted[0]]!r} in all label maps{lost}"
    missing = [name for number, name in enumerate(class_names) if not pixels[number]]
    if named and missing:
        return f"no pixel of {', '.join(map(repr, missing))} in all label maps{lost}"
    return ""


def _tell(what: str, files: Sequence[Path], fix: str, stop: Stop) -> None:
    """Of every file; the first of them, which training raises, has the names of some others."""
    others = ", ".join(file.name for file in files[1:4]) + (", ..." if len(files) > 4 else "")
    for file in files:
        stop(UserError(f"{what}; also {others}" if others else what, where=file, fix=fix))
