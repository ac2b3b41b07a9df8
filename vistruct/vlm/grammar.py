"""The grammar of answers that point: a plan, phrases, units, and a token for every object.

    <Task>
    Unit decode (True). Class name, target unit and number:
    - Name: tree Unit: box Num: 2
    </Task>
    <Phrase>tree</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>).

It is written from a turn when rows of tokens are made, and never stored: in annotations an answer is
`<Phrase>tree</Phrase><object>.` with `points`. What a model wrote is read back by `answers.read_answer`.

Source: VT-PLUG / REF-VLM (arXiv:2503.07413): tokens, task command and chain of thought of its public code.
Differs: units may differ within an answer and from turn to turn, and one phrase may have several; the object token is
`<object>`, because `<REF>` and InternVL's `<ref>` differ by case alone (`spelling: published` writes it all the same).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from vistruct.config import Part
from vistruct.contracts import IMAGE_MARK, OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, REGION_MARK, Phrase, Turn
from vistruct.errors import UserError
from vistruct.vlm.answers import PLAN_CLOSE, PLAN_OPEN, UNIT_CLOSE, UNIT_OPEN, UNITS, Read, read
from vistruct.vlm.chat import Tokenizer

PLANNED = "Unit decode (True). Class name, target unit and number:"
UNPLANNED = "Unit decode (False)."
OBJECT_TOKENS = {"ours": OBJECT_MARK, "published": "<REF>"}
_TAGS = (PLAN_OPEN, PLAN_CLOSE, UNIT_OPEN, UNIT_CLOSE, PHRASE_OPEN, PHRASE_CLOSE)
_TOKENS = {
    "ours": (*_TAGS, OBJECT_MARK),
    "published": (  # in the order in which the public code adds them; three are of older designs, never written
        PLAN_OPEN, PLAN_CLOSE, UNIT_OPEN, UNIT_CLOSE, "<v>", "</v>", PHRASE_OPEN, PHRASE_CLOSE, "<VRT>", "<REF>",
    ),
}  # fmt: skip
_UNIT = re.compile(r"\w[\w-]*")
_ROUNDING = 5e-4  # of a coordinate, as it is written
# Of each published task, what its answers are made of, and their unit where an answer has none to say.
_TASKS: Mapping[str, tuple[str, str]] = {
    "vqa": ("sentence", ""),
    "detection": ("phrase", "box"),
    "segmentation": ("phrase", "mask"),
    "grounding_detection": ("phrase", "box"),
    "grounding_segmentation": ("phrase", "mask"),
    "grounding_keypoints": ("phrase", "keypoint"),
    "gcg_detection": ("phrase, sentence", "box"),
    "gcg_segmentation": ("phrase, sentence", "mask"),
    "depth": ("phrase", "depth"),
}
_TASK_OF = {"mask": "segmentation", "keypoint": "grounding_keypoints", "depth": "depth"}  # of a unit that is asked for
TEXT = "text"
_BOX = r"(?:0|1)\.\d{3}(?:,(?:0|1)\.\d{3}){3}"
_BOXES = re.compile(rf"\s?\[({_BOX}(?:;{_BOX})*)\]")


class Grammar(Part):
    """How answers that point are written."""

    cot: bool = True  # an answer begins with its plan: which things, which unit, how many
    command: bool = False  # the task, and the units to answer in, are said in front of every question
    spelling: Literal["ours", "published"] = "ours"  # of the object token: <object>, or <REF>
    coordinates: bool = (
        False  # objects and regions are boxes in the text, as in the published stage 1: no plan, no token
    )

    @property
    def object_token(self) -> str:
        """What stands for one object in an answer."""
        return OBJECT_TOKENS[self.spelling]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What one object token of an answer stands for."""

    row: int  # of the sample's objects
    unit: str  # what is drawn of it
    group: int  # the object mark of the turn, from 0: those of a group may change places


@dataclass(frozen=True, kw_only=True)
class Written:
    """An answer in the grammar, and of each of its object tokens, in order, what it stands for."""

    text: str
    aims: tuple[Aim, ...] = ()


