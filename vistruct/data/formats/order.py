"""The order of classes: as asked for, as others number them, or sorted; and what follows from it for labels."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Stop
from vistruct.errors import UserError, closest, nearest, typed
from vistruct.files.coding import Coding
from vistruct.issues import IssueCounter

NOT_WANTED = "object left out: its class is not wanted"
IMAGE_NOT_WANTED = "image left out: its class is not wanted"
CLASS_NOT_WANTED = "class that does not count: it is not wanted"
NONE_OF_IT = "class asked for that these data do not have"


def stop_here(error: UserError) -> None:
    """The `Stop` of training."""
    raise error


def class_order(
    found: Collection[str],
    asked: Sequence[str] | None = None,
    *,
    published: Sequence[tuple[str, ...]] = (),
    where: object = "",
    stop: Stop = stop_here,
) -> tuple[str, ...]:
    """The classes that are asked for; else the shortest published list that fits those found; else these, sorted.

    A published list is taken where every class found is in it and at least half of it is found: a folder of ships and
    harbours of one's own is not taken for one of the published sets that have both.

    Args:
        stop: told of every class that is found and not asked for.
    """
    names = set(found)
    if asked is not None:
        for name in (name for name in found if name not in asked):
            what = f"no class {name!r} is asked for, but {_listed(asked)}; these data have it"
            word, like = shlex.quote(name), shlex.quote(nearest(name, asked) or next(iter(asked), "NEW"))
            stop(
                UserError(what, where=where, fix=f"--drop {word} leaves it out; --join {like}={word} makes it another")
            )
        return tuple(asked)
    fitting = [known for known in published if names <= set(known) and 2 * len(names) >= len(known)]
    return min(fitting, key=len) if fitting else tuple(sorted(names))


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which classes are learned, and what becomes of those found."""

    names: tuple[str, ...]
    numbers: tuple[int | None, ...]  # for each class found: its place in `names`; None: it is left out


def choose(
    found: Sequence[str],
    ask: Ask,
    *,
    used: Collection[str] | None = None,
    where: object,
    report: IssueCounter,
    stop: Stop = stop_here,
) -> Chosen:
    """Classes joined, renamed, dropped and chosen, in this order.

    Args:
        found: the classes of the data.
        used: those of them that occur; None: all. One that does not occur may be missing from those asked for.
        stop: told of a class that occurs and is not asked for, where `ask.others` stop; of a name to join or drop
            that the data do not have and have one much like it, where no list of classes decides in any case. Others
            are counted: a split need not have every class.
    """
    joined = {old: new for new, names in ask.join.items() for old in names}
    for name in [*joined, *ask.drop]:
        if name not in found and name not in ask.join:
            if ask.classes is None and nearest(name, found) is not None:  # a typo, it seems
                what = f"no class {name!r} to join or drop; the data have {_listed(found)}"
                stop(UserError(what, where=where, fix=closest(name, found)))
            else:  # a part of a data set need not have every class
                report.note(NONE_OF_IT, name, "kept")
    named = [joined.get(name, name) for name in found]
    left_out = {*ask.drop}
    kept = [new if old not in left_out and new not in left_out else None for old, new in zip(found, named, strict=True)]
    present = tuple(dict.fromkeys(name for name in kept if name is not None))
    if ask.classes is not None:
        occurring = {name for old, name in zip(found, kept, strict=True) if used is None or old in used}
        if ask.others == "stop":
            class_order([name for name in present if name in occurring], ask.classes, where=where, stop=stop)
        if present and not set(present) & set(ask.classes):
            what = f"none of the classes asked for is in these data, which have {_listed(present)}"
            stop(UserError(what, where=where, fix=typed("--classes", present)))
        for name in ask.classes:
            if name not in present:
                report.note(NONE_OF_IT, name, "kept")
        present = tuple(ask.classes)
    number = {name: place for place, name in enumerate(present)}
    return Chosen(names=present, numbers=tuple(None if name is None else number.get(name) for name in kept))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")


def chosen_objects(
    records: list[Record], found: Sequence[str], ask: Ask, *, where: object, report: IssueCounter, stop: Stop
) -> tuple[list[Record], tuple[str, ...]]:
    """The records with the objects of the classes that are wanted, and these; see `choose`."""
    used = {found[label] for record in records for label in np.unique(record.objects.labels).tolist()}
    chosen = choose(found, ask, used=used, where=where, report=report, stop=stop)
    if chosen == Chosen(names=tuple(found), numbers=tuple(range(len(found)))):
        return records, tuple(found)
    to = np.array([-1 if number is None else number for number in chosen.numbers] or [-1], np.int64)
    wanted: list[Record] = []
    for record in records:
        is_kept = to[record.objects.labels] >= 0
        for label in record.objects.labels[~is_kept].tolist():
            report.note(NOT_WANTED, f"{record.id}: {found[label]}")
        one = record if is_kept.all() else record.keep(is_kept)
        wanted.append(one.with_columns(labels=to[one.objects.labels]))
    return wanted, chosen.names


