"""What is known of a picture becomes conversations about it: rare task types and answers first, so that all balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from vistruct.contracts import IMAGE_MARK, NO_OBJECTS, Objects, Record, Region, Turn
from vistruct.data.instructions.converse import CANDIDATES, Tally
from vistruct.data.instructions.drawn import with_regions
from vistruct.data.instructions.exchange import NOTHING, Exchange
from vistruct.data.instructions.known import Known
from vistruct.data.instructions.material import Material, Telling
from vistruct.data.instructions.named import talk_type
from vistruct.data.instructions.tasks import NEEDS, TASKS

AT_MOST_NONE = 0.25  # share of the answers of a task type that say that there is nothing
ROUNDING = 2  # decimals of a pixel that are written


def conversations(
    known: Known,
    rng: np.random.Generator,
    tally: Tally,
    *,
    names: Sequence[str] = tuple(TASKS),
    per_image: int | None = 1,
    turns: int = 4,
    had: Counter[str] | None = None,
) -> Iterator[Record]:
    """Conversations of up to so many questions about one picture, and behind them the talks that came with it.

    Args:
        names: of TASKS, what may be asked.
        per_image: how many conversations, at most; None: as many as use what was said of it, at least one.
        turns: questions in each, at most; a talk is longer if it came so.
        had: counts the needs of NEEDS that the picture meets.
    """
    material, lines = Material(known=known), []
    needs = {need for need, has in NEEDS.items() if has(material)}
    if had is not None:
        had.update(needs)
    left = [name for name in names if TASKS[name].pose is not None and needs.issuperset(TASKS[name].needs)]
    left_to_say = None
    while len(lines) < per_image if per_image is not None else left_to_say != _left(material, left):
        left_to_say = _left(material, left)
        first = [name for name in left_to_say if per_image is None]
        exchanges = _ask(material, rng, tally, left, turns, first)
        if not exchanges:
            break
        lines.append(exchanges)
    room = 0
    for talk in known.talks:
        name = talk_type(talk)
        if name not in names:
            continue
        answers = [turn for turn in talk if turn.role == "assistant"]
        one = Exchange(family=name, question="", answer="", answer_class="talk", varies=True, talk=talk)
        tally.add(one)
        if room < len(answers) or talk[0].role == "system":
            lines.append([])
            room = turns
        lines[-1].append(one)
        room -= len(answers)
    for number, exchanges in enumerate(lines):
        yield _record(material, exchanges, f"{known.id}-{number}" if len(lines) > 1 else known.id)


def _left(material: Material, names: Sequence[str]) -> dict[str, int]:
    """How much of what somebody said is still to be used, by the task types that can."""
    counts = {kind: len(material.untold(kind)) for kind in get_args(Telling)}
    return {name: counts[says] for name in names if (says := TASKS[name].says) is not None and counts[says]}


def _ask(
    material: Material,
    rng: np.random.Generator,
    tally: Tally,
    names: Sequence[str],
    turns: int,
    first: Collection[str],
) -> list[Exchange]:
    """The questions of one conversation, in the order of TASKS; those of `first` are asked before the rare ones."""
    left = list(names)
    chosen: list[Exchange] = []
    while left and len(chosen) < turns:
        order = [left[i] for i in rng.permutation(len(left))]
        left = []
        for name in sorted(order, key=lambda name: (name not in first, tally.families[name])):
            if len(chosen) == turns:
                break
            one = _best(material, name, rng, tally)
            if one is not None:
                material.asked.add(one.key)
                tally.add(one)
                chosen.append(one)
                left.append(name)  # which has more to ask, maybe
    at = {name: number for number, name in enumerate(TASKS)}
    return sorted(chosen, key=lambda one: at[one.family])


def _best(material: Material, name: str, rng: np.random.Generator, tally: Tally) -> Exchange | None:
    """Of a few questions the one whose answer is the rarest; None where nothing fits or all is worn out."""
    kind = TASKS[name]
    assert kind.pose is not None
    found = []
    for _ in range(CANDIDATES):
        drawn = kind.pose(material, rng)
        if drawn is None or drawn.key in material.asked:
            continue
        fields: dict[str, Any] = {**vars(drawn), "family": name, "task": kind.task}
        one = Exchange(**fields)  # `replace` takes ten times as long
        if not tally.is_worn(one) and not (one.answer_class == NOTHING and _none_is_worn(name, tally)):
            found.append(one)
    return min(found, key=tally.rarity, default=None)


def _none_is_worn(name: str, tally: Tally) -> bool:
    nothing = tally.answers[name][NOTHING] if name in tally.answers else 0
    return nothing + 1 > AT_MOST_NONE * (tally.families[name] + 1) + 1


def _record(material: Material, exchanges: Sequence[Exchange], name: str) -> Record:
    """A line: its turns, and the objects that they point at."""
    regions: list[Region] = []
    turns: list[Turn] = []
    families: list[str] = []
    for one in exchanges:
        if one.talk:
            turns += one.talk if len(exchanges) == 1 else [_unmarked(turn) for turn in one.talk]
            families += [one.family for turn in one.talk if turn.role == "assistant"]
            continue
        families.append(one.family)
        shown = []
        for what in one.shown:
            if isinstance(what, Region):
                shown.append((len(material.known.objects) + len(regions),))
                regions.append(what)
            else:
                shown.append(what)
        units = (one.unit,) * len(one.points)
        turns.append(Turn(role="user", text=one.question, points=tuple(shown), prompts=one.prompts))
        turns.append(Turn(role="assistant", text=one.answer, points=one.points, units=units, task=one.task))
    objects = with_regions(material.known.objects, regions)
    objects, turns = pruned(objects, turns)
    if turns and IMAGE_MARK not in "".join(turn.text for turn in turns):
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = replace(turns[first], text=f"{IMAGE_MARK}\n{turns[first].text}")
    return Record(
        id=name, images=(material.known.image,), size_hw=material.known.size_hw, objects=objects, turns=tuple(turns),
        families=tuple(families),
    )  # fmt: skip


def _unmarked(turn: Turn) -> Turn:
    """A turn of one of several talks in a line, whose image is shown in the first turn of all."""
    return replace(turn, text=turn.text.replace(IMAGE_MARK, "").strip())


def pruned(objects: Objects[np.ndarray], turns: Sequence[Turn]) -> tuple[Objects[np.ndarray], list[Turn]]:
    """The objects that turns point at and no others, as a line has them: words for labels, hundredths of a pixel."""
    used = sorted({row for turn in turns for rows in turn.points for row in rows})
    if not used:
        return NO_OBJECTS, list(turns)
    at = {row: number for number, row in enumerate(used)}
    moved = [replace(turn, points=tuple(tuple(at[row] for row in rows) for rows in turn.points)) for turn in turns]
    kept = objects.keep(np.array(used))
    columns = {name: column for name, column in kept.columns().items() if name != "boxes_cxcywha"}
    columns["labels"] = np.full(len(used), -1)
    for name, column in columns.items():
        if isinstance(column, np.ndarray) and column.dtype.kind == "f":
            columns[name] = np.round(column.astype(np.float64), ROUNDING)
    shown = {prompt for turn in turns for prompt in turn.prompts}
    units = {unit for turn in turns for unit in turn.units}
    masks, points = kept.masks or (), kept.keypoints
    if not any(masks) or not (shown - {"box"} or units & {"mask", "depth"}):
        columns.pop("masks", None)
    if points is None or not points[..., 2].any() or not ("point" in shown or "keypoint" in units):
        columns.pop("keypoints", None)
    return Objects.of(columns), moved
