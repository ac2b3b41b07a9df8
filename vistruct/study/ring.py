"""Several teachers of one backbone, each from each start, at equal compute, with the controls that a gain must beat.

A study with `teachers` is short for one with `pretrain`, `inits` and `compare`: `expanded` writes it out. A teacher
counts as worth it only where what it leaves is better than three things that cost less thought:

- the start itself, without any pretraining;
- the same training on the answers of other images (`shuffled`), for those that learn from answers;
- the same steps at a rate of nothing, where layers keep statistics of what they have seen (`normalised`): only these
  follow the images. Where no layer keeps any (LayerNorm), the start itself is that control.

Several pretrainings of each kind (`pretrain_seeds`) begin from the same weights for all teachers, pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vistruct.errors import UserError, closest
from vistruct.study.statistics import holm
from vistruct.study.study import Pretraining, Start, Study

SHUFFLED, NORMALISED = "shuffled", "normalised"
STILL = "optim.lr=1e-30"  # what is added to a weight vanishes beside it
OF_THE_STUDY = ("steps", "seed")  # options of a teacher's recipe that the study sets


@dataclass(frozen=True, kw_only=True)
class Member:
    """An init of a ring, and what it is compared with."""

    init: str  # its name
    start: str
    teacher: str = ""  # "": the start itself
    control: str = ""  # shuffled, normalised; "": the teacher as it is

    @property
    def is_teacher(self) -> bool:
        return bool(self.teacher) and not self.control


def starts_of(study: Study) -> dict[str, Start]:
    """What the teachers go on from."""
    return study.starts or {"random": Start()}


def members(study: Study, kept: Sequence[str] = ()) -> list[Member]:
    """All inits of a ring, in the order in which they are shown.

    Args:
        kept: starts with layers that keep statistics, which get a control of their own.
    """
    starts = starts_of(study)
    found = []
    for start in starts:
        found.append(Member(init=start, start=start))
        own = {name: one for name, one in study.teachers.items() if one.starts is None or start in one.starts}
        shown = {name: one for name, one in own.items() if not one.is_step}
        found += [Member(init=_named(study, start, name), start=start, teacher=name) for name in shown]
        found += [
            Member(init=f"{_named(study, start, name)}.{SHUFFLED}", start=start, teacher=name, control=SHUFFLED)
            for name, one in shown.items()
            if one.control != "none"
        ]
        if start in kept and shown:
            first = next(iter(shown))
            alone = f"{NORMALISED}.{start}" if len(starts) > 1 else NORMALISED
            found.append(Member(init=alone, start=start, teacher=first, control=NORMALISED))
    return found


def _named(study: Study, start: str, teacher: str) -> str:
    """What a teacher leaves of a start, by a name: the teacher's, where it goes on from one alone."""
    own = study.teachers[teacher].starts or tuple(starts_of(study))
    return teacher if len(own) == 1 else f"{teacher}.{start}"


def pairs(ring: Sequence[Member]) -> list[tuple[str, str]]:
    """Who is compared with whom: all with their start, teachers with their controls, starts with the first."""
    found = []
    for one in ring:
        if one.teacher:
            found.append((one.init, one.start))
        if one.is_teacher:
            found += [(one.init, other.init) for other in controls(one, ring)]
    return found + [(one.init, ring[0].start) for one in ring[1:] if not one.teacher]


def controls(teacher: Member, ring: Sequence[Member]) -> list[Member]:
    """What else than its start a teacher must beat."""
    return [
        one
        for one in ring
        if one.start == teacher.start
        and (one.control == NORMALISED or (one.control == SHUFFLED and one.teacher == teacher.teacher))
    ]


def expanded(study: Study, kept: Sequence[str] = ()) -> Study:
    """The same study with its teachers written out; one without teachers as it is.

    Args:
        kept: as `members`.

    Raises:
        UserError: teachers that come after none or in parts that are not the whole, an unknown start, names twice.
    """
    if not study.teachers:
        return study
    _check(study)
    ring = members(study, kept)
    pretrain, inits = dict(study.pretrain), dict(study.inits)
    many = study.pretrain_seeds
    for start, one in starts_of(study).items():
        repeated = many if one.is_random else 1
        for p in range(repeated):
            begun = Pretraining(
                recipe=one.recipe or study.recipe,
                options={**(study.options if one.recipe in (None, study.recipe) else {}), **one.options},
                settings=one.settings,
                seed=p,
                is_begun_only=True,
            )
            pretrain[begun_at(study, start, p)] = begun
    for member in ring:
        repeated = many if member.teacher or starts_of(study)[member.start].is_random else 1
        for p in range(repeated) if member.teacher else ():
            pretrain |= _pretrainings(study, member, p)
        places = tuple(
            _place(member.init, p, repeated) if member.teacher else begun_at(study, member.start, p)
            for p in range(repeated)
        )
        if member.init in inits or (member.teacher and member.init in study.pretrain):
            fix = "call the teacher, or the other, something else"
            raise UserError(f"two inits are called {member.init!r}", where="teachers", fix=fix)
        inits[member.init] = places if repeated > 1 else places[0]
    first = next(iter(starts_of(study)))
    against = (first, *(one.init for one in ring if one.control))
    update = {
        "teachers": {}, "starts": starts_of(study), "pretrain": pretrain, "inits": inits, "against": against,
        "compare": (*study.compare, *pairs(ring)),
    }  # fmt: skip
    return Study.model_validate({**study.model_dump(), **update})


def begun_at(study: Study, start: str, p: int) -> str:
    """The pretraining that leaves a start's weights; random ones are drawn for each repetition."""
    return _place(f"start.{start}", p, study.pretrain_seeds if starts_of(study)[start].is_random else 1)


