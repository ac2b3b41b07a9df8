"""Answers that point: what a model wrote, and what its decoders draw of it.

States come from one more packed pass over question and answer; which decoder draws is what the answer wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vistruct.contracts import Grounded, GroundedPrediction, MaskPatch, Objects
from vistruct.transforms.points import move_points
from vistruct.vlm import packed
from vistruct.vlm.answers import UNITS, Read
from vistruct.vlm.batch import ChatBatch
from vistruct.vlm.grammar import Aim, read_answer, read_coordinates, spell_answer, write_answer, write_coordinates
from vistruct.vlm.picture import Frame

NO_DECODER = "no decoder for this unit"


@dataclass(frozen=True, kw_only=True)
class Written:
    """One answer as its tokens."""

    read: Read
    text: str
    states: Tensor  # float[q, D], of its object tokens
    sure: list[float]  # of each, how likely it was to be written there


def grounded(
    task: Any, batch: ChatBatch, seen: Any, rows: Sequence[Tensor], tokens: Sequence[list[int]]
) -> list[GroundedPrediction]:
    """Predictions of Instruct, one for each row.

    Args:
        seen: what the backbone made of the batch's tiles.
        rows: float[L, D] each, embeddings of what was asked.
        tokens: of each answer, without end mark.
    """
    if task.config.pointing.grammar.coordinates:
        texts = [spell_answer(ids, task.tokenizer, task.config.pointing.grammar).strip() for ids in tokens]
        found = [_in_text(text, _frame(batch, row)) for row, text in enumerate(texts)]
    else:
        written = _read_again(task, batch, rows, tokens)
        texts, found = [one.text for one in written], _draw(task, batch, seen, written)
    return [
        GroundedPrediction(
            id=batch.ids[row],
            image_id=batch.image_ids[row],
            question=batch.questions[row],
            answer=text,
            found=found[row],
            truth=_truth(task, batch, row),
            size_hw=_frame(batch, row).size_hw,
            family=batch.families[row],
            others=batch.others[row],
            form=batch.forms[row],
        )
        for row, text in enumerate(texts)
    ]


def _frame(batch: ChatBatch, row: int) -> Frame:
    assert batch.pointed is not None
    return batch.pointed.frames[batch.owners[row]]


def _read_again(task: Any, batch: ChatBatch, rows: Sequence[Tensor], tokens: Sequence[list[int]]) -> list[Written]:
    """Answers with the states behind their object tokens, all in one pass more."""
    point = task.pointing
    texts = [spell_answer(ids, task.tokenizer, point.config.grammar).strip() for ids in tokens]
    reads = [read_answer(text, point.config.grammar, _units(task)) for text in texts]
    pointing = [row for row, ids in enumerate(tokens) if point.object_token in ids]
    states: dict[int, Tensor] = {}
    sure: dict[int, list[float]] = {}
    if pointing:
        table, device = task.language.get_input_embeddings(), rows[0].device
        whole = [
            torch.cat([rows[i], table(torch.tensor(tokens[i], device=device)).to(rows[i].dtype)]) for i in pointing
        ]
        lengths = [len(one) for one in whole]
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        hidden = packed.decode(task.language, torch.cat(whole), positions, packed.segments(lengths, device))
        asked = batch.input_ids.split(batch.lengths)
        for i, given, own in zip(pointing, whole, hidden.split(lengths), strict=True):
            first, ids = len(rows[i]), torch.tensor(tokens[i], device=device)
            at = torch.tensor([at for at, token in enumerate(tokens[i]) if token == point.object_token])
            shown = (asked[i] == point.region_token).nonzero().squeeze(1)
            states[i] = point.queries(own, given, first + at, shown, [len(own)])
            logits = task.language.get_output_embeddings()(own[first - 1 : -1]).float()
            said = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0].tolist()
            sure[i] = sureness(tokens[i], said, objects=point.object_token, **point.marks)
    width = rows[0].shape[1] if rows else 0
    nothing = rows[0].new_zeros(0, width) if rows else torch.zeros(0, 0)
    return [
        Written(read=read, text=text, states=states.get(i, nothing), sure=sure.get(i, []))
        for i, (read, text) in enumerate(zip(reads, texts, strict=True))
    ]


def _draw(task: Any, batch: ChatBatch, seen: Any, written: Sequence[Written]) -> list[Grounded]:
    """What the decoders draw of each answer, in pixels of its image."""
    point = task.pointing
    drawn: list[dict[int, Objects[Tensor]]] = [{} for _ in written]  # by object token
    if seen is not None and batch.pointed is not None:
        aims = [_aims(one.read, len(one.sure)) for one in written]
        pointed = replace(batch.pointed, aims=aims, owners=batch.owners)
        states = torch.cat([one.states for one in written])
        for unit, decoder in point.drawing():
            asked = pointed.asked(unit)
            if not asked.answers:
                continue
            output = point.ask(decoder, states, asked, pointed, seen, batch.whole_tiles)
            side = (pointed.size, pointed.size)
            for row, aims, objects in zip(asked.answers, asked.aims, decoder.decode(output, side), strict=True):
                frame = pointed.frames[pointed.owners[row]]
                threshold = None if unit == "depth" else 0.5
                for number, aim in enumerate(aims):
                    one = objects.keep(torch.tensor([number], device=objects.scores.device)).to(torch.device("cpu"))
                    back = frame.back(one, pointed.size, threshold)
                    drawn[row][aim.row] = replace(back, scores=back.scores * written[row].sure[aim.row])
    return [_grounded(one.read, own) for one, own in zip(written, drawn, strict=True)]


def _aims(read: Read, num: int) -> tuple[Aim, ...]:
    """Of each object token, its number, and the unit and phrase that it was written behind; none: the unit ""."""
    found = [Aim(row=at, unit="", group=-1 - at) for at in range(num)]
    for group, phrase in enumerate(read.phrases):
        for at in phrase.rows:
            found[at] = Aim(row=at, unit=phrase.unit, group=group)
    return tuple(found)


def _grounded(read: Read, drawn: dict[int, Objects[Tensor]]) -> Grounded:
    """What was drawn as one table, and phrases that name its rows."""
    numbers = {at: row for row, at in enumerate(sorted(drawn))}
    phrases = tuple(replace(one, rows=tuple(numbers[at] for at in one.rows if at in numbers)) for one in read.phrases)
    missing = any(at not in numbers for one in read.phrases for at in one.rows)
    return Grounded(
        words=read.words,
        phrases=phrases,
        objects=_table([drawn[at] for at in sorted(drawn)]),
        plan=read.plan,
        defects=(*read.defects, *([NO_DECODER] if missing else [])),
    )


def _table(objects: Sequence[Objects[Tensor]]) -> Objects[Tensor]:
    """Objects of one row each, of several units: what one of them lacks is empty."""
    if not objects:
        return Objects().tensors()
    masks, keypoints = None, None
    if any(one.masks is not None for one in objects):
        nothing = torch.zeros(0, 0, dtype=torch.bool)
        masks = tuple(_patch(nothing if one.masks is None else one.masks[0]) for one in objects)
    if any(one.keypoints is not None for one in objects):
        most = max(one.keypoints.shape[1] for one in objects if one.keypoints is not None)
        keypoints = torch.zeros(len(objects), most, 3)
        for row, one in enumerate(objects):
            if one.keypoints is not None:
                keypoints[row, : one.keypoints.shape[1]] = one.keypoints[0]
    return Objects(
        labels=torch.full((len(objects),), -1),
        boxes_xyxy=torch.cat([one.boxes_xyxy for one in objects]),
        scores=torch.cat([one.scores for one in objects]),
        masks=masks,
        keypoints=keypoints,
    )


def _patch(mask: Tensor) -> MaskPatch:
    """[H, W] -> only the part where it is."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return MaskPatch(pixels=mask[:0, :0].numpy(), x=0, y=0)
    y, x = int(rows[0]), int(columns[0])
    return MaskPatch(pixels=mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1].numpy(), x=x, y=y)


