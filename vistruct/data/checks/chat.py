"""What is in conversations and what is wrong with them, found by the same code that opens them for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.account import Account
from vistruct.data.chat.image_facts import FOUND
from vistruct.data.chat.mix import read_mix
from vistruct.data.chat.records import Records, Source
from vistruct.data.chat.sources import IMAGE_MISSING, IMAGE_UNREADABLE, Opened, Wanted, open_source, short
from vistruct.data.checks.images import decoded, sizes_in_words, tiny_images
from vistruct.data.checks.parts import Findings
from vistruct.data.checks.pointed import Marks
from vistruct.data.checks.problem import Problem, counted
from vistruct.data.formats.boxes.objects import ROUNDING_PX
from vistruct.data.formats.chat.text_boxes import is_boxes, note_of_boxes, read_boxes, scale_of
from vistruct.data.formats.chat.turns import PIXEL_BOXES, UNIT_BOXES, Defect
from vistruct.data.formats.detect import Family
from vistruct.errors import UserError
from vistruct.files.depth import is_depth, paths_of
from vistruct.issues import IssueCounter

ENOUGH_BOXES = 8  # answers, to say something of all


def look(
    family: Family, images: Path | None, max_left_out: float, decode_at_most: int | None, errors: list[UserError]
) -> Findings:
    """The data sets of conversations that can be opened, and all that is wrong in them."""
    annotation = family.path
    wanted = [Wanted(name="", annotation=annotation, root=annotation.parent if images is None else images)]
    report = IssueCounter()
    opened: list[Opened] = []
    try:
        if family.format == "mix":
            wanted, report = read_mix(annotation, images)
    except UserError as error:
        errors.append(error)
        wanted = []
    for one in wanted:
        try:
            opened.append(open_source(one, checksums=decode_at_most is None))
        except UserError as error:
            errors.append(error)
    problems = [problem for one in opened for problem in _faults(one, max_left_out)]
    if opened and not any(one.account.used for one in opened):
        problems.append(Problem(what="no conversations are left", effect="stops training", count=1))
    records = Records([replace(one.source, repeats=1) for one in opened])
    seen: dict[Path, tuple[int, int]] = {}
    beyond: list[str] = []
    no_depth: list[str] = []
    marks = Marks()
    reach: list[float] = []  # of each answer that is boxes in our scale, its largest number
    for number, record in enumerate(records):
        source, row, _ = records.at(number)
        seen |= dict(zip(record.images, source.sizes_hw(row), strict=True))
        if len(record.objects):
            beyond += _beyond(records, number, record)
            marks.add(record, source.index.offsets.whole_place(row))
        no_depth += _no_depth(records, number, record)
        for turn in record.turns:
            if turn.role == "assistant" and is_boxes(turn.text) and (boxes := read_boxes(turn.text)) is not None:
                reach += [boxes.max()] if scale_of(boxes) == "0 to 1000" else []
    paths = list(seen)
    pointed = dict(sorted(marks.counts.items()))
    sizes, no_colours = (seen, []) if decode_at_most is None else decoded(paths[:decode_at_most], errors)
    return Findings(
        counts={
            "images": len(paths),
            **count_turns(records),
            **pointed,
            "images decoded": len(paths[:decode_at_most]),
        },
        data_sets={one.account.name: in_numbers(one.account) for one in opened if one.account.name},
        sizes=sizes_in_words(sizes.values()),
        problems=[
            *problems,
            *counted(report),
            *marks.problems(),
            *_hint(beyond),
            *_missing(no_depth),
            *_percent(reach),
            *no_colours,
            *tiny_images(sizes),
        ],
    )


def _faults(opened: Opened, max_left_out: float) -> list[Problem]:
    """What is wrong with a data set's lines, each kind with all its places."""
    account, source = opened.account, opened.source
    effect = "stops training" if account.share_left_out > max_left_out else "left out"
    prefix = f"{account.name}: " if account.name else ""
    problems = []
    for reason, rows in opened.faults.items():
        is_image = reason in (IMAGE_MISSING, IMAGE_UNREADABLE)
        places = tuple(
            source.index.offsets.whole_place(row) + (_bad_image(source, row) if is_image else "") for row in rows
        )
        fix = f"images are sought from {source.root}" if is_image else _defect_of(source, rows[0])
        if reason == IMAGE_UNREADABLE:
            fix = _damage(source, rows[0])
        problems.append(Problem(what=prefix + reason, effect=effect, count=len(rows), places=places, fix=fix))
    for problem in counted(account.repaired):
        is_of_boxes = problem.what in (UNIT_BOXES, PIXEL_BOXES)
        fix = _answer_in(source, problem.what) if is_of_boxes else problem.fix
        problems.append(replace(problem, what=prefix + problem.what, fix=fix))
    return problems