def added_tokens(grammar: Grammar) -> tuple[str, ...]:
    """The tokens that a vocabulary needs beside those of a template, in order; regions of questions are the last."""
    return (*_TOKENS[grammar.spelling], REGION_MARK)


def refuse_twins(tokens: Sequence[str], known: Collection[str]) -> None:
    """
    Args:
        tokens: to be added to a vocabulary.
        known: added tokens that it has.

    Raises:
        UserError: two of them differ by case alone.
    """
    of = {token.lower(): token for token in known}
    for token in tokens:
        other = of.setdefault(token.lower(), token)
        if other != token:
            what = f"{token} and {other} would be two tokens of one vocabulary that differ by case alone"
            ours = "--set task.pointing.grammar.spelling=ours"
            other_tokenizer = f"--set task.language.tokenizer=FOLDER, one without {other}"
            raise UserError(what, where="added tokens", fix=ours if token == "<REF>" else other_tokenizer)


def refuse_tokens(turn: Turn, grammar: Grammar) -> None:
    """
    Raises:
        UserError: a text that humans wrote holds a token of the grammar (the tags may be shown in a system turn), or as
            many marks as `points` not.
    """
    mark = OBJECT_MARK if turn.role == "assistant" else REGION_MARK
    meant: tuple[str, ...] = (mark, PHRASE_OPEN, PHRASE_CLOSE) if turn.role == "assistant" else (mark,)
    tokens = added_tokens(grammar) if turn.role != "system" else (grammar.object_token,)
    token = next((token for token in tokens if token not in meant and token in turn.text), None)
    if token is not None or (mark in turn.text and not turn.points):
        what = f"a text holds {token or mark} itself, which is a token of the answer grammar"
        raise UserError(what, where=f"{turn.text:.60}", fix="write it otherwise, such as without its <>")
    if turn.text.count(mark) != len(turn.points) or not all(turn.points):
        where = f"{turn.text.count(mark)} marks, {len(turn.points)} points: {turn.text:.60}"
        fix = f"write {mark} once for each entry of points, none of them empty"
        raise UserError(f"{mark} in a text and its points differ in number", where=where, fix=fix)


def is_unit(word: str) -> bool:
    """Whether an answer can ask for a unit of this name: one word."""
    return _UNIT.fullmatch(word) is not None


def without_tokens(words: str) -> str:
    """Words in which nothing is a token of answers, regions or images: what looks like one gets another bracket."""
    alike = re.compile("|".join(map(re.escape, (*_TOKENS["ours"], *_TOKENS["published"], REGION_MARK, IMAGE_MARK))))
    return alike.sub(lambda found: "\u2039" + found[0][1:], words)


def write_answer(turn: Turn, grammar: Grammar) -> Written:
    """An answer as the model learns it.

    Args:
        turn: an assistant's; each `<object>` stands behind the `<Phrase>` it is of. An empty one stays empty: an
            answer that is to be given.

    Returns:
        the text, with a plan in front if the grammar has one; `points` of the turn spread over its object tokens.

    Raises:
        UserError: a phrase without an object mark or the other way round, phrases that are not closed, as many marks
            as `points` or `units` not, a unit that is no word, other tokens of the grammar in the words.
    """
    refuse_tokens(turn, grammar)
    if not turn.text:
        return Written(text="")
    units = turn.units or ("box",) * len(turn.points)
    where = f"{turn.text:.60}"
    if len(units) != len(turn.points) or not all(map(is_unit, units)):
        fix = "a unit for each mark, in one word, such as box or mask"
        raise UserError("units that are no words, or not one for each mark", where=f"{units}: {where}", fix=fix)
    pieces = turn.text.split(OBJECT_MARK)
    body = pieces[0]
    for unit, rows, after in zip(units, turn.points, pieces[1:], strict=True):
        objects = "".join(f"[{at}]{grammar.object_token}" for at in range(len(rows)))
        body += f"({UNIT_OPEN}{unit}{UNIT_CLOSE}{objects}){after}"
    found = read(body, object_token=grammar.object_token, units=units, cot=False)
    if found.defects:
        fix = "<Phrase>words</Phrase><object> for each thing, and <Phrase> around nothing else"
        raise UserError(f"an answer that cannot be written: {found.defects[0]}", where=where, fix=fix)
    aims = tuple(
        Aim(row=row, unit=unit, group=group)
        for group, (unit, rows) in enumerate(zip(units, turn.points, strict=True))
        for row in rows
    )
    return Written(text=_plan(found) + body if grammar.cot else body, aims=aims)


