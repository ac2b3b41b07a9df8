"""What an annotation says of images, on its way to records: the same for every format of captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vistruct.contracts import Record
from vistruct.data.formats.boxes.coco_find import find_images
from vistruct.data.formats.boxes.image_names import ImageFolder, record_ids
from vistruct.data.formats.boxes.objects import MISSING_IMAGE, WHERE_IMAGES
from vistruct.data.formats.classes.lines import chosen_splits, refuse_straddlers
from vistruct.data.formats.format import Ask, Stop
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

EMPTY = "caption left out: nothing is in it"
TWICE = "caption that an image has twice"
NO_CAPTION = "image left out: it has no caption"
COCO_ID = "coco_id"  # note of a record: the number by which results of COCO's tools name its image

_END_NUMBER = re.compile(r"(?:.*\D)?0*(\d{1,18})")
_TRIED = 20  # images looked for in each folder


@dataclass(frozen=True, kw_only=True)
class Said:
    """One image, as its annotation names it, and what is said of it."""

    name: str
    where: str  # file and line, or entry
    captions: list[str] = field(default_factory=list)
    split: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def records_of(
    found: Sequence[Said], annotation: Path, ask: Ask, report: IssueCounter, stop: Stop, *, is_split: bool = True
) -> list[Record]:
    """The images of the splits asked for that are on disk and have a caption.

    Args:
        is_split: whether the annotation may name splits, of which `ask.split` chooses.
    """
    if is_split:
        known = list(dict.fromkeys(one.split for one in found))
        refuse_straddlers(
            {split: [one.name for one in found if one.split == split] for split in known}, stop, annotation
        )
        names = chosen_splits(ask.split, known, annotation) if known != [""] or ask.split is not None else known
        found = [one for one in found if one.split in names]
    folder = folder_of(annotation, [one.name for one in found], ask.images)
    records: list[Record] = []
    for id, one in zip(record_ids([one.name for one in found]), found, strict=True):
        captions = spoken(one.captions, one.where, report)
        if not captions:
            report.note(NO_CAPTION, f"{one.where}: {one.name}")
            continue
        path = folder.find(one.name)
        if path is None:
            what = UserError("a listed image is not on disk", where=f"{one.where}: {one.name}", fix=WHERE_IMAGES)
            stop(what) if ask.missing == "stop" else report.note(MISSING_IMAGE, f"{one.where}: {one.name}")
            continue
        records.append(Record(id=id, images=(path,), captions=captions, notes=one.notes))
    return records


def spoken(captions: Sequence[str], where: str, report: IssueCounter) -> tuple[str, ...]:
    """Captions with single blanks between their words, without those of no words."""
    kept = []
    for caption in captions:
        plain = " ".join(caption.split())
        if not plain:
            report.note(EMPTY, where)
            continue
        if plain in kept:
            report.note(TWICE, f"{where}: {plain}", "kept")
        kept.append(plain)
    return tuple(kept)


def end_numbers(names: Sequence[str]) -> list[int]:
    """The numbers that names of images end in, as COCO's do; nothing where some end in none, or two in the same."""
    found = [_END_NUMBER.fullmatch(PurePosixPath(name).stem) for name in names]
    numbers = [int(match[1]) for match in found if match is not None]
    return numbers if len(set(numbers)) == len(names) else []


def folder_of(annotation: Path, names: Sequence[str], images: Path | None) -> ImageFolder:
    """The folder that the names of images start from: the one that is said, else one of a known place, else any
    folder beside the annotation that has them all.

    Raises:
        UserError: different files of the same names in two folders.
    """
    if images is not None:
        return ImageFolder(images, is_named=True)
    best = ImageFolder(find_images(annotation, names), is_named=False)
    tried = names[:: max(1, len(names) // _TRIED)][:_TRIED]
    if all(best.find(name) for name in tried):
        return best
    beside = (ImageFolder(place, is_named=False) for place in sorted(annotation.parent.iterdir()) if place.is_dir())
    return next((folder for folder in beside if all(folder.find(name) for name in tried)), best)


def merged(rows: Sequence[Said]) -> list[Said]:
    """Rows of one caption each as images with all of theirs, in the order in which they come first; those of one image
    in two splits stay apart."""
    found: dict[tuple[str, str], Said] = {}
    for row in rows:
        known = found.setdefault((row.name, row.split), row)
        if known is not row:
            known.captions.extend(row.captions)
    return list(found.values())
