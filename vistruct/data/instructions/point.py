"""Annotations become instructions that point: one line of jsonl after the other, in constant memory.

What a source says of an image (`Known`) is asked about and written before the next image is read. Of annotations in the
formats that train a detector, pictures are planned as those of plain instructions are: whole, or as crops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import Window
from vistruct.data.formats.chat import schemas as chat
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.annotated import cut, open_annotated
from vistruct.data.instructions.compose import conversations
from vistruct.data.instructions.converse import Tally
from vistruct.data.instructions.known import Known
from vistruct.data.instructions.tasks import TASKS
from vistruct.data.instructions.write import FILE, SILENT, keep_apart, plan_pictures, save_crop
from vistruct.data.known import SOURCES, detect, find_source
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError, closest
from vistruct.files.intake import Intake
from vistruct.files.owned import Owned
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image, or a window of it, that is asked about."""

    known: Known
    window: Window | None = None  # that is cut out and written; None: the image stays where it is
    turn: int = 0


@dataclass(kw_only=True)
class Pointed:
    """What was written, for the table that the command prints and for tests of balance."""

    path: Path
    names: tuple[str, ...] = tuple(TASKS)  # what was asked for
    tally: Tally = field(default_factory=Tally)
    seen: int = 0  # pictures that were looked at
    pictures: int = 0  # of them, asked about
    crops: int = 0  # of these, cut out and written
    lines: int = 0
    marks: Counter[tuple[str, str]] = field(default_factory=Counter)  # by "prompt" or "unit", and its name
    had: Counter[str] = field(default_factory=Counter)  # pictures that had what a need of NEEDS says
    report: IssueCounter = field(default_factory=IssueCounter)

    def rows(self) -> list[tuple[str, str, str, int, str]]:
        """(task type, given, answer, how many, its commonest answers with their shares)."""
        return [
            (name, TASKS[name].given, TASKS[name].answer, self.tally.families[name], self._shares(name))
            for name in self.names
            if self.tally.families[name]
        ]

    def missing(self) -> dict[str, str]:
        """Task types that were asked for and not written, and why."""
        return {name: self._why(name) for name in self.names if not self.tally.families[name]}

    def line(self) -> str:
        """In words: how many questions, about what, with what marks."""
        kinds = ", ".join(f"{count} {name}" for (_, name), count in sorted(self.marks.items()))
        cut_out = f", {self.crops} of them crops" if self.crops else ""
        asked = self.tally.families.total()
        about = f"{self.pictures} pictures{cut_out}"
        return f"{asked} questions in {self.lines} conversations about {about}; marks: {kinds or 'none'}"

    def _shares(self, name: str) -> str:
        return ", ".join(f"{answer} {share:.0%}" for answer, share in self.tally.shares(name)[:3])

    def _why(self, name: str) -> str:
        lacking = [need for need in TASKS[name].needs if not self.had[need]]
        return f"no {' and no '.join(lacking)}" if lacking else "in no picture does one fit and is not worn out"