def _units(task: Any) -> tuple[str, ...]:
    """That are known: those of plug-ins too."""
    return tuple(dict.fromkeys((*UNITS, *task.config.pointing.decoders)))


def _truth(task: Any, batch: ChatBatch, row: int) -> Grounded | None:
    """The true answer in the same form; None where it is still to be given."""
    turn, objects, grammar = batch.answers[row], batch.objects[batch.owners[row]], task.config.pointing.grammar
    if turn is None or not turn.text:
        return None
    if grammar.coordinates:
        frame = _frame(batch, row)
        parts = move_points(objects.boxes_xyxy.double().view(-1, 2, 2), frame.matrix()).flatten(1)
        return _in_text(write_coordinates(turn, parts.tolist()).text, frame)
    written = write_answer(turn, grammar)
    read = read_answer(written.text, grammar, _units(task))
    kept = objects.keep(torch.tensor([aim.row for aim in written.aims], dtype=torch.int64))
    return Grounded(words=read.words, phrases=read.phrases, objects=kept, plan=read.plan)


def _in_text(text: str, frame: Frame) -> Grounded:
    """An answer whose boxes are numbers in its text; of them nobody says how sure they are."""
    read, boxes = read_coordinates(text)
    corners = torch.tensor(boxes, dtype=torch.float64).view(-1, 2, 2)
    found = Objects(
        labels=torch.full((len(boxes),), -1),
        boxes_xyxy=move_points(corners, frame.back_matrix()).flatten(1).float(),
        scores=torch.ones(len(boxes)),
    )
    return Grounded(words=read.words, phrases=read.phrases, objects=found)


def sureness(
    ids: Sequence[int], log_probabilities: Sequence[float], *, opens: int, closes: int, unit_closes: int, objects: int
) -> list[float]:
    """How likely each object token of an answer was to be written.

    What is written from one object to the next decides whether there is one more: the probabilities of its tokens,
    multiplied; times that of the phrase before it, as the geometric mean over its tokens, so that long names are no
    less likely than short ones.

    Args:
        ids: tokens of an answer.
        log_probabilities: of each, behind those before it.
        opens, closes: tokens around a phrase.
        unit_closes: the token behind a unit's name.
        objects: the object token.
    """
    found: list[float] = []
    phrase, start, item = 0.0, 0, 0
    for at, token in enumerate(ids):
        if token == opens:
            start = at + 1
        elif token == closes:
            phrase = sum(log_probabilities[start:at]) / max(1, at - start)
        elif token == unit_closes:
            item = at + 1
        elif token == objects:
            found.append(math.exp(min(0.0, phrase + sum(log_probabilities[item : at + 1]))))
            item = at + 1
    return found
