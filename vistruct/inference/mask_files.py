"""A data set of boxes made into one of masks: looked at image by image, kept, judged, written as COCO json.

    OUT/annotations.json     of several splits OUT/SPLIT/annotations.json; masks as run lengths, `quad` beside them
    OUT/images/...           copies or links; the objects of all images, also of those without any
    OUT/painted/a.png        label maps, where they are asked for (`mask_maps.py`)
    OUT/report.html

What was found stays in OUT/.vistruct/parts, image by image, before any rule: a run that was killed goes on there, and
other rules need no second look.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.convert import Parts as Source
from vistruct.data.convert import Pictures, read_parts
from vistruct.data.formats.boxes import coco
from vistruct.data.reading import PixelValues, Reading
from vistruct.errors import UserError
from vistruct.files.geo import num_channels
from vistruct.files.owned import Owned
from vistruct.inference.cache import Parts
from vistruct.inference.mask_maps import map_files, write_map
from vistruct.inference.masks_from_boxes import (
    NO_TILE,
    Asked,
    Outcome,
    digest,
    judged,
    look,
    own_masks,
    packed,
    unpacked,
)
from vistruct.inference.segmenter import Segmenter, check_segmenter, load_segmenter
from vistruct.issues import IssueCounter
from vistruct.progress import notice, tracking

Broken = list[tuple[str, UserError]]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One image, with what became of its objects."""

    split: str
    record: Record
    outcomes: list[Outcome]

    @property
    def name(self) -> str:
        """Unique among all splits."""
        return f"{self.split}/{self.record.id}" if self.split else self.record.id


@dataclass(frozen=True, kw_only=True)
class MadeMasks:
    """What was written."""

    path: Path
    images: int
    objects: int
    masks: int
    read: IssueCounter  # what the reader left out or repaired
    issues: IssueCounter  # masks rejected, replaced and kept
    broken: Broken  # images that could not be read, and why
    report: Path


def make_masks(
    path: Path,
    out: Path,
    reading: Reading,
    values: PixelValues,
    *,
    asked: Asked,
    sam: Path | None = None,
    split: str | None = None,
    pictures: Pictures = "copy",
    maps: bool = False,
) -> MadeMasks:
    """Make masks of the boxes of a data set, and write it with them.

    Args:
        path: annotated boxes in any format.
        out: folder of the results; what was found there before is gone on from.
        sam: folder of the segmenter; None: filled as `asked` says.
        maps: write label maps too.

    Raises:
        UserError: as `read_parts` and `load_segmenter`; no boxes, masks that are there already, prompts that the boxes
            do not have, images of other than three channels, files in the way that are not ours.
    """
    if sam is not None:
        check_segmenter(sam)
    _keep_apart(path, out)
    source = read_parts(path, reading, values, split=split)
    _check(path, source, asked)
    owned = Owned(out, "masks")
    every = [(name, record) for name, records in source.parts.items() for record in records]
    targets = {out / name / "images" / record.id: record.images[0] for name, record in every}
    painted = {name: map_files(out / name, records) if maps else {} for name, records in source.parts.items()}
    files = [out / "report.html", *(out / name / "annotations.json" for name in source.parts)]
    files += [file for some in painted.values() for file in some.values()]
    targets = {} if pictures == "none" else targets
    left = {file: given for file, given in targets.items() if not _is_there(file, given, owned, pictures)}
    owned.check([*files, *left], [file for _, record in every for file in record.images])
    segmenter = None if sam is None else load_segmenter(sam)
    issues = IssueCounter()
    with owned.held():
        settings = asked.looked | {"segmenter": None if segmenter is None else segmenter.digest}
        parts = Parts(
            owned.home / "parts", settings | {"intake": source.intake and source.intake.model_dump(mode="json")}
        )
        broken = _look_at_all(every, asked, segmenter, source, parts, out)
        gone = {name for name, _ in broken}
        if every and len(gone) == len(every):
            raise broken[0][1]
        done = [one for name, record in every if (one := _judged(name, record, asked, parts, issues)).name not in gone]
        _bring(owned, left, pictures)
        for name in source.parts:
            records = [_with_masks(one) for one in done if one.split == name]
            with owned.making(out / name / "annotations.json") as place:
                coco.write(place, records, source.class_names)
            _paint(owned, painted[name], records, source.class_names)
        from vistruct.inference.masks_report import masks_report

        with owned.making(out / "report.html") as place:
            page = masks_report(path, done, source, asked, issues, parts, [name for name, _ in broken])
            place.write_text(page, encoding="utf-8")
        kept = {file.relative_to(out).as_posix() for file in (*files, *targets)}
        for name in {*owned.listed} - kept:
            owned.remove(out / name)  # of other images than these
    return MadeMasks(
        path=out,
        images=len(done),
        objects=sum(len(one.outcomes) for one in done),
        masks=sum(bool(outcome.mask) for one in done for outcome in one.outcomes),
        read=source.report,
        issues=issues,
        broken=broken,
        report=out / "report.html",
    )


def _keep_apart(path: Path, out: Path) -> None:
    """
    Raises:
        UserError: the results would lie in the folder of the data, and be read as part of it.
    """
    top, place = (path if path.is_dir() else path.parent).resolve(), Path(out).resolve()
    if place == top or (path.is_dir() and top in place.parents):
        fix = f"--out {shlex.quote(f'{top}-masks')}"
        raise UserError("the results would become part of the data set", where=f"--out {out}", fix=fix)


