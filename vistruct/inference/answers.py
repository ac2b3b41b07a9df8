"""Answers (`answers`) of a model with language to a question about an image, or about several together.

answers.jsonl   {"image": ..., "question": ..., "answer": ...}, a line for each
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vistruct.contracts import IMAGE_MARK, RGB, AnswerPrediction, Sample, Turn
from vistruct.errors import UserError, closest
from vistruct.files.text import printable, write_text
from vistruct.inference.conversation import conversation, with_places, with_regions
from vistruct.inference.kind import Asked, Done, Kind, OneFile, Told, Values
from vistruct.inference.model import Model
from vistruct.inference.scenes import Case, as_pixels
from vistruct.inference.view import View
from vistruct.vlm.answers import UNITS
from vistruct.vlm.grammar import Grammar, commands, read_answer, read_coordinates

if TYPE_CHECKING:
    from PIL import Image


@torch.inference_mode()
def look(model: Model, cases: Sequence[Case], asked: Asked) -> list[Any]:
    """The answer to the same question about the images of each case, all in one pass."""
    samples = [conversation(case, asked) for case in cases]
    collate = model.task.traits.predict_collator or model.task.collator
    batch = collate(samples).to(model.device)
    if asked.on_text is not None and len(samples) == 1:
        batch = replace(batch, on_text=_in_words(model, asked.on_text))
    return model.task.predict(batch)


def _in_words(model: Model, say: Callable[[str], None]) -> Callable[[str], None]:
    """Told what is written, `say` is told the words of it: without marks, and without a plan."""
    if not model.kind.prompts:
        return say
    grammar: Grammar = model.task.config.pointing.grammar
    return lambda text: say((read_coordinates(text)[0] if grammar.coordinates else read_answer(text, grammar)).words)


def check(model: Model, cases: Sequence[Case], asked: Asked) -> None:
    """
    Raises:
        UserError: an empty question, image or region marks that do not fit what is shown, a region to a model without.
    """
    question = asked.question or ""
    if not question.replace(IMAGE_MARK, "").strip():
        raise UserError("the question is empty", where=f"ask={question!r}", fix='ask="How many trees are there?"')
    if asked.regions and not model.kind.prompts:
        fix = "ask in words, or train a model that points: vistruct recipes vtplug.tune"
        raise UserError("this model cannot be shown a region", where="regions", fix=fix)
    _check_command(model, asked.command)
    with_regions(question, len(asked.regions))
    for case in cases:
        with_places(question, len(case.pictures), case.name)


def commands_of(model: Model) -> tuple[str, ...]:
    """What a model may be told to answer with, its own units first; nothing where it need not be told."""
    pointing = model.task.config.pointing if model.kind.name == "grounded" else None
    if pointing is None or not pointing.grammar.command:
        return ()
    return commands(dict.fromkeys((*pointing.decoders, *UNITS)))


def _check_command(model: Model, command: str | None) -> None:
    """
    Raises:
        UserError: none to a model that is told its task, one to another, or one that it does not know.
    """
    known = commands_of(model)
    if command is None and known:
        fix = f"--command {known[0]}, or command= in Python; any of: {', '.join(known)}"
        raise UserError("this model must be told what to answer with", where=model.card.path, fix=fix)
    if command is not None and not known:
        what = "this model is not told what to answer with; the question says it"
        raise UserError(what, where=f"command={command}", fix="leave --command (command=) out")
    if command is not None and command not in known:
        raise UserError("no such unit or task", where=f"command={command}", fix=closest(command, known))


def _pack(case: Case, prediction: AnswerPrediction) -> dict[str, Any]:
    return {"question": prediction.question, "answer": prediction.answer}


def _unpack(model: Model, case: Case, values: Values, _: Any) -> AnswerPrediction:
    return AnswerPrediction(id=case.name, image_id=case.name, question=values["question"], answer=values["answer"])


def _rows(done: Sequence[Done]) -> list[dict[str, Any]]:
    files = [[printable(str(file)) for file in one.case.files] for one in done]
    return [{"image": own[0] if len(own) == 1 else own, **one.values} for own, one in zip(files, done, strict=True)]


def _tell(model: Model, done: Sequence[Done]) -> Told:
    lines = [f"{one.case.name}: {one.values['answer']}" for one in done]
    return Told(values={"answers": _rows(done)}, lines=lines)


def _draw(found: Sequence[AnswerPrediction], sample: Sample, _: Sequence[RGB] | None) -> Image.Image:
    """The questions with what the model answers, and with the truth where that is something else."""
    from vistruct.pictures.chat import draw_conversation

    turns: list[Turn] = []
    for one in found:
        answer = one.answer or "(nothing)"
        if one.truth and one.answer != one.truth:
            answer += f"\n(truth: {one.truth})"
        turns += [Turn(role="user", text=one.question), Turn(role="assistant", text=answer)]
    return draw_conversation(replace(sample, turns=tuple(turns)))


def _picture(model: Model, case: Case, found: AnswerPrediction, asked: Asked) -> Image.Image:
    images = [as_pixels(one, case.name) for one in case.pictures]
    return _draw([found], Sample(id=case.name, image_id=case.name, seed=0, images=images), None)


def _write(model: Model, done: Sequence[Done], file: Path) -> Path:
    write_text(file, [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(done)])
    return file


ANSWERS = Kind(
    name="answers",
    prediction=AnswerPrediction,
    look=look,
    pack=_pack,
    unpack=_unpack,
    tell=_tell,
    draw=_draw,
    picture=_picture,
    view=lambda model, done: View(words=done.values["answer"]),
    check=check,
    at_once=True,
    has_questions=True,
    metrics=lambda task: ("answers", "mean_loss"),
    formats=(OneFile(name="jsonl", file="answers.jsonl", write=_write, use="always"),),
)
