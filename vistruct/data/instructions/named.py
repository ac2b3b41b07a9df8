"""Questions that are answered in words, some with marks: captions, names, counts, reasons, and talks as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from vistruct.contracts import REGION_MARK, Prompt, Turn
from vistruct.data.instructions import families
from vistruct.data.instructions.drawn import nowhere, show
from vistruct.data.instructions.exchange import NOTHING, Exchange, pick
from vistruct.data.instructions.found import ABSENT, Pose, number_kind, phrased
from vistruct.data.instructions.known import Told
from vistruct.data.instructions.material import Material
from vistruct.data.instructions.scene import HALVES, Scene
from vistruct.data.instructions.wordings import WORDINGS
from vistruct.data.instructions.words import article, plural, several

SHARED = 0.5  # of an object's box: one of another class that has so much of it makes it unclear what is shown
FEW_WORDS = 6  # up to here an answer is a short one
MOST_CANDIDATES = 4


def caption(known: Material, rng: np.random.Generator) -> Exchange | None:
    """What somebody said of the image, else what its boxes say."""
    told = known.tellable("caption", "words", lambda one: True)
    if told:
        at, one = told[rng.integers(len(told))]
        answer, key = one.text, ("caption", at, "words")
    else:
        made = _of_scene(families.caption, known, rng)
        if made is None or known.known.sentences:
            return None
        answer, key = made.answer, ("made caption",)
    question = pick(WORDINGS["caption"], rng)
    return Exchange(family="", question=question, answer=answer, answer_class="caption", varies=True, key=key)


def _of_scene(
    family: Callable[[Scene, np.random.Generator], Exchange | None], known: Material, rng: np.random.Generator
) -> Exchange | None:
    return family(known.scene, rng) if known.is_complete and known.classes else None


def caption_objects(unit: str) -> Pose:
    """A sentence whose phrases point at what they mean."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        drawable = {*known.options(unit)}
        kind = f"caption {unit}"

        def fits(one: Told) -> bool:
            rows = [row for phrase in one.phrases for row in phrase.rows]
            return bool(rows) and set(rows) <= drawable

        told = known.tellable("caption", unit, fits)
        if told:
            at, one = told[rng.integers(len(told))]
            answer, points = marked(one)
            key: tuple[Hashable, ...] = ("caption", at, unit)
        else:
            groups = [(name, known.of(name)) for name in known.classes if name in known.by_name]
            sure = all(known.is_all_known_of(name) for name, _ in groups)
            every = {row for _, rows in groups for row in rows}
            if known.known.sentences or not groups or not sure or not every <= drawable:
                return None
            parts = [phrased(several(len(rows), name) if len(rows) > 1 else article(name)) for name, rows in groups]
            answer, points = f"The image shows {_joined(parts)}.", tuple(tuple(rows) for _, rows in groups)
            key = ("made caption", unit)
        if sum(map(len, points)) > MOST_IN_CAPTION:
            return None
        return Exchange(
            family="", question=pick(WORDINGS[kind], rng), answer=answer,
            answer_class=number_kind(sum(map(len, points))), varies=True, points=points, unit=unit, key=key,
        )  # fmt: skip

    return pose


MOST_IN_CAPTION = 40


def marked(told: Told) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """A sentence with marks behind the phrases that mean objects, and what those stand for."""
    text, at, points = "", 0, []
    for phrase in told.phrases:
        if phrase.rows:
            text += told.text[at : phrase.start] + phrased(told.text[phrase.start : phrase.end])
            at = phrase.end
            points.append(phrase.rows)
    return text + told.text[at:], tuple(points)


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def short_answer(known: Material, rng: np.random.Generator) -> Exchange | None:
    """Whether, how many, where: of what boxes make sure; of an image with a class of its own, that."""
    if known.known.image_labels and not len(known.rows):
        label = known.known.image_labels[rng.integers(len(known.known.image_labels))]
        question = pick(WORDINGS["class of image"], rng)
        return Exchange(family="", question=question, answer=label, answer_class=label, key=("class of image", label))
    ask = (families.presence, families.count, families.where)[rng.integers(3)]
    made = _of_scene(ask, known, rng)
    if made is None:
        return None
    return Exchange(
        family="", question=made.question, answer=made.answer, answer_class=made.answer,
        about=f"{made.family} {made.about}", key=("answer", made.question),
    )  # fmt: skip


