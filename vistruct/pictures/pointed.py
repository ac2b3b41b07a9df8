"""A conversation that points, drawn turn by turn: what each question shows, what each answer means, in colours."""

from __future__ import annotations

import re

import torch
from PIL import Image

from vistruct.contracts import (
    OBJECT_MARK,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    Grounded,
    GroundedPrediction,
    Phrase,
    Sample,
    Turn,
)
from vistruct.pictures.grounded import draw_grounded, regions_of
from vistruct.pictures.objects import contact_sheet
from vistruct.pictures.primitives import with_legend

MOST, COLUMNS = 8, 2  # answers about one image
_MARKS = re.compile(f"(?:{re.escape(PHRASE_OPEN)}(.*?){re.escape(PHRASE_CLOSE)})?((?:{re.escape(OBJECT_MARK)})+)", re.S)


def draw_pointed(sample: Sample) -> Image.Image:
    """The sample's image for each of its answers, with what the answer means and what its question shows."""
    questions = [turn for turn in sample.turns if turn.role == "user"]
    answers = [turn for turn in sample.turns if turn.role == "assistant"]
    drawn = []
    for question, answer in list(zip(questions, answers, strict=True))[:MOST]:
        said = GroundedPrediction(
            id=sample.id,
            image_id=sample.image_id,
            question=question.text,
            answer=answer.text,
            found=meant(answer, sample),
        )
        drawn.append(draw_grounded(sample.images[0], said, regions_of(question, sample.objects)))
    sheet = contact_sheet(drawn, COLUMNS, cell=max(picture.width for picture in drawn))
    left = len(answers) - len(drawn)
    return with_legend(sheet, [], f"{left} more answers are not shown", size=15) if left else sheet


def meant(turn: Turn, sample: Sample) -> Grounded:
    """An answer without its marks, and the objects that its phrases stand for; a bare mark is a phrase of its unit."""
    words, at, number = "", 0, 0
    phrases: list[Phrase] = []
    rows: list[int] = []
    for mark in _MARKS.finditer(turn.text) if turn.points else ():
        words += turn.text[at : mark.start()]
        at = mark.end()
        count = mark[2].count(OBJECT_MARK)
        own = [row for rows_of in turn.points[number : number + count] for row in rows_of]
        unit = turn.units[number] if number < len(turn.units) else "box"
        text = unit if mark[1] is None else mark[1]
        numbers = tuple(range(len(rows), len(rows) + len(own)))
        phrases.append(Phrase(text=text, unit=unit, rows=numbers, start=len(words), end=len(words) + len(text)))
        words += text
        rows += own
        number += count
    kept = sample.objects.keep(torch.tensor(rows, dtype=torch.int64))
    return Grounded(words=words + turn.text[at:], phrases=tuple(phrases), objects=kept)
