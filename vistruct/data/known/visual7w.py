"""Visual7W: questions that are answered by pointing at one of four boxes, or by telling.

    dataset_v7w_pointing.json    {"images": [{"filename": "v7w_1.jpg", "split": "train", "qa_pairs": [
                                     {"question": "Which ...?", "answer": 7, "multiple_choices": [8, 9, 10]}]}],
                                  "boxes": [{"box_id": 7, "name": "dog", "x": 3, "y": 4, "width": 17, "height": 14}]}
    dataset_v7w_telling.json     the same without boxes, the answer being words
    images/v7w_1.jpg

or lines of the first (`v7w_pointing`):

    {"file_path": "v7w_1.jpg", "question": "Which ...?", "candidates": [[x0, y0, x1, y1], ...], "answer": [...],
     "point": [x, y]}

Candidates are shown from left to right, so that their order says nothing. Of lines with a point, which is the centre of
the answer, there is a second conversation that wants the point drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, REGION_MARK, Turn
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import (
    LOST_OBJECT,
    NO_ENTRY,
    Board,
    Images,
    Source,
    answered,
    asked,
    keys_at,
    words,
)
from vistruct.files.json_stream import json_entries, json_list
from vistruct.issues import IssueCounter

TARGET = "target"  # what the answer is called, whose name would give it away


def looks_like(path: Path) -> bool:
    """Whether it is one of the two files, or lines of the first."""
    if {"file_path", "question", "candidates"} <= keys_at(path):
        return True
    head = ends_of(path)[0] if path.suffix == ".json" and path.is_file() else ""
    return head.startswith("{") and '"qa_pairs"' in head and '"multiple_choices"' in head


def splits(path: Path) -> tuple[str, ...]:
    """Those that the images are of; of lines none."""
    if path.suffix != ".json" or not path.is_file():
        return ()
    found = {str(one["split"]) for _, one in json_list(path, "images") if isinstance(one, dict) and "split" in one}
    return tuple(sorted(found))


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """What was asked about an image."""
    yield from _lines(path, ask, report) if path.suffix == ".jsonl" else _images(path, ask, report)


def _images(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    known = splits(path)
    chosen = chosen_splits(ask.split, known, path) if known else []
    is_pointing = '"boxes"' in "".join(ends_of(path))
    boxes = {
        one["box_id"]: ([one.get(key) for key in ("x", "y", "width", "height")], str(one.get("name", "")))
        for _, one in (json_list(path, "boxes") if is_pointing else ())
        if isinstance(one, dict) and isinstance(one.get("box_id"), int)
    }
    names = (str(one.get("filename")) for _, one in json_list(path, "images") if isinstance(one, dict))
    images = Images.of(names, (path.parent, path.parent.parent), ask, report)
    for where, entry in json_list(path, "images"):
        if not isinstance(entry, dict) or not isinstance(entry.get("qa_pairs"), list):
            report.note(NO_ENTRY, where)
            continue
        if known and str(entry.get("split")) not in chosen:
            continue
        image = images.find((str(entry.get("filename")),), where)
        if image is None:
            continue
        board, talks = Board(image, report), []
        for at, one in enumerate(entry["qa_pairs"], start=1):
            here = f"{where}, question {at}"
            if not isinstance(one, dict):
                report.note(NO_ENTRY, here)
            elif is_pointing:
                others = one.get("multiple_choices")
                ids = [one.get("answer"), *(others if isinstance(others, list) else [None])]
                found = [boxes.get(id) if isinstance(id, int) else None for id in ids]
                rows = [None if box is None else board.add(box[0], here, form="xywh", name=box[1]) for box in found]
                talks += _pointing(one.get("question"), rows, board, here, has_point=False)
            else:
                texts = (words(one.get(key), here, report) for key in ("question", "answer"))
                question, answer = texts
                if question is not None and answer is not None:
                    talks.append((asked(f"{IMAGE_MARK}\n{question}"), answered(answer)))
        yield board.known(str(entry["filename"]), talks=tuple(talks))


def _lines(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    def entries(counter: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, counter):
            is_whole = isinstance(entry, dict) and isinstance(entry.get("file_path"), str)
            if is_whole and isinstance(entry.get("candidates"), list):
                yield where, entry
            else:
                counter.note(NO_ENTRY, where)

    names = (entry["file_path"] for _, entry in entries(IssueCounter()))
    images = Images.of(names, (path.parent,), ask, report)
    for name, group in groupby(entries(report), key=lambda pair: pair[1]["file_path"]):
        first, entry = next(group)
        image = images.find((name,), first)
        if image is None:
            continue
        board, talks = Board(image, report), []
        for where, one in ((first, entry), *group):
            others = [box for box in one["candidates"] if box != one.get("answer")]
            rows = [board.add(box, where) for box in (one.get("answer"), *others)]
            talks += _pointing(one.get("question"), rows, board, where, has_point="point" in one)
        yield board.known(f"{name}#{first.rpartition(':')[2]}", talks=tuple(talks))


def _pointing(
    text: Any, rows: Sequence[int | None], board: Board, where: str, *, has_point: bool
) -> list[tuple[Turn, ...]]:
    """A conversation for each unit.

    Args:
        rows: of all candidates, the right one first.
    """
    question = words(text, where, board.report)
    kept = [row for row in rows if row is not None]
    if len(kept) < len(rows):
        board.report.note(LOST_OBJECT, where)
    if question is None or len(kept) < len(rows):
        return []
    shown = sorted(set(kept), key=lambda row: board.image.rows[row].box)
    marks = ", ".join([REGION_MARK] * len(shown))
    ask = asked(
        f"{IMAGE_MARK}\n{question} Candidates: {marks}.",
        points=tuple((row,) for row in shown),
        prompts=("box",) * len(shown),
    )
    answer = f"{PHRASE_OPEN}{TARGET}{PHRASE_CLOSE}{OBJECT_MARK}"
    return [
        (ask, answered(answer, "gcg_detection", points=((kept[0],),), units=(unit,)))
        for unit in (("box", "point") if has_point else ("box",))
    ]


SOURCE = Source(read=read, looks_like=looks_like, splits=splits)