def reason(known: Material, rng: np.random.Generator) -> Exchange | None:
    """How many there are, counted by halves."""
    if not known.is_complete or not known.classes:
        return None
    name = known.classes[rng.integers(len(known.classes))]
    rows = known.of(name)
    if not known.is_all_known_of(name):
        return None
    first = 0 if rng.random() < 0.5 else 2
    boxes = known.known.objects.boxes_xyxy[rows].astype(np.float64)
    counts = [int(known.scene.in_half(boxes, first + i).sum()) if rows else 0 for i in range(2)]
    halves = " and ".join(f"{count or 'none'} in the {HALVES[first + i]}" for i, count in enumerate(counts))
    answer = (
        f"There are {halves}, so {several(len(rows), name)}."
        if rows
        else f"There is none anywhere, so no {plural(name)}."
    )
    return Exchange(
        family="", question=pick(WORDINGS["reason"], rng).format(name=name, names=plural(name)), answer=answer,
        answer_class=number_kind(len(rows)), about=name, varies=len(rows) > 0, key=("reason", name),
    )  # fmt: skip


def region_label(prompt: Prompt) -> Pose:
    """What an object that is shown is called, or how somebody described it."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        if rng.random() < ABSENT:
            shown = nowhere(known, prompt, rng)
            answer, key = NOTHING, ("label", prompt, None if shown is None else shown.xy)
            words = "label"
        else:
            options = known.options(prompt, "name")
            drawable = {*known.options(prompt)}
            said = known.tellable("description", prompt, lambda one: len(one.rows) == 1 and one.rows[0] in drawable)
            if said and (not len(options) or rng.random() < DESCRIBED):
                at, one = said[rng.integers(len(said))]
                row, answer, words, key = one.rows[0], one.text, "description", ("description", at, prompt)
            elif len(options):
                row = options[rng.integers(len(options))]
                answer, words, key = known.names[row], "label", ("label", prompt, row)
                if _is_shared(known, row):
                    return None
            else:
                return None
            shown = show(known, row, prompt)
        if shown is None:
            return None
        is_said = words == "description"
        return Exchange(
            family="", question=pick(WORDINGS[words], rng), answer=answer,
            answer_class=words if is_said else answer, varies=is_said, shown=(shown,), prompts=(prompt,), key=key,
        )  # fmt: skip

    return pose


DESCRIBED = 0.7  # chance of a description, where there is one, against the class


def _is_shared(known: Material, row: int) -> bool:
    """Whether an object of another class lies on half of this one's box or more."""
    return bool((known.covered(row)[known.labels != known.labels[row]] >= SHARED).any())