def write_pointing(
    source: Path,
    out: Path,
    *,
    reading: Reading = AS_FOUND,
    split: str | None = None,
    values: PixelValues = AS_THEY_ARE,
    crops: int | None = None,
    crop_size: tuple[int, int] | None = None,
    rot90: bool = False,
    tasks: Sequence[str] = tuple(TASKS),
    per_image: int | None = None,
    turns: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pointed:
    """Write `out/instructions.jsonl` with conversations that point at objects, and crops to `out/images`.

    Args:
        source: annotations of any family, or a public source of `data.known.SOURCES`.
        reading: which of its files and classes; `format` may be a name of SOURCES.
        crops: see `write_instructions`; with `crop_size` and `rot90` of annotations, not of public sources.
        tasks: names of TASKS that may be asked.
        per_image: conversations about a picture, at most; None: as many as use what was said of it, at least one.
        turns: questions in a conversation, at most.
        seed: the same seed writes the same files.
        progress: called with (pictures done, all of them or None where that is not known).

    Raises:
        UserError: an unknown task type, or what says that a source cannot be read; nothing to ask.
    """
    for name in tasks:
        if name not in TASKS:
            raise UserError(f"no task type {name!r}", where=f"--task {name}", fix=closest(name, TASKS))
    summary = Pointed(path=out / FILE, names=tuple(name for name in TASKS if name in tasks))
    public = _public(source, reading)
    if public is not None:
        if crops is not None or crop_size is not None or rot90:
            what = "crops and rotated pictures are made of annotations, not of public sources"
            raise UserError(what, where=source, fix="leave --crops, --crop-size and --rot90 out")
        images = None if reading.images is None else Path(reading.images)
        ask = Ask(split=split, images=images, missing=reading.missing)
        total, intake = None, None
        pictures: Iterable[Picture] = (
            Picture(known=known) for known in find_source(public).read(source, ask, summary.report)
        )
    else:
        found = open_annotated(source, reading, values, split)
        summary.report.merge(found.report)
        intake = found.intake
        if intake is not None and intake.pixels != "uint8":
            raise UserError("pictures are of three channels of 8 bits", where=source, fix="--bands 1,2,3 --dtype uint8")
        keep_apart(found.records, out / "images")
        planned = _planned(found.records, crops, crop_size, seed, summary.report, is_cut=found.kind == "boxes")
        total = len(planned)
        pictures = (
            Picture(known=found.known(record), window=window, turn=_turn(seed, number) if rot90 else 0)
            for number, (record, window) in enumerate(planned)
        )
    write_lines(pictures, out, summary, intake, total, per_image, turns, seed, progress)
    return summary


def _public(source: Path, reading: Reading) -> str | None:
    """The public source that is meant; None: annotations in another format."""
    if reading.format in SOURCES:
        return reading.format
    found = detect(source) if reading.format == "auto" else ()
    if len(found) > 1:
        what = f"this may be one of several public sources: {', '.join(found)}"
        raise UserError(what, where=source, fix=f"say which: --format {found[0]}")
    return found[0] if found else None


def _planned(records: Any, crops: int | None, crop_size: Any, seed: int, report: IssueCounter, *, is_cut: bool) -> Any:
    """Records with their windows; None: whole as they are, without a look at their size."""
    if not is_cut:
        if crops is not None or crop_size is not None:
            raise UserError("crops are made around boxes", fix="leave --crops and --crop-size out")
        return [(record, None) for record in records]
    if not any(len(record.objects) for record in records):
        raise UserError("no objects to ask about", fix="give a data set with images and boxes")
    return plan_pictures(records, crops, crop_size, seed, report)[0]


def _turn(seed: int, number: int) -> int:
    return int(np.random.default_rng(derive(seed, "turn", number)).integers(8))


def write_lines(
    pictures: Iterable[Picture],
    out: Path,
    summary: Pointed,
    intake: Intake | None = None,
    total: int | None = None,
    per_image: int | None = None,
    turns: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Ask about one picture after the other; nothing is kept of those before but counts."""
    owned, kept = Owned(out, "instruct"), {FILE}
    owned.check([summary.path])
    with owned.held():
        with owned.making(summary.path) as place:
            chat.write(place, _rows(pictures, owned, kept, summary, intake, total, per_image, turns, seed, progress))
            if not summary.lines:
                why = "; ".join(f"{name}: {why}" for name, why in list(summary.missing().items())[:3])
                raise UserError(f"nothing could be asked about any picture: {why}", where=out, fix="other --task types")
        for name in {*owned.listed} - kept:
            owned.remove(out / name)  # of other instructions than these


def _rows(
    pictures: Iterable[Picture],
    owned: Owned,
    kept: set[str],
    summary: Pointed,
    intake: Intake | None,
    total: int | None,
    per_image: int | None,
    turns: int,
    seed: int,
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """The lines; the crops that they are about are written, what was asked is counted."""
    root = owned.folder.resolve()
    for number, picture in enumerate(pictures):
        rng = np.random.default_rng(derive(seed, "picture", number))
        known, window = picture.known, picture.window
        if window is not None:
            known = cut(known, window, picture.turn)
            if known is picture.known and intake is None:
                window = None  # all of it, where it lies
            else:
                known = replace(known, id=f"{known.id}-{number}")
        summary.seen += 1
        asked: dict[str, Any] = {"names": summary.names, "per_image": per_image, "turns": turns, "had": summary.had}
        records = list(conversations(known, rng, summary.tally, **asked))
        if not records:
            summary.report.note(SILENT, known.id)
            continue
        summary.pictures += 1
        image = known.image
        if window is not None:
            name = save_crop(owned, number, known.image, window, picture.turn, intake)
            kept.add(name)
            image, summary.crops = owned.folder / name, summary.crops + 1
        for record in records:
            summary.lines += 1
            for turn in record.turns:
                summary.marks.update(("unit", unit) for unit in turn.units)
                summary.marks.update(("prompt", f"{prompt} prompts") for prompt in turn.prompts)
            row = chat.row(replace(record, images=(image.resolve(),)), root)
            size = {} if known.size_hw is None else {"width": known.size_hw[1], "height": known.size_hw[0]}
            yield row | size
        if progress is not None:
            progress(number + 1, total)