def chosen_images(
    records: list[Record], found: Sequence[str], ask: Ask, *, where: object, report: IssueCounter, stop: Stop
) -> tuple[list[Record], tuple[str, ...]]:
    """The images with a class that is wanted, and these classes; see `choose`."""
    used = {found[label] for record in records for label in record.image_labels or ()}
    chosen = choose(found, ask, used=used, where=where, report=report, stop=stop)
    wanted: list[Record] = []
    for record in records:
        new = [chosen.numbers[label] for label in record.image_labels or ()]
        labels = tuple(dict.fromkeys(label for label in new if label is not None))
        if new and not labels:
            report.note(IMAGE_NOT_WANTED, record.id)
            continue
        wanted.append(replace(record, image_labels=labels))
    return wanted, chosen.names


def chosen_coding(coding: Coding, ask: Ask, *, where: object, report: IssueCounter, stop: Stop = stop_here) -> Coding:
    """The same values or colours with the classes that are wanted; those of others do not count. See `choose`.

    Raises:
        UserError: the classes of a threshold in another order; what `recoded` raises.
    """
    if ask.classes is not None and not (ask.join or ask.drop or ask.others == "drop"):
        return recoded(coding, ask.classes, where)
    chosen = choose(coding.classes, ask, where=where, report=report, stop=stop)
    if chosen.names == coding.classes and chosen.numbers == tuple(range(len(coding.classes))):
        return coding
    if coding.threshold is not None:
        raise UserError("a threshold makes the second class of high values", where=where, fix="keep both classes")
    values = coding.values if coding.values is not None else tuple(range(len(coding.classes)))
    written: Sequence[Any] = values if coding.colours is None else coding.colours
    by_class: dict[str, list[Any]] = {name: [] for name in chosen.names}
    unwanted = []
    for value, number, name in zip(written, chosen.numbers, coding.classes, strict=True):
        (unwanted if number is None else by_class[chosen.names[number]]).append(value)
        if number is None:
            report.note(CLASS_NOT_WANTED, name)
    for name, of_old in coding.more.items():
        number = chosen.numbers[coding.classes.index(name)]
        (unwanted if number is None else by_class[chosen.names[number]]).extend(of_old)
    never = iter(range(min(values, default=0) - 1, -(10**6), -1))
    absent = [name for name, of_class in by_class.items() if not of_class]
    if absent and coding.colours is not None:
        what = f"classes {', '.join(absent)} have no colour in the labels, which have {', '.join(coding.classes)}"
        raise UserError(what, where=where, fix=closest(absent[0], coding.classes))
    first = tuple(of_class[0] if of_class else next(never) for of_class in by_class.values())
    shown = dict(zip(chosen.numbers, coding.palette or (), strict=False))
    has_palette = coding.palette is not None and set(range(len(chosen.names))) <= set(shown)
    return coding.model_copy(
        update={
            "classes": chosen.names,
            "values": first if coding.colours is None else None,
            "colours": None if coding.colours is None else first,
            "more": {name: tuple(of_class[1:]) for name, of_class in by_class.items() if len(of_class) > 1},
            "ignored": (*coding.ignored, *(unwanted if coding.colours is None else ())),
            "ignored_colours": (*coding.ignored_colours, *(() if coding.colours is None else unwanted)),
            "palette": tuple(shown[number] for number in range(len(chosen.names))) if has_palette else None,
        }
    )


def chosen_beside(coding: Coding, names: Sequence[str], ask: Ask, *, where: object) -> Coding:
    """Label maps beside objects, with the classes (`names`) that were chosen for those; the pixels of others do not
    count."""
    wanted = replace(ask, classes=(coding.classes[0], *names), others="drop")
    return chosen_coding(coding, wanted, where=where, report=IssueCounter())  # what is left out, the objects say


def recoded(coding: Coding, asked: Sequence[str], where: object) -> Coding:
    """The same values with their classes numbered as they are asked for; one that the data do not have gets no value.

    Raises:
        UserError: a class of the data that is not asked for; one more than the data have, where colours or a threshold
            say which is which.
    """
    if tuple(asked) == coding.classes:
        return coding
    class_order(coding.classes, asked, where=where)
    if coding.threshold is not None:
        raise UserError("a threshold makes the second class of high values", where=where, fix="keep the order")
    more = [name for name in asked if name not in coding.classes]
    if more and coding.colours is not None:
        what = f"classes {', '.join(more)} have no colour in the labels, which have {', '.join(coding.classes)}"
        raise UserError(what, where=where, fix=closest(more[0], coding.classes))
    known = coding.values if coding.values is not None else range(len(coding.classes))
    values = dict(zip(coding.classes, known, strict=True))
    never = min(values.values(), default=0)
    order = tuple(values.get(name, never - 1 - number) for number, name in enumerate(asked))
    colours = _in_order(coding, coding.colours, asked)
    palette = _in_order(coding, coding.palette, asked)
    said = coding.values is not None or colours is None
    update = {"classes": tuple(asked), "values": order if said else None, "colours": colours, "palette": palette}
    return coding.model_copy(update=update)


def _in_order(
    coding: Coding, given: tuple[tuple[int, int, int], ...] | None, asked: Sequence[str]
) -> tuple[tuple[int, int, int], ...] | None:
    """One for each class; None where one would be missing."""
    by_name = dict(zip(coding.classes, given or (), strict=False))
    return tuple(by_name[name] for name in asked) if set(asked) <= set(by_name) else None
