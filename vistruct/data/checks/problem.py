"""What `vistruct check` has to say of one kind of trouble."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vistruct.errors import UserError
from vistruct.issues import Effect, IssueCounter


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of trouble, where it occurs, and what training does about it."""

    what: str
    effect: Effect | Literal["stops training"]
    count: int
    places: tuple[str, ...] = ()  # all of those that stop training; of the others all that were kept
    fix: str = ""


def stops(errors: Sequence[UserError]) -> list[Problem]:
    """Errors of one kind together, with every place: the words are the same but for numbers and names in quotes."""
    groups: dict[str, list[UserError]] = defaultdict(list)
    for error in errors:
        groups[_kind(error.what)].append(error)
    found = []
    for group in groups.values():
        first = group[0]
        is_same = all(error.what == first.what for error in group)
        places = tuple(error.where if is_same else f"{error.where}: {error.what}" for error in group)
        found.append(Problem(what=first.what, effect="stops training", count=len(group), places=places, fix=first.fix))
    return found


def _kind(what: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d.,]*(?:e[-+]?\d+)?", "#", what)


def hints(found: Mapping[str, Sequence[str]], fixes: Mapping[str, str] | None = None) -> list[Problem]:
    """What training accepts and a person should look at: places by what is found there; "" is no place."""
    return [
        Problem(
            what=what,
            effect="kept",
            count=len(places),
            places=tuple(place for place in places if place),
            fix=(fixes or {}).get(what, ""),
        )
        for what, places in found.items()
        if places
    ]


def counted(report: IssueCounter) -> list[Problem]:
    """What a reader left out or repaired."""
    return [
        Problem(what=reason, effect=report.effects[reason], count=count, places=tuple(report.examples[reason]))
        for reason, count in sorted(report.counts.items())
        if count
    ]
