"""Questions whose answers point: what is to be found is named, described or shown, and boxes, masks, ... are drawn."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from vistruct.contracts import OBJECT_MARK, PHRASE_CLOSE, PHRASE_OPEN, Prompt
from vistruct.data.instructions.boxed import WAYS
from vistruct.data.instructions.drawn import nowhere, show
from vistruct.data.instructions.exchange import NOTHING, Exchange, pick
from vistruct.data.instructions.known import Said
from vistruct.data.instructions.material import Material
from vistruct.data.instructions.wordings import WORDINGS
from vistruct.data.instructions.words import plural

Pose = Callable[[Material, np.random.Generator], Exchange | None]
MOST = 40  # objects in one answer
ABSENT = 0.25  # chance that a question is about what is not there, where that is known
DETECTION = {"box": "detection", "mask": "segmentation", "keypoint": "keypoints", "point": "detection"}


def phrased(words: str, marks: int = 1) -> str:
    """`<Phrase>words</Phrase><object>`."""
    return f"{PHRASE_OPEN}{words}{PHRASE_CLOSE}{OBJECT_MARK * marks}"


def listed(groups: Sequence[tuple[str, list[int]]]) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """The answer that names and points at groups of objects, and what its marks stand for."""
    if not groups:
        return NOTHING, ()
    return ", ".join(phrased(name) for name, _ in groups), tuple(tuple(rows) for _, rows in groups)


def number_kind(count: int) -> str:
    """The kind of an answer that points at so many."""
    return NOTHING if not count else str(count) if count < 4 else "4 to 9" if count < 10 else "10 and more"


def all_objects(unit: str) -> Pose:
    """Every object of every class."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        if not known.is_complete or len(known.rows) > MOST:
            return None
        there = [name for name in known.classes if name in known.by_name]
        if not all(known.is_all_shown_of(name) for name in there or known.classes):
            return None
        if len(known.options(unit)) < len(known.rows):
            return None
        groups = [(name, known.of(name)) for name in there]
        answer, points = listed(groups)
        return Exchange(
            family="",
            question=pick(WORDINGS[f"all {unit}"], rng),
            answer=answer,
            answer_class=number_kind(len(known.rows)),
            varies=len(known.rows) > 0,
            points=points,
            unit=unit,
            key=("all", unit),
        )

    return pose


def class_objects(unit: str) -> Pose:
    """Every object of one class, which may be absent."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        there = sorted({known.names[row] for row in known.options(unit, "name")})
        absent = [name for name in known.classes if name not in there]
        options = absent if absent and (not there or rng.random() < ABSENT) else there
        if not options:
            return None
        name = options[rng.integers(len(options))]
        rows = known.of(name)
        if unit == "keypoint":
            rows = [row for row in rows if row in known.options(unit)]
        if not known.is_all_shown_of(name) or len(rows) > MOST or not {*rows} <= {*known.options(unit)}:
            return None
        if unit == "keypoint" and not rows:
            return None  # of a class that may have no key points at all
        answer, points = listed([(name, rows)] if rows else [])
        return Exchange(
            family="",
            question=pick(WORDINGS[f"class {unit}"], rng).format(name=name, names=plural(name)),
            answer=answer,
            answer_class=number_kind(len(rows)),
            about=name,
            varies=len(rows) > 0,
            points=points,
            unit=unit,
            key=("class", name, unit),
        )

    return pose


def expression_object(unit: str) -> Pose:
    """What an expression means: as somebody wrote it, else one that boxes make sure of."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        drawable = {*known.options(unit)}
        said = known.tellable("expression", unit, lambda one: {*one.rows} <= drawable)
        if said:
            number, one = said[rng.integers(len(said))]
            key: tuple[Hashable, ...] = ("expression", number, unit)
        else:
            made = _made_expression(known, rng)
            if made is None or not set(made.rows) <= drawable:
                return None
            one, key = made, ("made expression", made.text, unit)
        answer, points = listed([(one.text, known.in_order(list(one.rows)))] if one.rows else [])
        return Exchange(
            family="",
            question=pick(WORDINGS[f"expression {unit}"], rng).format(phrase=one.text),
            answer=answer,
            answer_class=number_kind(len(one.rows)),
            varies=len(one.rows) > 0,
            points=points,
            unit=unit,
            key=key,
        )

    return pose


def _made_expression(known: Material, rng: np.random.Generator) -> Said | None:
    """`the largest tree`, where it is clear which one that is."""
    if not known.is_complete or not len(known.named):
        return None
    scene, row = known.scene, int(pick(tuple(known.named.tolist()), rng))
    name = known.names[row]
    same = known.of(name)
    if len(same) == 1 and known.is_all_known_of(name):
        return Said(text=f"the only {name}", rows=(row,))
    words, clearest = WAYS[pick(tuple(way for way in WAYS), rng)]
    best = clearest(scene, known.number[name])
    of_scene = [one for one in known.named.tolist() if known.names[one] == name]  # in the order of the scene's boxes
    return None if best is None else Said(text=f"the {words.format(name)}", rows=(of_scene[best],))


def depth(known: Material, rng: np.random.Generator) -> Exchange | None:
    """How far away everything is."""
    if not known.depths:
        return None
    return Exchange(
        family="", question=pick(WORDINGS["depth"], rng), answer=phrased("depth"), answer_class="depth", varies=True,
        points=((known.depths[0],),), unit="depth", key=("depth",),
    )  # fmt: skip


def region_object(prompt: Prompt, unit: str) -> Pose:
    """The object that is shown by hand; none, where it is background."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        shown = nowhere(known, prompt, rng) if rng.random() < ABSENT and unit != "keypoint" else None
        row = None
        if shown is None:
            options = known.options(unit, prompt)
            if not len(options):
                return None
            row = options[rng.integers(len(options))]
            shown = show(known, row, prompt)
            if shown is None:
                return None
        name = "" if row is None else known.names[row] or "object"
        answer, points = listed([] if row is None else [(name, [row])])
        return Exchange(
            family="",
            question=pick(WORDINGS[f"region {unit}"], rng),
            answer=answer,
            answer_class=NOTHING if row is None else name,
            varies=row is not None,
            shown=(shown,),
            prompts=(prompt,),
            points=points,
            unit=unit,
            key=("region", prompt, unit, row if isinstance(shown, tuple) else shown.xy),
        )

    return pose


def others_like(prompt: Prompt, unit: str) -> Pose:
    """All others of the kind of one that is shown; the one itself would be given away."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        options = known.options(prompt, "name")
        if not options:
            return None
        row = options[rng.integers(len(options))]
        name = known.names[row]
        rows = [other for other in known.of(name) if other != row]
        if not known.is_all_shown_of(name) or len(rows) > MOST or not {*rows} <= {*known.options(unit)}:
            return None
        answer, points = listed([(name, rows)] if rows else [])
        return Exchange(
            family="",
            question=pick(WORDINGS[f"others {unit}"], rng),
            answer=answer,
            answer_class=number_kind(len(rows)),
            varies=len(rows) > 0,
            shown=((row,),),
            prompts=(prompt,),
            points=points,
            unit=unit,
            key=("others", prompt, unit, row),
        )

    return pose
