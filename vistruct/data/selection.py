"""Which part of a data set is used, drawn alike for every family: a fraction of it, or one of several splits.

What is drawn are units: images, or patients with all that is theirs. They are ranked by the hashes of their names, so
that every machine draws the same, a larger fraction contains a smaller one, and a new unit moves few of the others to
another split. torch's `random_split` and scikit-learn's `train_test_split` draw anew when a unit is added.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

from vistruct.contracts import Record
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive

BEYOND_FRACTION = "left out: beyond the fraction asked for"
ID = attrgetter("id")  # of records

Item = TypeVar("Item")


def group_of(record: Record) -> str:
    """What must not be in two splits: an image, or those that belong together."""
    return record.group or record.id


def check_random_split(random_split: Mapping[str, float] | None) -> None:
    """Of splits that are drawn.

    Raises:
        UserError: none at all, one that is no part, or more than everything together.
    """
    if random_split is not None and (
        not random_split or min(random_split.values()) <= 0 or sum(random_split.values()) > 1 + 1e-9
    ):
        raise UserError(
            f"random_split={random_split} are no fractions of one",
            where="data.random_split",
            fix="train: 0.8, val: 0.2",
        )


def shared(
    items: Sequence[Item],
    fraction: float,
    seed: int,
    report: IssueCounter,
    *,
    unit: Callable[[Item], str] = ID,
    name: Callable[[Item], str] = ID,
    stratum: Callable[[Item], Hashable] = lambda item: None,
) -> list[Item]:
    """The items of so large a part of the units, in their old order.

    Args:
        fraction: of the units of every stratum; at least one is kept.
        unit: what an item belongs to.
        name: of an item that is left out, for the report.
        stratum: what is drawn from apart from the others, such as a class.
    """
    if fraction == 1:
        return list(items)
    kept: set[str] = set()
    for units in _units(items, unit, stratum):
        kept |= set(_ranked(units, seed, "share")[: max(1, round(fraction * len(units)))])
    for item in items:
        if unit(item) not in kept:
            report.note(BEYOND_FRACTION, name(item))
    return [item for item in items if unit(item) in kept]


def drawn(
    items: Sequence[Item],
    random_split: Mapping[str, float],
    seed: int,
    names: Iterable[str],
    *,
    unit: Callable[[Item], str] = ID,
    stratum: Callable[[Item], Hashable] = lambda item: None,
) -> list[Item]:
    """The items of the splits of these names, in their old order; every stratum is split apart from the others."""
    wanted = set(names)
    kept: set[str] = set()
    for units in _units(items, unit, stratum):
        for name, part in drawn_split(units, random_split, seed).items():
            kept |= part if name in wanted else set()
    return [item for item in items if unit(item) in kept]


def drawn_split(units: Iterable[str], random_split: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Units drawn into splits.

    Args:
        random_split: part of the units for each split, at most 1 together.

    Returns:
        the units of every split, at least one each where there are enough for all; else of the first ones.
    """
    ranked = _ranked(units, seed, "split")
    number, parts = len(ranked), list(random_split.values())
    ends = [round(number * sum(parts[: at + 1])) for at in range(len(parts))]
    ends = [min(max(end, at), number) for at, end in enumerate(ends, start=1)]  # at least one each, from the front
    for at in reversed(range(len(ends) - 1 if number >= len(ends) else 0)):  # and room for those behind
        ends[at] = min(ends[at], ends[at + 1] - 1)
    starts = [0, *ends[:-1]]
    return {name: set(ranked[start:end]) for name, start, end in zip(random_split, starts, ends, strict=True)}


def _ranked(units: Iterable[str], seed: int, word: str) -> list[str]:
    return sorted(units, key=lambda unit: derive(seed, word, unit))


def _units(
    items: Iterable[Item], unit: Callable[[Item], str], stratum: Callable[[Item], Hashable]
) -> list[dict[str, None]]:
    """Of every stratum, each once."""
    found: dict[Hashable, dict[str, None]] = {}
    for item in items:
        found.setdefault(stratum(item), {})[unit(item)] = None
    return list(found.values())
