"""What every check of a data set does alike: walk all its splits, and collect what training would stop at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistruct.contracts import Record
from vistruct.data.checks.problem import Problem
from vistruct.data.formats.detect import Family, splits_of
from vistruct.data.formats.format import Ask, Walked
from vistruct.data.formats.maps.coding import CodingUnknown
from vistruct.data.formats.read import walk
from vistruct.errors import UserError
from vistruct.issues import IssueCounter


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What was found in the splits of a data set."""

    family: Family
    part: Any  # the config that says how it is read
    asked: str | None  # the split that is looked at; None: all
    splits: tuple[str, ...]  # those that were looked at; empty where there are none
    walked: dict[str, Walked]  # by split, "" where there are none
    errors: list[UserError]  # everything that training would stop at
    report: IssueCounter  # everything else that was left out or repaired, with all places

    def records(self) -> list[Record]:
        """Of all splits together, each once."""
        found: dict[tuple[Path, ...], Record] = {}
        for part in self.walked.values():
            for record in part.records:
                found.setdefault(record.images, record)
        return list(found.values())

    def images(self) -> dict[str, list[Path]]:
        """The first of each record, by split."""
        return {name: [record.images[0] for record in part.records] for name, part in self.walked.items()}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a family has to say of its data beside the errors and what was counted."""

    counts: dict[str, int]
    classes: dict[str, int] = field(default_factory=dict)
    data_sets: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    stopping: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # counted, and stops: words, what to try


def walk_parts(family: Family, split: str | None, part: Any) -> Parts:
    """Walk a split or all that there are, but for one that is made of others (trainval beside train and val).

    What a later split complains of in the words and at the place of an earlier one is said once; so is that nothing
    says what labels mean. The classes that are found out for one split are those of all, as in training.

    Args:
        part: the config of a data set that the family describes.
    """
    ask: Ask = part.ask()
    if family.kind == "maps":  # an image without labels is no reason to leave out the others: all places are wanted
        ask = replace(ask, missing="drop")
    splits = (split,) if split is not None else _splits(family)
    errors: list[UserError] = []
    report = IssueCounter(keep=10**9)
    walked: dict[str, Walked] = {}
    for name in (None,) if family.kind == "volumes" else splits or (None,):  # volumes say themselves where they belong
        own: list[UserError] = []
        found = walk(family.path, family.kind, family.format, replace(ask, split=name), report, own.append)
        said = {(error.what, error.where) for error in errors}
        is_unknown = any(isinstance(error, CodingUnknown) for error in errors)
        errors += [
            error
            for error in own
            if (error.what, error.where) not in said and not (is_unknown and isinstance(error, CodingUnknown))
        ]
        known = None if ask.chooses or found.coding is None else found.coding.classes
        ask = replace(ask, classes=ask.classes or known)
        walked[name or ""] = found
    return Parts(family=family, part=part, asked=split, splits=splits, walked=walked, errors=errors, report=report)


def _splits(family: Family) -> tuple[str, ...]:
    """None where what would name them is broken, which the walker will tell."""
    try:
        splits = splits_of(family.path, family.format)
    except UserError:
        return ()
    return tuple(name for name in splits if name != "trainval" or not {"train", "val"} <= set(splits))