def region_answer(prompt: Prompt) -> Pose:
    """A question about one or two objects that are shown, with a short answer."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        options = known.options(prompt, "name")
        if not options:
            return None
        row = options[rng.integers(len(options))]
        name, way = known.names[row], int(rng.integers(3))
        rows = [row]
        if way == 0:  # is it one?
            others = [one for one in known.classes if one != name]
            is_it = not others or rng.random() < 0.5
            about = name if is_it else others[rng.integers(len(others))]
            question, answer = pick(WORDINGS["is it"], rng).format(a_name=article(about)), "yes" if is_it else "no"
        elif way == 1:  # how many of its kind?
            if not known.is_all_known_of(name):
                return None
            about, answer = "count", str(len(known.of(name)))
            question = pick(WORDINGS["how many like it"], rng)
        else:  # are both the same?
            others = [one for one in options if one != row]
            unlike = [one for one in others if known.names[one] != name]
            among = unlike if unlike and rng.random() < 0.5 else others
            if not among:
                return None
            rows = [row, among[rng.integers(len(among))]]
            about, answer = "same", "yes" if known.names[rows[1]] == name else "no"
            question = pick(WORDINGS["are both"], rng)
        shown = [None if _is_shared(known, one) else show(known, one, prompt) for one in rows]
        found = tuple(one for one in shown if one is not None)
        if len(found) < len(rows):
            return None
        return Exchange(
            family="", question=question, answer=answer, answer_class=answer, about=about, shown=found,
            prompts=(prompt,) * len(rows), key=("region answer", prompt, way, *rows, about),
        )  # fmt: skip

    return pose


def choice(unit: str, *, with_reason: bool = False) -> Pose:
    """Which of some objects that are shown is of a class: pointed at, or none; with a reason what the others are."""

    def pose(known: Material, rng: np.random.Generator) -> Exchange | None:
        options = [row for row in known.options(unit, "name") if not _is_shared(known, row)]
        there = sorted({known.names[row] for row in options})
        if len(options) < 2 or len(there) < 2:
            return None
        name = there[rng.integers(len(there))]
        mine = [row for row in options if known.names[row] == name]
        rest = [row for row in options if known.names[row] != name]
        others = [rest[i] for i in rng.permutation(len(rest))[: int(rng.integers(1, MOST_CANDIDATES))]]
        row = None if rng.random() < ABSENT and len(others) > 1 else mine[rng.integers(len(mine))]
        rows = others if row is None else [*others, row]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        regions = f"{', '.join([REGION_MARK] * (len(rows) - 1))} or {REGION_MARK}"
        wording = pick(WORDINGS["choice reason" if with_reason else "choice"], rng)
        answer, points = (NOTHING, ()) if row is None else (phrased(name), ((row,),))
        if with_reason:
            kinds = list(dict.fromkeys(known.names[one] for one in rows if one != row))
            groups = [[one for one in rows if one != row and known.names[one] == kind] for kind in kinds]
            told = _joined(
                [
                    f"{phrased(several(len(g), k) if len(g) > 1 else article(k))}"
                    for k, g in zip(kinds, groups, strict=True)
                ]
            )
            verb = "is" if len(rows) - (row is not None) == 1 else "are"
            seen = f"There {verb} {told}"
            answer = f"{seen}, so none." if row is None else f"{seen}, so it is {phrased(f'the {name}')}."
            points = (*(tuple(group) for group in groups), *points)
        place = NOTHING if row is None else str(rows.index(row) + 1)
        return Exchange(
            family="", question=wording.format(a_name=article(name), regions=regions), answer=answer,
            answer_class=place, about=str(len(rows)), shown=tuple((one,) for one in rows),
            prompts=("box",) * len(rows), points=points, unit=unit, key=("choice", unit, with_reason, name, *rows),
        )  # fmt: skip

    return pose


def talk_type(talk: Sequence[Turn]) -> str:
    """The task type that a conversation is an example of, told by its marks and its length."""
    asked = [turn for turn in talk if turn.role == "user"]
    answers = [turn for turn in talk if turn.role == "assistant"]
    words = max((len(turn.text.split()) for turn in answers), default=0)
    pointed = [turn for turn in answers if turn.points]
    prompt = next((turn.prompts[0] if turn.prompts else "box" for turn in asked if turn.points), None)
    unit = next((turn.units[0] if turn.units else "box" for turn in pointed), None)
    if prompt is None and unit is None:
        return "image-chat" if len(asked) > 1 else "image-answer" if words <= FEW_WORDS else "image-reason"
    if unit is None:
        return "scribble-text" if prompt == "scribble" else f"{prompt}-answer"
    if prompt is None:
        return {
            "mask": "caption-masks",
            "box": "caption-boxes",
            "keypoint": "image-keypoints",
            "depth": "image-depth",
        }.get(unit, "class-points")
    if sum(len(turn.points) for turn in asked) > 1:
        return "boxes-reason" if words > FEW_WORDS else "boxes-choice"
    if unit == "keypoint":
        return "region-keypoints"
    return (
        "mask-masks" if (prompt, unit) == ("mask", "mask") else f"{prompt}-{unit}" if prompt != unit else "boxes-choice"
    )