def _plan(found: Read) -> str:
    rows = [f"- Name: {' '.join(p.text.split())} Unit: {p.unit} Num: {len(p.rows)}" for p in found.phrases]
    return "\n".join([PLAN_OPEN, *([PLANNED, *rows] if rows else [UNPLANNED]), PLAN_CLOSE, ""])


def read_answer(text: str, grammar: Grammar, units: Collection[str] = UNITS) -> Read:
    """What an answer in the grammar says; of a broken one, what can be read and what is broken (`answers.DEFECTS`).

    Args:
        text: any string at all; this takes time in proportion to its length.
        units: that are known; another is a defect, and is read all the same.
    """
    return read(text, object_token=grammar.object_token, units=units, cot=grammar.cot and not grammar.coordinates)


def spell_answer(ids: Sequence[int], tokenizer: Tokenizer, grammar: Grammar) -> str:
    """Generated tokens as the text that `read_answer` reads: the inverse of the encoding of an answer.

    The text holds as many object tokens as `ids`, in the same order: other added tokens (end marks, padding) are left
    out, and words that look like a token of the grammar get another bracket. Each piece of words is decoded by itself,
    as it was encoded, so that no blanks come in behind special tokens.
    """
    tokens = (*_TAGS, grammar.object_token)
    spelled = {tokenizer.convert_tokens_to_ids(token): token for token in tokens}
    alike = re.compile("|".join(map(re.escape, tokens)))
    out = []
    for is_token, run in groupby(ids, spelled.__contains__):
        if is_token:
            out += [spelled[number] for number in run]
        else:
            said = str(tokenizer.decode(list(run), skip_special_tokens=True))
            out.append(alike.sub(lambda found: "\u2039" + found[0][1:], said))
    return "".join(out)


def wanted(command: str) -> Turn:
    """An answer that is still to be given, as a command asks for it.

    Args:
        command: a unit; a published task (`gcg_segmentation`); "text", for an answer that draws nothing.
    """
    if command in (TEXT, *_TASKS):
        return Turn(role="assistant", text="", task="vqa" if command == TEXT else command)
    return Turn(role="assistant", text="", task=_TASK_OF.get(command, "detection"), units=(command,))


def commands(units: Collection[str]) -> tuple[str, ...]:
    """What `wanted` takes, of a model that draws these units."""
    return (*units, TEXT, *(name for name in _TASKS if name not in units))


def write_command(answer: Turn) -> str:
    """The task command that stands in front of a question, as the published system has it.

    Args:
        answer: the one that is wanted, or an empty turn with `task` and `units`. `task` may say what answers are made
            of ("gcg_detection: sentence, phrase"); without one it is what the answer looks like.
    """
    name, _, elements = (answer.task or _looks_like(answer)).partition(": ")
    usual, unit = _TASKS.get(name, ("phrase" if answer.points else "sentence", ""))
    units = dict.fromkeys(answer.units or (["box"] if answer.points else [unit] if unit else []))
    lines = ["Task Command:", f"- task name: {name}", f"- answer element: {elements or usual}"]
    if not units:
        return "\n".join([*lines, "- unit: None"])
    lines[-1] += ", unit"
    return "\n".join([*lines, "- unit: " + ", ".join(f"{UNIT_OPEN}{one}{UNIT_CLOSE}" for one in units), ""])