def _place(name: str, p: int, many: int) -> str:
    return f"{name}.{p}" if many > 1 else name


def _pretrainings(study: Study, member: Member, p: int) -> Iterator[tuple[str, Pretraining]]:
    """What makes an init: the steps that lead to it, which all that come after them have in common, and it."""
    many = study.pretrain_seeds
    begun = begun_at(study, member.start, p)
    chain = [member.teacher]
    while (before := study.teachers[chain[0]].after) is not None:
        chain.insert(0, before)
    last = ""
    for name in chain:
        one, is_end = study.teachers[name], name == member.teacher
        other = one.control if is_end and member.control == SHUFFLED else None
        init = member.init if is_end else _named(study, member.start, name)
        place = _place(init, p, many)
        yield (
            place,
            Pretraining(
                recipe=one.recipe,
                options={**one.options, **(other if isinstance(other, dict) else {})},
                settings=(*one.settings, *((STILL,) if is_end and member.control == NORMALISED else ())),
                start=last or None,
                backbone=None if last else begun,
                is_from_random=not last and starts_of(study)[member.start].is_random,
                seed=p,
                budget=None if study.budget is None else study.budget.times(one.part),
                # Of one teacher all repetitions and controls have the same steps.
                paced_as=_place(_named(study, member.start, name), 0, many),
                is_shuffled=other == SHUFFLED,
            ),
        )
        last = place


def chain_of(study: Study, name: str) -> list[str]:
    """The pretrainings that lead to one, and it; but not what they all began with.

    Args:
        study: written out.
    """
    one = study.pretrain[name]
    before = [need for need in one.needs if not study.pretrain[need].is_begun_only]
    return [*(earlier for need in before for earlier in chain_of(study, need)), name]


def _check(study: Study) -> None:
    names = list(study.teachers)
    for at, (name, one) in enumerate(study.teachers.items()):
        where = f"teachers.{name}"
        for option in OF_THE_STUDY:
            if option in one.options:
                fix = {"steps": "budget: {samples: ...}", "seed": "pretrain_seeds"}[option]
                raise UserError(f"the study sets {option!r} of a teacher itself", where=where, fix=fix)
        if one.after is not None and one.after not in names[:at]:
            what = f"it comes after {one.after!r}, which is no teacher above it"
            raise UserError(what, where=where, fix=closest(one.after, names[:at]))
        for start in one.starts or ():
            if start not in starts_of(study):
                raise UserError(f"no start {start!r}", where=where, fix=closest(start, starts_of(study)))
        whole, before = one.part, one.after
        while before is not None:
            whole, before = whole + study.teachers[before].part, study.teachers[before].after
        if not one.is_step and abs(whole - 1) > 1e-6:
            what = f"its part of the budget, with what it comes after, is {whole:g}, and teachers have equal ones"
            raise UserError(what, where=f"{where}.part", fix="parts that add up to 1")
    if all(one.is_step for one in study.teachers.values()):
        raise UserError("all teachers are steps to others", where="teachers", fix="is_step: false for one of them")


def verdicts(
    ring: Sequence[Member],
    gains: Sequence[Mapping[str, Any]],
    level: float,
    values: Mapping[Any, float | None],
    tested: Sequence[float | None] = (),
) -> list[dict[str, Any]]:
    """For each start, tuning mode and fraction: the teacher that pays, or none.

    A teacher pays where it is clearly better than its start and than every control. The chance of that by luck is the
    largest of its tests, since all must hold; these are corrected for how many teachers are looked at, in all modes and
    fractions together (Holm).

    Args:
        gains: of study.json.
        level: of the intervals.
        values: the mean of each (init, fraction, tuning), in the direction in which more is better.
        tested: chances of the same kind that other studies of these pretrainings found, corrected for, too.

    Returns:
        start, fraction, tuning, best (the init, or None), teachers: for each that was compared its name, init, mean,
        gain and interval over the start, p (the largest, corrected), pays, and what it did not beat.
    """
    of = {(g["init"], g["against"], g["fraction"], g["tuning"]): g for g in gains}
    rows: list[dict[str, Any]] = []
    cells = list(dict.fromkeys((g["fraction"], g["tuning"]) for g in gains))
    for one in (member for member in ring if member.is_teacher):
        others = [one.start, *(control.init for control in controls(one, ring))]
        for fraction, tuning in cells:
            tests = {other: of[one.init, other, fraction, tuning] for other in others}
            known = [test["p"] for test in tests.values()]
            unbeaten = [other for other, test in tests.items() if test["verdict"] != "clear gain"]
            rows.append(
                {
                    "start": one.start, "fraction": fraction, "tuning": tuning, "teacher": one.teacher,
                    "init": one.init, "value": values.get((one.init, fraction, tuning)),
                    "gain": tests[one.start]["mean"], "interval": tests[one.start]["student"],
                    "p": None if None in known else max(known), "unbeaten": unbeaten,
                }
            )  # fmt: skip
    for row, p in zip(rows, holm([*(row["p"] for row in rows), *tested])[: len(rows)], strict=True):
        row["p_holm"] = p
        row["pays"] = not row["unbeaten"] and p is not None and p < 1 - level
    found = []
    for start in dict.fromkeys(one.start for one in ring if one.is_teacher):
        for fraction, tuning in cells:
            own = [row for row in rows if (row["start"], row["fraction"], row["tuning"]) == (start, fraction, tuning)]
            paying = [row for row in own if row["pays"] and row["value"] is not None]
            best = max(paying, key=lambda row: row["value"])["init"] if paying else None
            found.append({"start": start, "fraction": fraction, "tuning": tuning, "best": best, "teachers": own})
    return found
