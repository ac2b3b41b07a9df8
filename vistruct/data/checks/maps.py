"""What is in a data set of label maps and what is wrong with it, found by the same walkers that read it for training.

Every label raster is decoded (or the first few). The traps that go unnoticed elsewhere have names here: a mask of 0 and
255 read as classes, a 0 that should not count, labels in lossy JPEG, colours where numbers are meant, a class or a
change that never occurs, the same picture before and after, one image in two splits.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vistruct.contracts import IGNORED, Record
from vistruct.data.channels import check_channels
from vistruct.data.checks.images import decoded, same_in_two, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings, Parts
from vistruct.data.checks.problem import Problem, hints
from vistruct.data.formats.format import Walked
from vistruct.data.formats.maps.coding import Seen, merged, to_type
from vistruct.data.formats.maps.counted import refused
from vistruct.data.formats.maps.partners import NO_IMAGE, NO_LABELS, NO_SECOND
from vistruct.data.formats.maps.values import look_at
from vistruct.data.loading.parallel import in_parallel
from vistruct.data.maps import LabelReader
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.files.rasters import read_raster

_JOB_RECORDS = 50
_MOST_FOLDERS = 4  # that are named
_JPEGS = (".jpg", ".jpeg")
_FIX = "copy them; or --image-suffix and --label-suffix, if names differ; or --missing drop"
_PARTNERLESS = {
    NO_LABELS: ("image, no label map", _FIX),
    NO_IMAGE: ("label map, no image", _FIX),
    NO_SECOND: ("pair, no second image", _FIX),
}

Found = dict[str, list[str]]  # places by what is found


@dataclass
class PixelTally:
    """What label rasters have, raster by raster."""

    seen: Seen = field(default_factory=Seen)
    pixels: Counter[int] = field(default_factory=Counter)  # by class; IGNORED too
    errors: list[UserError] = field(default_factory=list)

    def merge(self, other: PixelTally) -> None:
        """Add another's."""
        self.seen.numbers.update(other.seen.numbers)
        self.seen.colours.update(other.seen.colours)
        self.seen.first = other.seen.first | self.seen.first
        self.pixels.update(other.pixels)
        self.errors += other.errors


def look(parts: Parts, decode_at_most: int | None) -> Findings:
    """Pixels, hints and traps of a data set of label maps; by value, where no coding is known.

    Args:
        decode_at_most: how many images, and how many label rasters, to decode; None: all.
    """
    coding = next((part.coding for part in parts.walked.values() if part.coding is not None), None)
    records = parts.records()
    some = records[:decode_at_most]
    tally = PixelTally()
    for part in parts.walked.values():
        own = {record.images for record in part.records}
        if part.raster is None:
            tally.merge(_looked_at(part, parts.part.intake))
        elif coding is not None:
            read = LabelReader(coding, part.raster, parts.part.intake or part.intake)
            tally.merge(_tallied([record for record in some if record.images in own], read))
    why = "" if coding is None else refused(coding.classes, tally.pixels, named=False)
    if why:
        there = sorted(tally.seen.numbers)
        fix = "add label maps that have every class"
        if coding is not None and len(there) == len(coding.classes):
            fix = f"{to_type(coding.classes, there)}, if these are their values"
        tally.errors.append(UserError(why, where=str(parts.family.path), fix=fix))
    images = list(dict.fromkeys(image for record in records for image in record.images))
    sizes = {record.images[0]: record.size_hw for record in records if record.size_hw is not None}
    has_bands = parts.part.intake is not None or any(part.intake is not None for part in parts.walked.values())
    of_bands: list[Problem] = []
    if has_bands:
        for walked in parts.walked.values():
            check_channels(walked.records, parts.part.intake or walked.intake, parts.errors.append)
    else:
        of_bands = decoded([image for record in some for image in record.images], parts.errors)[1]
    parts.errors.extend(tally.errors)
    problems = [
        *of_bands,
        *tiny_images(sizes),
        *_traps(some, coding, tally),
        *same_in_two(parts.images()),
        *_straddling(parts.walked),
    ]
    if not records and not parts.errors:
        problems.append(Problem(what="no images with label maps are left", effect="stops training", count=1))
    is_pair = any(len(record.images) == 2 for record in records) and not has_bands
    counts = {"images": len(images), **({"pairs": len(records)} if is_pair else {}), "label maps": len(records)}
    counts |= {"pixels": tally.pixels.total(), "pixels that do not count": tally.pixels[IGNORED]}
    counts |= {"label maps decoded": len(some)}
    classes = _classes(tally, coding)
    paired = _paired(records, parts.family.path)
    sizes_told = ({"paired folders": paired} if paired else {}) | sizes_in_words(sizes.values())
    return Findings(counts=counts, classes=classes, sizes=sizes_told, problems=problems, stopping=_PARTNERLESS)