def _looks_like(answer: Turn) -> str:
    if not answer.points:
        return "vqa"
    drawn = set(answer.units) <= {"mask", "depth"} and answer.units
    outside = re.sub(rf"{PHRASE_OPEN}.*?{PHRASE_CLOSE}|{OBJECT_MARK}", "", answer.text, flags=re.DOTALL)
    said = any(character.isalnum() for character in outside)
    return ("gcg_" if said else "") + ("segmentation" if drawn else "detection")


def with_commands(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with a system turn in front of every question: the command of the answer that follows it."""
    out: list[Turn] = []
    for number, turn in enumerate(turns):
        if turn.role == "user":
            rest = turns[number + 1 :]
            answer = rest[0] if rest and rest[0].role == "assistant" else Turn(role="assistant", text="")
            out.append(Turn(role="system", text=write_command(answer)))
        out.append(turn)
    return out


def write_coordinates(turn: Turn, boxes: Sequence[Sequence[float]]) -> Turn:
    """A question or an answer with boxes in the text in the place of its marks: `two cats[x0,y0,x1,y1;x0,y0,x1,y1]`.

    Args:
        boxes: float[N, 4], xyxy, of the sample's objects, as parts of the picture, in [0, 1].

    Raises:
        UserError: as many marks as `points` not; a box that goes beyond the picture.
    """
    refuse_tokens(turn, Grammar())
    mark = OBJECT_MARK if turn.role == "assistant" else REGION_MARK
    first, *pieces = turn.text.replace(PHRASE_OPEN, "").replace(PHRASE_CLOSE, "").split(mark)
    for rows, after in zip(turn.points, pieces, strict=True):
        if any(not -_ROUNDING <= value <= 1 + _ROUNDING for row in rows for value in boxes[row]):
            raise UserError("a box that goes beyond its image", where=f"{turn.text:.60}", fix="cut it off at the edge")
        said = (",".join(f"{min(max(value, 0.0), 1.0):.3f}" for value in boxes[row]) for row in rows)
        first += f"[{';'.join(said)}]{after}"
    return replace(turn, text=first, points=(), units=(), prompts=())


def read_coordinates(text: str) -> tuple[Read, list[list[float]]]:
    """An answer with boxes in its text: its words without them, a phrase at the place of each bracket, and the boxes.

    Which of the words a bracket is of is not said, so that phrases have none. What is no box is words.

    Returns:
        and of each object xyxy, parts of the picture.
    """
    words, phrases, boxes, end = "", [], list[list[float]](), 0
    for found in _BOXES.finditer(text):
        words += text[end : found.start()]
        own = [[float(value) for value in box.split(",")] for box in found[1].split(";")]
        rows = tuple(range(len(boxes), len(boxes) + len(own)))
        phrases.append(Phrase(text="", unit="box", rows=rows, start=len(words), end=len(words)))
        boxes += [[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)] for x0, y0, x1, y1 in own]
        end = found.end()
    return Read(words=words + text[end:], phrases=tuple(phrases)), boxes


def write_turns(
    turns: Sequence[Turn], grammar: Grammar, boxes: Sequence[Sequence[float]] = ()
) -> tuple[list[Turn], list[Aim]]:
    """A conversation as a template writes it, and what the object tokens of all its answers stand for, in order.

    Groups count on from answer to answer.

    Args:
        boxes: for coordinates, see `write_coordinates`.

    Raises:
        UserError: an answer that cannot be written (`write_answer`), tokens of the grammar in what humans said.
    """
    out: list[Turn] = []
    aims: list[Aim] = []
    groups = 0
    for turn in with_commands(turns) if grammar.command else turns:
        if grammar.coordinates:
            out.append(write_coordinates(turn, boxes))
        elif turn.role == "assistant":
            written = write_answer(turn, grammar)
            out.append(replace(turn, text=written.text))
            aims += [replace(aim, group=groups + aim.group) for aim in written.aims]
            groups += len(turn.points)
        else:
            out.append(turn)
    for turn in turns:
        if turn.role != "assistant":
            refuse_tokens(turn, grammar)
    return out, aims
