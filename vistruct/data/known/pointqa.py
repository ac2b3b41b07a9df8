"""PointQA: questions at a place that was clicked, or at the box of what was meant, on images of Visual Genome.

    {"2393705": [{"question": "What color is the shirt?", "all_objs": [{"x": 1, "y": 2, "w": 30, "h": 40}, ...],
                  "points": [{"x": 16, "y": 22, "ans": "red"}, ...]}]}                           of the local set
    {"2393705": [{"obj_question": "How many of these cats are there?", "super_question": ..., "general_question": ...,
                  "ans": "2", "point": {"x": 16, "y": 22}, "bbox": {"x": 1, "y": 2, "w": 30, "h": 40}}]}    look twice

or lines of both (`pointQA_local`, `pointQA_twice`):

    {"file_path": "VG_100K/1.jpg", "question": "...", "answer": "red", "bbox": [x0, y0, x1, y1], "point": [x, y]}

Every question is a conversation twice, once at the point and once at the box. A point is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, REGION_MARK, Prompt, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import (
    NO_ENTRY,
    Board,
    BoxForm,
    Images,
    Source,
    answered,
    asked,
    keys_at,
    words,
)
from vistruct.data.known.visual_genome import image_names
from vistruct.files.json_stream import json_entries, json_members
from vistruct.issues import IssueCounter

_QUESTIONS = ("question", "obj_question", "super_question", "general_question", "pt_question")


def looks_like(path: Path) -> bool:
    """Whether it is one of the sets, or lines of one."""
    if path.suffix == ".jsonl":
        keys = keys_at(path)
        return {"file_path", "answer", "bbox", "point"} <= keys and "candidates" not in keys
    if path.suffix != ".json" or not path.is_file():
        return False
    head = ends_of(path)[0]
    return head.startswith("{") and ('"all_objs"' in head or '"obj_question"' in head or '"pt_question"' in head)


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """What was asked about an image, those of a line each that follow each other together."""
    is_lines = path.suffix == ".jsonl"
    entries = _lines if is_lines else _members
    places = (path.parent, path.parent.parent)
    images = Images.of((names[0] for names, _, _ in entries(path, IssueCounter())), places, ask, report)
    for names, group in groupby(entries(path, report), key=lambda one: one[0]):
        first = next(group)
        image = images.find(names, first[1])
        if image is None:
            continue
        board, talks = Board(image, report), []
        for _, where, entry in (first, *group):
            talks += _talks(entry, board, where, "xyxy" if is_lines else "xywh")
        yield board.known(f"{names[-1]}#{first[1].rpartition(':')[2].strip()}", talks=tuple(talks))


def _lines(path: Path, report: IssueCounter) -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    for where, entry in json_entries(path, report):
        if isinstance(entry, dict) and isinstance(entry.get("file_path"), str):
            yield (entry["file_path"],), where, entry
        else:
            report.note(NO_ENTRY, where)


def _members(path: Path, report: IssueCounter) -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """Of the local set an entry for each of its points."""
    for where, number, told in json_members(path):
        for at, entry in enumerate(told if isinstance(told, list) else [None], start=1):
            here = f"{where}, question {at}"
            if not isinstance(entry, dict):
                report.note(NO_ENTRY, here)
                continue
            points, boxes = entry.get("points"), entry.get("all_objs")
            if isinstance(points, list):
                pairs = list(zip(points, boxes if isinstance(boxes, list) else (), strict=False))
                if len(pairs) != len(points):
                    report.note(NO_ENTRY, here)
                    continue
                for point, box in pairs:
                    answer = point.get("ans") if isinstance(point, dict) else None
                    yield image_names(number), here, {**entry, "point": point, "bbox": box, "ans": answer}
            else:
                yield image_names(number), here, entry


def _talks(entry: dict[str, Any], board: Board, where: str, form: BoxForm) -> list[tuple[Turn, ...]]:
    answer = words(str(entry.get("answer", entry.get("ans")) or ""), where, board.report)
    point, box = (_numbers(entry.get(key), names) for key, names in (("point", "xy"), ("bbox", "xywh")))
    row = board.add(box, where, form=form)
    click = None if row is None else board.click(point, row, where)
    if answer is None or row is None or click is None:
        return []
    shown: tuple[tuple[Prompt, int], ...] = (("box", row), ("point", click))
    talks: list[tuple[Turn, ...]] = []
    for key in _QUESTIONS:
        question = words(entry[key], where, board.report) if key in entry else None
        if question is not None:
            text = f"{IMAGE_MARK}\n{question} {REGION_MARK}"
            turns = (asked(text, points=((at,),), prompts=(prompt,)) for prompt, at in shown)
            talks += [(turn, answered(answer)) for turn in turns]
    return talks


def _numbers(told: Any, names: str) -> Any:
    """The numbers of a list, or of an object that names them."""
    if not isinstance(told, dict):
        return told
    long = {"w": "width", "h": "height"}
    return [told.get(name, told.get(long.get(name, name))) for name in names]


SOURCE = Source(read=read, looks_like=looks_like)
