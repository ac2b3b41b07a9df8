"""What is the same for cases of every format of volumes: splits, and patients that must be in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vistruct.data.formats.format import VolumeCase
from vistruct.data.formats.splits import chosen
from vistruct.errors import UserError


def splits_of_cases(cases: Sequence[VolumeCase]) -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted({case.split for case in cases if case.split}))


def straddling(cases: Sequence[VolumeCase]) -> dict[str, list[VolumeCase]]:
    """Patients that are in several splits, each with one case of every such split."""
    splits: dict[str, dict[str, VolumeCase]] = {}
    for case in cases:
        splits.setdefault(case.patient, {}).setdefault(case.split, case)
    return {patient: list(found.values()) for patient, found in splits.items() if len(found) > 1}


def straddles(patient: str, cases: Sequence[VolumeCase], root: Path) -> UserError:
    """What to say of a patient who is in several splits of one data set."""
    places = ", ".join(f"{case.name} in {case.split or 'no split'}" for case in cases)
    what = f"patient {patient} is in several splits: {places}"
    return UserError(what, where=root, fix="keep each patient in one split")


def in_split(cases: Sequence[VolumeCase], split: str | None, root: Path) -> list[VolumeCase]:
    """The cases of a split (or several, with a plus).

    Raises:
        UserError: no such split; several, and none is named.
    """
    wanted = chosen(split, sorted({case.split for case in cases}), root)
    return [case for case in cases if case.split in wanted]


def with_patients(cases: Sequence[VolumeCase], pattern: str | None) -> list[VolumeCase]:
    """The cases with their patients as the first group of a regular expression over their names has them.

    Raises:
        UserError: the expression is none, has no group, or does not fit a name.
    """
    import re

    if pattern is None:
        return list(cases)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        what = f"no regular expression: {error}"
        raise UserError(what, where=f"patient={pattern!r}", fix="for example (P\\d+)_") from None
    found = []
    for case in cases:
        match = expression.search(case.name)
        if match is None or not expression.groups or match.group(1) is None:
            fix = "put brackets around the part that is the patient: (P\\d+)_"
            raise UserError(f"no patient in the name {case.name!r}", where=f"patient={pattern!r}", fix=fix)
        found.append(replace(case, patient=match.group(1)))
    return found