def _check(path: Path, source: Source, asked: Asked) -> None:
    """
    Raises:
        UserError: what `make_masks` says of the data.
    """
    records = [record for part in source.parts.values() for record in part]
    total = sum(len(record.objects) for record in records)
    if not total:
        what = f"no boxes in {len(records)} images"
        raise UserError(what, where=path, fix="`vistruct check` says what was left out, and why")
    names = {name for prompt in asked.prompts for name in prompt}
    if asked.fill is None and {"hull", "quad"} & names and all(record.objects.quads is None for record in records):
        raise UserError("no oriented boxes in this data", where=f"--prompt {'+'.join(names)}", fix="--prompt box")
    have = sum(
        bool(mask) and not is_crowd
        for record in records
        for mask, is_crowd in zip(own_masks(record), record.objects.is_crowd, strict=True)
    )
    if have and asked.existing is None:
        what = f"{have} of {total} objects have masks already"
        raise UserError(what, where=path, fix="say what becomes of them: --existing keep, or --existing replace")
    intake = source.intake
    if asked.fill is None and (
        num_channels(records[0], intake) != 3 or (intake is not None and intake.pixels != "uint8")
    ):
        fix = "three bands in 8 bits: --bands 1,2,3 --low 0 --high 3000 --dtype uint8 (with values of yours)"
        raise UserError("a segmenter looks at three channels of 8 bits", where=records[0].images[0], fix=fix)


def _look_at_all(
    every: Sequence[tuple[str, Record]],
    asked: Asked,
    segmenter: Segmenter | None,
    source: Source,
    parts: Parts,
    out: Path,
) -> Broken:
    """Look at every image that is not done yet; the ones that could not be read."""
    if not parts.is_noted("settings", parts.settings):
        if (parts.folder / "settings.json").exists():
            notice(f"{out}: other prompts, tiles or another segmenter than last time: all images again")
        parts.note("settings", parts.settings)
    broken: Broken = []
    before = 0
    with tracking("masks", done=0, total=len(every)) as show:
        for number, (split, record) in enumerate(every, 1):
            name = f"{split}/{record.id}" if split else record.id
            if _is_done(name, record, asked, parts):
                before += 1
            else:
                try:
                    found = look(record, _rows(record, asked), asked, segmenter, source.intake)
                    parts.write(name, record.images, packed(*found, record))
                except UserError as error:
                    notice(f"{name} is left out: {error.what}")
                    broken.append((name, error))
            show(number, name)
    if before:
        notice(f"{out}: {before} of {len(every)} images are done already")
    return broken


def _rows(record: Record, asked: Asked) -> np.ndarray:
    """int64[K], the objects that masks are made for."""
    own = own_masks(record)
    keeps = [bool(mask) and asked.existing == "keep" for mask in own]
    return np.flatnonzero(~(record.objects.is_crowd | np.array(keeps, bool)))


def _is_done(name: str, record: Record, asked: Asked, parts: Parts) -> bool:
    if not parts.has(name, record.images):
        return False
    values = parts.read(name)
    rows = _rows(record, asked).tolist()
    return values["objects"] == digest(record) and {one["row"] for one in values["rows"]} >= {*rows}


def _judged(split: str, record: Record, asked: Asked, parts: Parts, issues: IssueCounter) -> Judged:
    one = Judged(split=split, record=record, outcomes=[])
    if not parts.has(one.name, record.images):
        return one  # broken
    values = parts.read(one.name)
    for _ in range(values["alone"]):
        issues.note(NO_TILE, one.name, "kept")
    return replace(one, outcomes=judged(record, own_masks(record), unpacked(values), asked, issues))


def _with_masks(one: Judged) -> Record:
    """The record with its masks, and what is known of each as columns."""
    columns = {
        "mask_by": tuple(outcome.by for outcome in one.outcomes),
        "mask_rejected": tuple(outcome.reason or None for outcome in one.outcomes),
        "predicted_iou": tuple(_rounded(outcome.iou) for outcome in one.outcomes),
        "mask_inside": tuple(_rounded(outcome.inside) for outcome in one.outcomes),
        "mask_covered": tuple(_rounded(outcome.covered) for outcome in one.outcomes),
    }
    masks: tuple[Any, ...] = tuple(outcome.mask for outcome in one.outcomes)
    return one.record.with_columns(masks=masks, extra={**one.record.objects.extra, **columns})


def _paint(owned: Owned, files: Mapping[str, Path], records: Sequence[Record], class_names: Sequence[str]) -> None:
    with tracking("label maps", 0, len(records), quiet=not files) as show:
        for done, record in enumerate(records if files else (), start=1):
            with owned.making(files[record.id]) as place:
                write_map(place, record, class_names)
            show(done, "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _is_there(file: Path, given: Path, owned: Owned, how: Pictures) -> bool:
    """Whether an image has been brought, as it is now."""
    if how == "link":
        return file.is_symlink() and file.resolve() == given.resolve()
    if not owned.is_ours(file):
        return False
    mine, theirs = file.stat(), given.stat()
    return mine.st_size == theirs.st_size and mine.st_mtime_ns >= theirs.st_mtime_ns


def _bring(owned: Owned, left: dict[Path, Path], how: Pictures) -> None:
    with tracking("images", 0, len(left), quiet=not left) as show:
        for done, (file, given) in enumerate(left.items(), start=1):
            if how == "link":
                file.parent.mkdir(parents=True, exist_ok=True)
                owned.remove(file)
                os.symlink(given.resolve(), file)
            else:
                with owned.making(file) as place:
                    shutil.copyfile(given, place)
            show(done, "")
