"""What `vistruct check` has to say of one kind of trouble."""

from __future__ import annotations

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
    """Errors with the same words together, with every place."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for error in errors:
        groups[error.what, error.fix].append(error.where)
    return [
        Problem(what=what, effect="stops training", count=len(places), places=tuple(places), fix=fix)
        for (what, fix), places in groups.items()
    ]


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
