"""VQA v2 and OK-VQA: questions in one json, the answers of ten people to each in another beside it.

    {"data_subtype": "val2014", "questions": [{"image_id": 1, "question": "What is it?", "question_id": 10}, ...]}
    {"data_subtype": "val2014", "annotations": [{"question_id": 10, "image_id": 1, "answer_type": "other",
        "answers": [{"answer": "net", "answer_confidence": "maybe", "answer_id": 1}, ...]}, ...]}

Either file may be named, or the folder of both. Images are COCO's, `COCO_val2014_000000000001.jpg` or as COCO 2017
names them. Of OK-VQA the answers are stems ("fish", where somebody wrote "fishing"): `answer` counts, as published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vistruct.data.formats.captions.said import COCO_ID
from vistruct.data.formats.chat.asked import Question, answers_of, entries, records_of, text_of
from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import ends_of, json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

UNASKED = "answers left out: their question is not in the list"
_SUBTYPE = re.compile(r'"data_subtype"\s*:\s*"([^"]*)"')
_ROLE = re.compile(r'"(questions|annotations)"\s*:\s*\[')
Role = Literal["questions", "annotations"]


@dataclass(frozen=True, kw_only=True)
class Half:
    """One of the two files."""

    path: Path
    role: str
    split: str  # as it says itself; "": it does not


def looks_like(path: Path) -> bool:
    """Whether it is one of the two files, or a folder with such."""
    return bool(_halves(path))


def splits(path: Path) -> tuple[str, ...]:
    """What the files of a folder say that they are of."""
    return tuple(sorted({half.split for half in _halves(path)})) if path.is_dir() else ()


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """A record for each question, with the answers of all."""
    own = _halves(path)
    beside = own if path.is_dir() else _halves(path.parent)
    names = chosen_splits(ask.split, sorted({half.split for half in own}), path)
    records, read = [], []
    for split in names:
        questions, answers = (
            _one(
                [half for half in (own if len(own) == 1 and own[0].role == role else beside) if half.role == role],
                split,
                role,
                path,
            )
            for role in ("questions", "annotations")
        )
        read += [questions, answers]
        records += records_of(_questions(questions, answers, report, stop), answers, ask, report, stop, ways_of(split))
    return Walked(records=records, annotations=tuple(read))


def _one(halves: Sequence[Half], split: str, role: Role, path: Path) -> Path:
    """
    Raises:
        UserError: no such file, or several.
    """
    found = [half.path for half in halves if half.split == split]
    if len(found) == 1:
        return found[0]
    folder = path if path.is_dir() else path.parent
    if found:
        names = ", ".join(file.name for file in found)
        raise UserError(f"several files of {role} of {split or path.name}: {names}", where=folder, fix="keep one here")
    lost = "nobody's answers" if role == "annotations" else "no questions"
    fix = f"put v2_mscoco_{split}_annotations.json and v2_OpenEnded_mscoco_{split}_questions.json side by side"
    raise UserError(f"{lost} of {split or path.name} beside it: no json with {role!r}", where=folder, fix=fix)


def ways_of(split: str) -> list[Callable[[str], str]]:
    """How COCO calls the image of a number, with its folder and without."""
    fronts = (f"COCO_{split}_", f"{split}/COCO_{split}_", "", f"{split}/", "train2017/", "val2017/")
    return [partial(_coco_name, front) for front in fronts]


def _coco_name(front: str, number: str) -> str:
    return f"{front}{number:0>12}.jpg"


def _questions(asked: Path, told: Path, report: IssueCounter, stop: Stop) -> list[Question]:
    answers: dict[str, dict[str, Any]] = {}
    for where, entry in entries(read_json(told), "annotations", told, stop):
        answers[text_of(entry, "question_id", where)] = entry
    found = []
    for where, entry in entries(read_json(asked), "questions", asked, stop):
        id, image = text_of(entry, "question_id", where), text_of(entry, "image_id", where)
        own = answers.pop(id, {})
        found.append(
            Question(
                id=id,
                image=image,
                text=text_of(entry, "question", where),
                answers=answers_of(own.get("answers")),
                family=str(own.get("answer_type", "")),
                where=where,
                notes={COCO_ID: image},
            )
        )
    for id in answers:
        report.note(UNASKED, f"{told}: question {id}")
    return found


def _halves(path: Path) -> list[Half]:
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.suffix == ".json" else []
    found = []
    for file in files:
        if json_kind(file) == "questions":
            text = "".join(ends_of(file))
            role, split = _ROLE.search(text), _SUBTYPE.search(text)
            found += [Half(path=file, role=role[1], split=split[1] if split else "")] if role else []
    return found


FORMAT = Format(kind="questions", looks_like=looks_like, splits=splits, walk=walk)
