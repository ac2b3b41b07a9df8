"""Osprey-724K: conversations about regions of COCO's images, and descriptions of them.

    osprey_conversation.json, osprey_short_form.json, osprey_part_level.json, osprey_lvis_positive_negative.json
        [{"file_name", "height", "width", "annotation": [{"segmentation"}], "conversations": [{"from", "value"}]}]
    osprey_detail_description.json
        the same with "description": ["<region1>: A brown dog.", ...] in the place of a conversation

`<region2>` in a question is a mark that points at the second annotation. Where an answer names regions by their
numbers, the numbers stay beside the marks; a region that no question has shown before is shown by the question whose
answer names it. Questions of the short forms ask for a word or a phrase. A description is known of its region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, REGION_MARK, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Said
from vistruct.data.known.shapes import add_mask, pairs
from vistruct.data.known.source import (
    LOST_OBJECT,
    NO_ENTRY,
    Board,
    Images,
    Source,
    answered,
    asked,
    keys_at,
    told_size,
    words,
)
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

NO_REGION = "conversation left out: it speaks of a region that is not annotated"
SHORT = " Answer with a word or a short phrase."
_SHORT_FORMS = ("short_form", "part_level")  # in names of files
_REGION = re.compile(r"<region(\d+)>")
_TOLD = re.compile(r"\s*<region(\d+)>\s*:\s*(.*)", re.DOTALL)


def looks_like(path: Path) -> bool:
    """Whether its first entry has regions and what is said of them."""
    keys = keys_at(path)
    return {"file_name", "annotation"} <= keys and bool({"conversations", "description"} & keys)


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An entry after the other."""
    hint = SHORT if any(form in path.stem for form in _SHORT_FORMS) else ""
    names = (name for _, entry in _entries(path, IssueCounter()) for name in _names(entry))
    images = Images.of(names, (path.parent, path.parent.parent), ask, report)
    for where, entry in _entries(path, report):
        name = entry["file_name"]
        image = images.find(_names(entry), where, told_size(entry))
        if image is None:
            continue
        board = Board(image, report)
        rows = [
            add_mask(board, one.get("segmentation") if isinstance(one, dict) else None, f"{where}, region {number}")
            for number, one in enumerate(entry["annotation"], start=1)
        ]
        talk = _talk(entry["conversations"], rows, hint, where, report) if entry.get("conversations") else ()
        regions = _descriptions(entry.get("description") or [], rows, where, report)
        if talk or regions:
            yield board.known(f"{name}#{where.rpartition(' ')[2]}", talks=(talk,) if talk else (), regions=regions)


def _talk(turns: Any, rows: Sequence[int | None], hint: str, where: str, report: IssueCounter) -> tuple[Turn, ...]:
    """A conversation with marks; nothing where it cannot be used, counted."""
    said = pairs(turns, where, report)
    named = [(_numbers(question), _numbers(answer)) for question, answer in said]
    every = {number for pair in named for numbers in pair for number in numbers}
    if any(not 0 < number <= len(rows) for number in every):
        report.note(NO_REGION, where)
        return ()
    if any(rows[number - 1] is None for number in every):
        report.note(LOST_OBJECT, where)
        return ()
    mark = rf"region\1{REGION_MARK}" if any(answer for _, answer in named) else REGION_MARK
    shown, out = set[int](), list[Turn]()
    for (question, answer), (asked_of, told_of) in zip(said, named, strict=True):
        new = sorted({*told_of} - {*asked_of, *shown})
        plain, told = words(question, where, report), words(_REGION.sub(r"region\1", answer), where, report)
        if plain is None or told is None:
            return ()
        shown |= {*asked_of, *new}
        points = tuple((row,) for number in [*asked_of, *new] if (row := rows[number - 1]) is not None)
        text = _REGION.sub(mark, plain) + "".join(f" region{number}{REGION_MARK}" for number in new) + hint
        text = text if out else f"{IMAGE_MARK}\n{text}"
        out += [asked(text, points=points, prompts=("mask",) * len(points)), answered(told)]
    return tuple(out)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _REGION.findall(text)]


def _descriptions(
    told: Sequence[Any], rows: Sequence[int | None], where: str, report: IssueCounter
) -> tuple[Said, ...]:
    found = []
    for one in told:
        hit = _TOLD.fullmatch(one) if isinstance(one, str) else None
        if hit is None or not 0 < int(hit[1]) <= len(rows):
            report.note(NO_REGION, where)
            continue
        row, text = rows[int(hit[1]) - 1], words(_REGION.sub(r"region\1", hit[2]), where, report)
        if row is None:
            report.note(LOST_OBJECT, where)
        elif text is not None:
            found.append(Said(text=text, rows=(row,)))
    return tuple(dict.fromkeys(found))


def _names(entry: dict[str, Any]) -> tuple[str, str]:
    """Of the image: COCO's of 2014 are called by their numbers alone in 2017."""
    return entry["file_name"], entry["file_name"].rpartition("_")[2]


def _entries(path: Path, report: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, entry in json_entries(path, report):
        if (
            isinstance(entry, dict)
            and isinstance(entry.get("file_name"), str)
            and isinstance(entry.get("annotation"), list)
        ):
            yield where, entry
        else:
            report.note(NO_ENTRY, where)


SOURCE = Source(read=read, looks_like=looks_like)