def _answer_in(source: Source, note: str) -> str:
    """The first answer of which this is said, and what it means."""
    row = int(source.index.noted(source.rows)[note][0])
    answer = next(turn.text for turn in source.record(row).turns if note_of_boxes(turn.text) == note)
    return f"here {answer:.80}; it is learned and measured as it stands, and other tools ask for 0 to 1000"


def _bad_image(source: Source, row: int) -> str:
    """`: a.jpg`, the first image of a row that is missing or unreadable."""
    images = zip(source.index.talk(row).images, source.index.images_of(row), strict=True)
    return next((f": {short(name)}" for name, image in images if source.facts.status[image] != FOUND), "")


def _damage(source: Source, row: int) -> str:
    """What exactly is wrong with the first image of a row that cannot be read, and what to do."""
    images = zip(source.index.talk(row).images, source.index.images_of(row), strict=True)
    bad = [source.root / name for name, image in images if source.facts.status[image] != FOUND]
    errors: list[UserError] = []
    decoded(bad[:1], errors)
    return "; ".join(f"{error.what}: {error.fix}" for error in errors)


def _defect_of(source: Source, row: int) -> str:
    """What exactly is wrong with a line that cannot be used, and what to do."""
    try:
        source.index.talk(row).filled(source.sizes_hw(row))
    except Defect as defect:
        return f"{defect.what}: {defect.fix}"
    return ""


def _beyond(records: Records, number: int, record: Record) -> list[str]:
    """Where objects that turns point at lie outside their image."""
    source, row, _ = records.at(number)
    sizes = np.array(source.sizes_hw(row), np.float64).reshape(-1, 2)
    boxes, of = record.objects.boxes_xyxy, list(record.objects.extra.get("images", [0] * len(record.objects)))
    if not len(sizes):
        return []
    is_out = (boxes[:, 2:] > sizes[of, ::-1] + ROUNDING_PX).any(axis=1) | (boxes[:, :2] < -ROUNDING_PX).any(axis=1)
    return [f"{source.index.offsets.whole_place(row)}: object {at}" for at in np.flatnonzero(is_out)]


def _no_depth(records: Records, number: int, record: Record) -> list[str]:
    """Where depth maps are not on disk."""
    paths = [path for mask in record.objects.masks or () if is_depth(mask) for path in paths_of(mask)]
    source, row, _ = records.at(number)
    return [f"{source.index.offsets.whole_place(row)}: {path}" for path in paths if not Path(path).is_file()]


def _missing(no_depth: list[str]) -> list[Problem]:
    if not no_depth:
        return []
    what, fix = "depth map that is not on disk", "its path starts from the folder that the images' paths start from"
    return [Problem(what=what, effect="stops training", count=len(no_depth), places=tuple(no_depth), fix=fix)]


def _hint(beyond: list[str]) -> list[Problem]:
    what = "object that a conversation points at, over the border of its image"
    return [Problem(what=what, effect="kept", count=len(beyond), places=tuple(beyond))] if beyond else []


def _percent(reach: list[float]) -> list[Problem]:
    """Boxes that all lie in the first tenth of 0 to 1000."""
    if len(reach) < ENOUGH_BOXES or max(reach) > 100:
        return []
    what = "answer whose boxes reach no further than 100 of 1000, as do all: shares of 100?"
    fix = "if so, write each number ten times as large: the model is asked for 0 to 1000"
    return [Problem(what=what, effect="kept", count=len(reach), fix=fix)]


def in_numbers(account: Account) -> dict[str, int]:
    """An account without its reasons."""
    numbers = {"lines": account.lines, "used": account.used, "beyond the fraction asked for": account.beyond}
    return {**numbers, "left out": account.left_out.counts.total(), "repeats": account.repeats}


def count_turns(records: Sequence[Record]) -> dict[str, int]:
    """What all conversations have together."""
    turns = without = several = objects = pointed = 0
    answers: Counter[str] = Counter()
    for record in records:
        turns += len(record.turns)
        without += not record.images
        several += len(record.images) > 1
        objects += len(record.objects)
        pointed += sum(len(turn.points) for turn in record.turns)
        answers.update(turn.text for turn in record.turns if turn.role == "assistant")
    return {
        "conversations": len(records),
        "turns": turns,
        "answers": answers.total(),
        "different answers": len(answers),
        "without an image": without,
        "with several images": several,
        **({"objects": objects, "marks that point at them": pointed} if objects else {}),
    }
