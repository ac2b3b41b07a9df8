"""VCR: why and how questions about people in scenes of films, with four answers and four reasons for the right one.

    train.jsonl    {"img_fn": "lsmdc_1/a.jpg", "metadata_fn": "lsmdc_1/a.json", "objects": ["person", "person", "cup"],
                    "question": ["Why", "does", [0], "look", "at", [1, 2], "?"],
                    "answer_choices": [[[0], "is", "hungry", "."], ...], "answer_label": 0,
                    "rationale_choices": [["Because", [1], "eats", "."], ...], "rationale_label": 0}
    vcr1images/lsmdc_1/a.json    {"boxes": [[x0, y0, x1, y1, score], ...], "segms": [[[[x, y], ...], ...], ...],
                                  "names": [...], "width": 1920, "height": 1080}

A number among the words is an object. Lines that hold the `boxes` themselves are read as well. One line can be asked in
nine ways, by what is given (q: the question, c: choices, a: the answer) and what is wanted (a: the answer, r: the
reason); all of them are conversations of its image, and the source `vcr-WAY` gives one alone:

    q-a    q-ra    qc-a    qc-ra    qc-rac    qa-r    qac-r    q-a-q-r and qc-a-qc-r, of two turns each
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, REGION_MARK, Turn
from vistruct.data.formats.boxes.coco_shapes import are_numbers
from vistruct.data.formats.boxes.image_names import ImageFolder
from vistruct.data.formats.boxes.objects import Told
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import (
    LOST_OBJECT,
    NO_ENTRY,
    OTHER_SIZE,
    Board,
    Images,
    Source,
    answered,
    asked,
    has_mark,
    keys_at,
    told_size,
)
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

UNANSWERED = "question left out: which answer and which reason are right is not said"
NO_BOXES = "question left out: where its objects are is not said"
TARGET = "target"  # what an object is called that has no name
_KEYS = {"img_fn", "question", "answer_choices", "rationale_choices"}
_JOINED = re.compile(r" (?=[,.;:!?]|(?:'s|n't|'re|'ve|'ll|'d|'m)\b)")
_LETTERS = "ABCDEFGH"
_REASON, _CHOOSE, _CHOOSE_REASON = "Give the reason.", "Choose a letter.", "Choose the letter of the reason."
Tokens = Sequence[Any]  # of words, and of lists of the numbers of objects
# Of each way, for each turn what is asked and what is answered: question, answer, reason; choices of one of them; a
# letter of its choices.
WAYS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "q-a": ((("question",), ("answer",)),),
    "q-ra": ((("question",), ("reason", "answer")),),
    "qc-a": ((("question", "answers"), ("answer letter",)),),
    "qc-ra": ((("question", "answers"), ("reason", "answer letter")),),
    "qc-rac": ((("question", "answers"), ("reason", "answer", "answer letter")),),
    "qa-r": ((("question", "the answer", "why"), ("reason",)),),
    "qac-r": ((("question", "the answer", "reasons"), ("reason letter",)),),
    "q-a-q-r": ((("question",), ("answer",)), (("why",), ("reason",))),
    "qc-a-qc-r": ((("question", "answers"), ("answer letter",)), (("reasons",), ("reason letter",))),
}


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One question, its objects found."""

    question: Tokens
    answers: Sequence[Tokens]
    reasons: Sequence[Tokens]
    answer: int
    reason: int
    rows: Sequence[int | None]  # of the objects, by their numbers
    names: Sequence[str]


def looks_like(path: Path) -> bool:
    """Whether it is a file of such lines."""
    return keys_at(path) >= _KEYS


def read(path: Path, ask: Ask, report: IssueCounter, ways: Sequence[str] = tuple(WAYS)) -> Iterator[Known]:
    """An image after the other, the questions about one that follow each other together."""

    def entries(counter: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, counter):
            if isinstance(entry, dict) and entry.keys() >= _KEYS and isinstance(entry["img_fn"], str):
                yield where, entry
            else:
                counter.note(NO_ENTRY, where)

    places = (path.parent, path.parent.parent / "vcr1images", path.parent.parent)
    images = Images.of((entry["img_fn"] for _, entry in entries(IssueCounter())), places, ask, report)
    for name, group in groupby(entries(report), key=lambda pair: pair[1]["img_fn"]):
        first, entry = next(group)
        image = images.find((name,), first)
        if image is None:
            continue
        beside = (
            entry
            if isinstance(entry.get("boxes"), list)
            else _metadata(entry.get("metadata_fn"), images.folder, first, report)
        )
        if beside is None:
            continue
        if told_size(beside) not in (None, image.size_hw):
            report.note(OTHER_SIZE, f"{first}: {name}")
            continue
        board, talks = Board(image, report), []
        for where, one in ((first, entry), *group):
            line = _line(one, one if isinstance(one.get("boxes"), list) else beside, board, where)
            if line is not None:
                talks += [talk for way in ways if (talk := _talk(line, way, board, where)) is not None]
        yield board.known(f"{name}#{first.rpartition(':')[2]}", talks=tuple(talks))


def _metadata(name: Any, folder: ImageFolder, where: str, report: IssueCounter) -> dict[str, Any] | None:
    path = folder.find(name) if isinstance(name, str) else None
    content = None
    if path is not None:
        try:
            content = read_json(path)
        except UserError as error:
            where = f"{where}: {error.where}"
    if isinstance(content, dict) and isinstance(content.get("boxes"), list):
        return content
    report.note(NO_BOXES, where)
    return None


