"""A data set of boxes in another format: everything that both can hold, and every loss counted.

What a format has no room for is said by its `Writer`. Objects that would become wrong without it are left out
(a crowd is not one object); the others lose it (a mask becomes its box, an oriented box its hull).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from vistruct.contracts import Record
from vistruct.data.at_path import boxes_at
from vistruct.data.cut_tiles import cut, write_tile
from vistruct.data.formats import find_format, names_of
from vistruct.data.formats.detect import splits_of
from vistruct.data.formats.format import Writer
from vistruct.data.formats.read import format_of, read
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.data.selection import check_random_split, drawn, group_of
from vistruct.errors import UserError, closest
from vistruct.files.intake import Intake
from vistruct.files.owned import new_folder, refuse
from vistruct.issues import IssueCounter
from vistruct.progress import tracking
from vistruct.windows.tiles import Tiles, Window

CROWD_LOST = "box left out: a crowd, for which the format has no sign"
DIFFICULT_LOST = "difficult flag lost: the format has none"
MASK_LOST = "mask lost: its box written"
QUAD_LOST = "oriented box lost: its horizontal hull written"
POINTS_LOST = "key points lost: the format has none"
EXTRA_LOST = "further fact about objects lost: the format has no room for it"
NOTES_LOST = "note on an image lost: the format has none"
CLASS_LOST = "class without objects lost: the format has no list of classes"

Pictures = Literal["copy", "link", "none"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written."""

    path: Path
    images: int
    objects: int
    read: IssueCounter  # what the reader left out or repaired
    lost: IssueCounter  # what could not be carried over