def _paired(records: Sequence[Record], root: Path) -> str:
    """`train/images -> train/masks`: where the images of records lie, and their labels."""
    places = {(*(image.parent for image in one.images), one.label_map.parent) for one in records if one.label_map}
    names = sorted([os.path.relpath(folder, root) for folder in place] for place in places)
    told = [f"{', '.join(dict.fromkeys(own[:-1]))} -> {own[-1]}" for own in names]
    return "; ".join(told[:_MOST_FOLDERS]) + (f" and {len(told) - _MOST_FOLDERS} more" * (len(told) > _MOST_FOLDERS))


def _classes(tally: PixelTally, coding: Coding | None) -> dict[str, int]:
    if coding is not None:
        return {name: tally.pixels[number] for number, name in enumerate(coding.classes)}
    return {f"value {value}": count for value, count in tally.seen.numbers.most_common(20)}


def _looked_at(part: Walked, intake: Intake | None) -> PixelTally:
    """Of label rasters, which the walker has looked at; and what makes some of them unreadable."""
    files = [record.label_map for record in part.records if record.label_map is not None]
    values = look_at(part.records, intake=intake or part.intake)
    tally = PixelTally(seen=merged(values), pixels=part.pixels or Counter())
    for file in (file for file in files if file not in values):
        try:
            read_raster(file)
        except UserError as error:
            tally.errors.append(error)
    return tally


def _tallied(records: Sequence[Record], read: LabelReader) -> PixelTally:
    tally = PixelTally()
    jobs = [records[at : at + _JOB_RECORDS] for at in range(0, len(records), _JOB_RECORDS)]
    for one in in_parallel(_tally, read, jobs, label=f"label maps, x {_JOB_RECORDS}"):
        tally.merge(one)
    return tally


def _tally(read: LabelReader, records: Sequence[Record]) -> PixelTally:
    tally = PixelTally()
    for record in records:
        try:
            found, counts = np.unique(read(record).numpy(), return_counts=True)
            tally.pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        except UserError as error:
            tally.errors.append(error)
    return tally


def _traps(records: Sequence[Record], coding: Coding | None, tally: PixelTally) -> list[Problem]:
    """What training accepts, or refuses without saying why, and a person should look at."""
    found: Found = defaultdict(list)
    fixes: dict[str, str] = {}
    numbers = {value for value, count in tally.seen.numbers.items() if count}
    _values(numbers, coding, tally, found, fixes)
    if coding is None or coding.threshold is None:
        files = [record.label_map for record in records if record.label_map is not None]
        what = "label map in a JPEG, which changes values"
        found[what] = [str(file) for file in files if file.suffix.lower() in _JPEGS]
        fixes[what] = "write PNGs from the source; or, of two classes, --threshold 128"
    found["the same picture before and after"] = [record.id for record in records if _is_twice(record)]
    return hints(found, fixes)


def _values(numbers: set[int], coding: Coding | None, tally: PixelTally, found: Found, fixes: dict[str, str]) -> None:
    """Traps in the values of labels that are numbers."""
    first = tally.seen.first
    is_index = coding is not None and coding.colours is None and coding.threshold is None
    if coding is not None and coding.others == "ignored":
        known: set[object] = {*(coding.colours or ()), *coding.ignored_colours}
        odd = [colour for colour in tally.seen.colours if colour not in known] if coding.colours else []
        found["colour of no class, which does not count"] = [
            f"#{r:02x}{g:02x}{b:02x}: {tally.seen.colours[r, g, b]} pixels, {first[r, g, b]}" for r, g, b in odd
        ]
    if not is_index or coding is None:
        return
    if numbers == {0, 255} and 255 in coding.ignored:
        what = "a mask of 0 and 255 read as classes: 255 does not count"
        found[what], fixes[what] = [first[255]], to_type(coding.classes[:2], (0, 255))
    many, values = len(coding.classes), coding.values or tuple(range(len(coding.classes)))
    plain = {value for value in numbers if value not in coding.ignored or value == 0}
    if 0 in values and many in plain and many not in values and plain <= set(range(many + 1)):
        what = f"values 0 to {many} for {many} classes: does 0 mean 'no class'?"
        found[what], fixes[what] = (
            [first[many]],
            to_type(coding.classes, range(1, many + 1), (0,)),
        )


def _is_twice(record: Record) -> bool:
    if len(record.images) != 2 or not all(image.is_file() for image in record.images):
        return False
    before, after = record.images
    return before.stat().st_size == after.stat().st_size and before.read_bytes() == after.read_bytes()


def _straddling(parts: dict[str, Walked]) -> list[Problem]:
    """Scenes, sequences or flights in two splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for name, part in parts.items():
        for record in part.records:
            splits[record.group].add(name)
    places = [f"{group}: {', '.join(sorted(own))}" for group, own in splits.items() if group and len(own) > 1]
    what = "group leakage: a scene (group) in two splits; a run that is measured on what it learned is refused"
    return hints({what: places})