def _line(entry: dict[str, Any], beside: dict[str, Any], board: Board, where: str) -> _Line | None:
    answers, reasons = entry["answer_choices"], entry["rationale_choices"]
    right, because = entry.get("answer_label"), entry.get("rationale_label")
    if right is None or because is None or not (_is_choice(right, answers) and _is_choice(because, reasons)):
        board.report.note(UNANSWERED, where)
        return None
    names = entry.get("objects", beside.get("names"))
    names = names if isinstance(names, list) else [TARGET] * len(beside["boxes"])
    outlines = beside.get("segms")
    masks = outlines if isinstance(outlines, list) else [None] * len(beside["boxes"])
    rows = [
        board.add(box[:4] if isinstance(box, list) else None, where, name=str(name), told=Told(mask=_polygons(mask)))
        for box, name, mask in zip(beside["boxes"], names, masks, strict=False)
    ]
    spoken = (entry["question"], *answers, *reasons)
    if not all(isinstance(one, list) and all(map(_is_token, one)) for one in spoken):
        board.report.note(NO_ENTRY, where)
        return None
    return _Line(
        question=entry["question"],
        answers=answers,
        reasons=reasons,
        answer=right,
        reason=because,
        rows=rows,
        names=[str(name) for name in names],
    )


def _is_choice(number: Any, choices: Any) -> bool:
    return isinstance(number, int) and isinstance(choices, list) and 0 <= number < len(choices) <= len(_LETTERS)


def _is_token(token: Any) -> bool:
    """Words without our marks, or the numbers of objects."""
    if isinstance(token, list):
        return bool(token) and all(isinstance(at, int) and at >= 0 for at in token)
    return isinstance(token, str) and not has_mark(token)


def _polygons(outline: Any) -> Any:
    """Polygons of (x, y) as COCO has them."""
    if not isinstance(outline, list) or not all(isinstance(one, list) and len(one) > 2 for one in outline):
        return ()
    flat = [[value for point in one if are_numbers(point) for value in point] for one in outline]
    return [one for one in flat if len(one) > 5] or ()


def _talk(line: _Line, way: str, board: Board, where: str) -> tuple[Turn, ...] | None:
    turns: list[Turn] = []
    for given, wanted in WAYS[way]:
        parts = [_spoken(line, part, is_answer=False) for part in given]
        text, points = "\n".join(text for text, _ in parts), [group for _, groups in parts for group in groups]
        told = [_spoken(line, part, is_answer=True) for part in wanted]
        answer, drawn = " ".join(text for text, _ in told), [group for _, groups in told for group in groups]
        regions, objects = (_rows(groups, line, board, where) for groups in (points, drawn))
        if regions is None or objects is None:
            return None
        text = text if turns else f"{IMAGE_MARK}\n{text}"
        turns.append(asked(text, points=regions, prompts=("box",) * len(regions)))
        task = "gcg_detection" if objects else "vqa"
        turns.append(answered(answer, task, points=objects, units=("box",) * len(objects)))
    return tuple(turns)


def _rows(groups: Sequence[Sequence[int]], line: _Line, board: Board, where: str) -> tuple[tuple[int, ...], ...] | None:
    """The rows of objects by their numbers; None: one is not there."""
    found = [tuple(line.rows[at] if at < len(line.rows) else None for at in group) for group in groups]
    rows = tuple(tuple(row for row in group if row is not None) for group in found)
    if any(None in group for group in found):
        board.report.note(LOST_OBJECT, where)
        return None
    return rows


def _spoken(line: _Line, part: str, *, is_answer: bool) -> tuple[str, list[Sequence[int]]]:
    """One part of a turn, and the numbers of the objects that each of its marks stands for."""
    if part.endswith(" letter"):
        number = line.answer if part.startswith("answer") else line.reason
        return f"The answer is ({_LETTERS[number]}).", []
    if part == "why":
        return _REASON, []
    if part in ("answers", "reasons"):
        choices = line.answers if part == "answers" else line.reasons
        spoken = [_sentence(tokens, line, is_answer) for tokens in choices]
        listed = " ".join(f"({letter}) {text}" for letter, (text, _) in zip(_LETTERS, spoken, strict=False))
        title, hint = ("Options", _CHOOSE) if part == "answers" else ("Rationale options", _CHOOSE_REASON)
        return f"{title}: {listed} {hint}", [group for _, groups in spoken for group in groups]
    tokens = {"question": line.question, "reason": line.reasons[line.reason]}.get(part, line.answers[line.answer])
    text, groups = _sentence(tokens, line, is_answer)
    titles = {"question": "Question: ", "the answer": "Answer: "}
    return ("" if is_answer else titles[part]) + text, groups


def _sentence(tokens: Tokens, line: _Line, is_answer: bool) -> tuple[str, list[Sequence[int]]]:
    said, groups = [], []
    for token in tokens:
        if not isinstance(token, list):
            said.append(str(token))
            continue
        groups.append(token)
        names = dict.fromkeys(line.names[at] for at in token if at < len(line.names))
        name = " and ".join(names) or TARGET
        said.append(f"{PHRASE_OPEN}{name}{PHRASE_CLOSE}{OBJECT_MARK}" if is_answer else REGION_MARK)
    return _JOINED.sub("", " ".join(said)), groups


SOURCE = Source(read=read, looks_like=looks_like)
Q_A, Q_RA, QC_A, QC_RA, QC_RAC, QA_R, QAC_R, Q_A_Q_R, QC_A_QC_R = (
    Source(read=partial(read, ways=(way,))) for way in WAYS
)
