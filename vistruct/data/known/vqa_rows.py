"""Sets of questions about whole images that no format of `data/formats/chat` reads, and merged lines of those it does.

With reasons:

    VQA-E    [{"img_id": 9, "question": "...", "answers": [...], "multiple_answers": "cat",
               "explanation": ["...", 0.7]}]
    VQA-X    {"262148000": {"image_name": "COCO_val2014_000000262148.jpg", "question": "...",
                            "answers": [{"answer": "cat"}, ...], "explanation": ["...", "..."]}}
    lines    {"file_path": "a.jpg", "question": "...", "multiple_choice_answer": "cat", "justification": ["..."]}

and without:

    POPE     {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a cat?", "label": "yes"}
    CLEVR    {"questions": [{"image_filename": "CLEVR_train_000000.png", "question": "...", "answer": "yes"}]}
    lines    {"image_path": "a.jpg", "question": "...", "annotation": {"multiple_choice_answer": "cat"}}    (VQA v2)
             {"image_name": "a.jpg", "question": "...", "answers": ["cat", ...]}                            (OK-VQA)

Of several answers the commonest is taken (where they have weights, the heaviest), of several reasons the first; the
others are kept beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.data.formats.chat.vqa import ways_of
from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known
from vistruct.data.known.source import NO_ENTRY, Images, Source, answered, asked, keys_at, words
from vistruct.files.json_stream import json_entries, json_members
from vistruct.issues import IssueCounter

UNANSWERED = "question left out: it has no answer"
_NAMES = ("image_path", "file_path", "image_name", "img_path", "image_filename", "image")
_ANSWERS = ("multiple_choice_answer", "multiple_answers", "answer", "label")
_REASONS = ("explanation", "justification")
_MEMBERS = re.compile(r'\A\{\s*"\d+"\s*:\s*\{')


def looks_explained(path: Path) -> bool:
    """Whether it is a set with reasons."""
    keys = keys_at(path)
    if "question" in keys and keys & set(_REASONS):
        return bool(keys & {"img_id", *_NAMES})
    head = ends_of(path)[0] if path.suffix == ".json" and path.is_file() else ""
    return _MEMBERS.match(head) is not None and '"explanation"' in head and '"question"' in head


def looks_plain(path: Path) -> bool:
    """Whether it is a set without reasons."""
    keys = keys_at(path)
    if {"image", "text", "label"} <= keys or {"image_path", "question", "annotation"} <= keys:
        return True
    if {"image_name", "question", "answers"} <= keys:
        return not keys & set(_REASONS)
    return "questions" in keys and '"image_filename"' in ends_of(path)[0]


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other, the questions about one that follow each other together."""
    root = path.parent.parent
    places = (path.parent, root, root / "images", root / "images" / "train", root / "images" / "val")
    images = Images.of((names[0] for names, _, _ in _questions(path, IssueCounter())), places, ask, report)
    for names, group in groupby(_questions(path, report), key=lambda one: one[0]):
        first = next(group)
        image = images.find(names, first[1])
        if image is None:
            continue
        talks = (_talk(entry, where, report) for _, where, entry in (first, *group))
        id = f"{image.path.name}#{first[1].rpartition(':')[2].strip()}"
        kept = tuple(talk for talk in talks if talk is not None)
        yield Known(id=id, image=image.path, size_hw=image.size_hw, talks=kept)


def _questions(path: Path, report: IssueCounter) -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """How the image may be called, place, and what is said."""
    head = ends_of(path)[0]
    if _MEMBERS.match(head):
        pairs = ((where, entry) for where, _, entry in json_members(path))
    else:
        pairs = json_entries(path, report, "questions" if "questions" in keys_at(path) else None)
    for where, entry in pairs:
        names = _names(entry) if isinstance(entry, dict) else ()
        if names:
            yield names, where, entry
        else:
            report.note(NO_ENTRY, where)


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), None)
    if name is not None:
        return (name,)
    number = entry.get("img_id", entry.get("image_id"))
    if not isinstance(number, int | str):
        return ()
    return tuple(dict.fromkeys(way(str(number)) for split in ("train2014", "val2014") for way in ways_of(split)))


def _talk(entry: dict[str, Any], where: str, report: IssueCounter) -> tuple[Turn, ...] | None:
    question = words(entry.get("question", entry.get("text")), where, report)
    answers = _answers(entry)
    if question is None or not answers:
        report.note(UNANSWERED, where) if question is not None else None
        return None
    first, *others = answers
    reasons = _reasons(entry)
    said = [f"{reason} So the answer is {first}." for reason in reasons] or [first]
    if any(words(one, where, report) is None for one in said):
        return None
    turn = (
        answered(said[0], others=tuple(said[1:]), form="words")
        if reasons
        else answered(first, others=tuple(others), form="yes_no" if first in ("yes", "no") and not others else "vqa")
    )
    return asked(f"{IMAGE_MARK}\n{question}"), turn


def _answers(entry: dict[str, Any]) -> list[str]:
    """The one that counts, and those of all others."""
    told = entry["annotation"] if isinstance(entry.get("annotation"), dict) else entry
    given = [_answer(one) for one in told["answers"]] if isinstance(told.get("answers"), list) else []
    given = [one for one in given if one[0]]
    best = next((str(told[key]).strip() for key in _ANSWERS if isinstance(told.get(key), str | int)), "")
    best = best.lower() if best.lower() in ("yes", "no") else best
    if not best and given:
        weights: dict[str, float] = {}
        for text, weight in given:
            weights[text] = weights.get(text, 0.0) + weight
        best = max(weights, key=lambda text: weights[text])
    others = [text for text, _ in given]
    if best in others:
        others.remove(best)
    return [best, *others] if best else []


def _answer(told: Any) -> tuple[str, float]:
    """Words, and how much they count."""
    if isinstance(told, dict):
        told = told.get("answer")
    if isinstance(told, list) and len(told) == 2 and isinstance(told[1], int | float):
        return str(told[0]).strip(), float(told[1])
    return (str(told).strip(), 1.0) if isinstance(told, str | int) else ("", 0.0)


def _reasons(entry: dict[str, Any]) -> list[str]:
    """Sentences, each with a full stop."""
    told = next((entry[key] for key in _REASONS if key in entry), [])
    told = told if isinstance(told, list) else [told]
    texts = [" ".join(one.split()) for one in told if isinstance(one, str)]
    return [one if one[-1] in ".!?" else f"{one}." for one in texts if one]


EXPLAINED = Source(read=read, looks_like=looks_explained)
PLAIN = Source(read=read, looks_like=looks_plain)
