"""Shikra-RD (GPT4Gen): questions and chains of reasons whose phrases mean boxes, on images of Flickr30k.

    {"img_path": "1.jpg", "question": "Is <ph_st>the dog<ph_ed> big?", "question_boxes_seq": [[0]],
     "cot_with_ans": "<ph_st>It<ph_ed> fills <ph_st>two seats<ph_ed>. The answer is yes.",
     "answer_boxes_seq": [[0], [1, 2]], "answer": "yes", "boxes": [[x0, y0, x1, y1], ...]}

A line is three conversations: the answer alone, the chain in plain words, and the chain with what its phrases mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from vistruct.contracts import IMAGE_MARK, Turn
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Told
from vistruct.data.known.flickr30k_entities import marked
from vistruct.data.known.source import (
    NO_ENTRY,
    Board,
    Images,
    Source,
    answered,
    as_answer,
    as_question,
    keys_at,
    words,
)
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

Way = Literal["answer", "words", "boxes"]


def looks_like(path: Path) -> bool:
    """Whether it is a file of such lines."""
    return {"question_boxes_seq", "answer_boxes_seq", "cot_with_ans"} <= keys_at(path)


def read(
    path: Path, ask: Ask, report: IssueCounter, ways: tuple[Way, ...] = ("answer", "words", "boxes")
) -> Iterator[Known]:
    """An image after the other, the lines of one that follow each other together."""

    def entries(counter: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, counter):
            texts = (entry.get(key) for key in ("img_path", "question", "cot_with_ans")) if _is(entry) else (None,)
            if all(isinstance(text, str) for text in texts) and isinstance(entry.get("boxes"), list):
                yield where, entry
            else:
                counter.note(NO_ENTRY, where)

    images = Images.of((entry["img_path"] for _, entry in entries(IssueCounter())), (path.parent,), ask, report)
    for name, group in groupby(entries(report), key=lambda pair: pair[1]["img_path"]):
        first, entry = next(group)
        image = images.find((name,), first)
        if image is None:
            continue
        board, talks = Board(image, report), []
        for where, one in ((first, entry), *group):
            rows = [board.add(box, where) for box in one["boxes"]]
            question = marked(one["question"], rows, one.get("question_boxes_seq"), where, report)
            chain = marked(one["cot_with_ans"], rows, one.get("answer_boxes_seq"), where, report)
            if question is not None and chain is not None:
                talks += _talks(question, chain, one.get("answer"), ways, where, report)
        yield board.known(f"{name}#{first.rpartition(':')[2]}", talks=tuple(talks))


def _is(entry: Any) -> bool:
    return isinstance(entry, dict)


def _talks(
    question: Told, chain: Told, answer: Any, ways: tuple[Way, ...], where: str, report: IssueCounter
) -> list[tuple[Turn, ...]]:
    plain = words(answer, where, report) if "answer" in ways else None
    answers: dict[Way, Turn | None] = {
        "answer": None if plain is None else answered(plain),
        "words": answered(chain.text),
        "boxes": as_answer(chain) if chain.phrases else None,
    }
    turn = as_question(question)
    first = replace(turn, text=f"{IMAGE_MARK}\n{turn.text}", prompts=("box",) * len(turn.points))
    return [(first, told) for way in ways if (told := answers[way]) is not None]


SOURCE = Source(read=read, looks_like=looks_like)
ANSWER = Source(read=partial(read, ways=("answer",)))
WORDS = Source(read=partial(read, ways=("words",)))
BOXES = Source(read=partial(read, ways=("boxes",)))
