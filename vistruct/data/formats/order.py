"""The order of classes: as asked for, as others number them, or sorted; and what follows from it for labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.format import Stop
from vistruct.errors import UserError, closest
from vistruct.files.coding import Coding


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
            told = ", ".join(list(found)[:8]) + (", ..." if len(found) > 8 else "")
            what = f"no class {name!r} is asked for; the data have {told}"
            stop(UserError(what, where=where, fix=closest(name, asked)))
        return tuple(asked)
    fitting = [known for known in published if names <= set(known) and 2 * len(names) >= len(known)]
    return min(fitting, key=len) if fitting else tuple(sorted(names))


def renumbered(records: list[Record], found: Sequence[str], asked: Sequence[str], where: object) -> list[Record]:
    """The records with labels that count in another list of classes.

    Raises:
        UserError: a class with objects that the list does not have.
    """
    used = {int(label) for record in records for label in np.unique(record.objects.labels)}
    class_order([found[label] for label in sorted(used)], asked, where=where)
    number = {name: index for index, name in enumerate(asked)}
    to = np.array([number.get(name, -1) for name in found] or [-1], np.int64)
    return [record.with_columns(labels=to[record.objects.labels]) for record in records]


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