def convert(
    path: Path,
    out: Path,
    to: str,
    reading: Reading = AS_FOUND,
    *,
    split: str | None = None,
    pictures: Pictures = "copy",
    tiles: Tiles | None = None,
    random_split: Mapping[str, float] | None = None,
    split_seed: int = 0,
) -> Conversion:
    """Read a data set and write it as a new folder in another format.

    Args:
        path: the annotation file or folder.
        out: the folder to make.
        to: a format of boxes that is written.
        reading: which files and classes; see `data/reading.py`.
        split: which part of `path`; None: all, each in a folder of its name.
        pictures: whether they are copied, linked to (symbolically), or left where they are.
        tiles: cut large images into these; their pictures are written then. None: images stay whole.
        random_split: splits to draw anew, {"train": 0.8, "val": 0.2}: whole images (or what belongs together), before
            they are cut; the same as `BoxDataConfig.random_split` draws. None: as on disk.
        split_seed: which images fall to which split.

    Raises:
        UserError: `out` is there already, tiles whose pictures are not written, splits that are no
            fractions of one or more than there are images, and all that `read` and the format's `write` raise.
        OSError: no room, or no right to write there; nothing is left of `out` then.
    """
    out = Path(out)
    form = writer(to)
    refuse(out)
    check_random_split(random_split)
    found = read_parts(path, reading, AS_THEY_ARE, split=split)
    if random_split is not None:
        found = _drawn(found, random_split, split_seed, path)
    parts, class_names = dict(found.parts), found.class_names
    lost = IssueCounter()
    places: dict[str, Window] = {}  # of tiles, by their ids
    if tiles is not None and pictures != "copy":
        what = "tiles are pictures of their own"
        raise UserError(what, where=f"--pictures {pictures}", fix="--pictures copy")
    for name, whole in parts.items():
        if tiles is not None:
            whole, own_places, left_out = cut(whole, tiles)
            places |= own_places
            lost.merge(left_out)
        parts[name], own = fit(whole, form)
        lost.merge(own)
    used = {int(label) for records in parts.values() for one in records for label in one.objects.labels}
    for label, name in enumerate(class_names if not form.empty_classes else ()):
        if label not in used:
            lost.note(CLASS_LOST, name, "repaired")
    with new_folder(out) as unfinished:
        for name, records in parts.items():
            lost.merge(form.write(unfinished / name, records, class_names))
            if pictures != "none":
                _bring_images(records, unfinished / name / form.images, pictures, places)
        if found.splits and form.join is not None:
            form.join(unfinished, found.splits, class_names)
    objects = sum(len(record.objects) for records in parts.values() for record in records)
    images = sum(map(len, parts.values()))
    return Conversion(path=out, images=images, objects=objects, read=found.report, lost=lost)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A data set of boxes as it is written again: split by split, each in a folder of its name."""

    parts: Mapping[str, list[Record]]  # by split; "" where there are none, or one is asked for
    class_names: tuple[str, ...]  # of all together, so that their numbers are the same everywhere
    splits: tuple[str, ...]  # (): there are none
    report: IssueCounter  # what the reader left out or repaired
    intake: Intake | None  # how the images are taken in


def read_parts(path: Path, reading: Reading, values: PixelValues, *, split: str | None = None) -> Parts:
    """Read a data set of boxes with all of its splits, or those that are asked for as one.

    Raises:
        UserError: as `read`; no images, or one whose name leads out of its folder.
    """
    part = boxes_at(path, reading, values, split=split)
    if part.format != "auto":
        find_format(part.format, "boxes")  # says it where it is none
    part = part.model_copy(update={"format": format_of(path, "boxes", part.format, part.ask())})
    several = splits_of(path, part.format) if split is None else ()
    ask = replace(part.ask(), split="+".join(several) or split, attributes=True)
    walked, report = read(path, "boxes", format=part.format, ask=ask)
    parts = {"": walked.records}
    if several:
        chosen = replace(ask, classes=walked.class_names)
        parts = {
            one: read(path, "boxes", format=part.format, ask=replace(chosen, split=one))[0].records for one in several
        }
    if not walked.records:
        raise UserError("no images to convert", where=path, fix="`vistruct check` says more")
    _refuse_outside(walked.records, path)
    return Parts(parts=parts, class_names=walked.class_names, splits=tuple(several), report=report, intake=part.intake)


def _drawn(found: Parts, random_split: Mapping[str, float], seed: int, path: Path) -> Parts:
    """The same images in splits that are drawn.

    Raises:
        UserError: fewer images than splits.
    """
    records = [record for part in found.parts.values() for record in part]
    parts = {name: drawn(records, random_split, seed, [name], unit=group_of) for name in random_split}
    if not all(parts.values()):
        raise UserError(f"{len(records)} images for {len(random_split)} splits", where=path, fix="fewer --random-split")
    return replace(found, parts=parts, splits=tuple(random_split))


def written() -> dict[str, Writer]:
    """The formats of boxes that are written, with what each has room for."""
    return {name: found for name in names_of("boxes") if (found := find_format(name).writer) is not None}


def writer(name: str) -> Writer:
    """How a format of boxes, or `module:NAME`, is written.

    Raises:
        UserError: it is not written here.
    """
    is_known = ":" in name or name in names_of("boxes")
    found = find_format(name, "boxes").writer if is_known else None
    if found is None:
        what = f"{name!r} is read, but not written" if is_known else f"no box format {name!r}"
        raise UserError(what, fix=closest(name, written()))
    return found


def fit(records: Sequence[Record], form: Writer) -> tuple[list[Record], IssueCounter]:
    """The records without what a format has no room for, and what that was."""
    lost = IssueCounter()
    return [_fit_one(record, form, lost) for record in records], lost


def _fit_one(record: Record, form: Writer, lost: IssueCounter) -> Record:
    objects = record.objects
    if not form.is_crowd and objects.is_crowd.any():
        for number in objects.is_crowd.nonzero()[0]:
            lost.note(CROWD_LOST, f"{record.id}: object {number}")
        objects = objects.keep(~objects.is_crowd)
    for number in range(len(objects)):
        here = f"{record.id}: object {number}"
        if objects.is_difficult[number] and not form.is_difficult:
            lost.note(DIFFICULT_LOST, here, "repaired")
        if objects.masks is not None and objects.masks[number] and not form.masks:
            lost.note(MASK_LOST, here, "repaired")
        if objects.quads is not None and not form.quads:
            lost.note(QUAD_LOST, here, "repaired")
        if objects.keypoints is not None and objects.keypoints[number].any() and not form.keypoints:
            lost.note(POINTS_LOST, here, "repaired")
    for name in objects.extra if not form.extra else ():
        lost.note(EXTRA_LOST, f"{record.id}: {name}", "repaired")
    for key in record.notes if not form.notes else ():
        lost.note(NOTES_LOST, f"{record.id}: {key}", "repaired")
    return replace(
        record,
        objects=replace(
            objects,
            masks=objects.masks if form.masks else None,
            quads=objects.quads if form.quads else None,
            keypoints=objects.keypoints if form.keypoints else None,
            extra=objects.extra if form.extra else {},
        ),
        notes=record.notes if form.notes else {},
    )


def _refuse_outside(records: Sequence[Record], where: Path) -> None:
    for record in records:
        name = PurePosixPath(record.id)
        if name.is_absolute() or ".." in name.parts:
            what = f"the name of an image leads out of its folder: {record.id}"
            raise UserError(what, where=where, fix="rename it in the annotations, and give the folder of the images")


def _bring_images(records: Sequence[Record], folder: Path, how: Pictures, places: Mapping[str, Window]) -> None:
    with tracking("images", 0, len(records)) as show:
        for done, record in enumerate(records, start=1):
            target = folder / record.id
            target.parent.mkdir(parents=True, exist_ok=True)
            if record.id in places:
                write_tile(record, places[record.id], target)
            elif how == "copy":
                shutil.copyfile(record.images[0], target)
            else:
                target.symlink_to(record.images[0].resolve())
            show(done, "")
