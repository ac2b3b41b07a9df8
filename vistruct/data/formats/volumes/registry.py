"""Which collection of volumes lies at a folder, and the one way to read any of them.

A format is a module here with

    looks_like(root) -> bool                   # cheap
    cases(root, report) -> list[Case]          # of all splits, by the file names alone
    MODALITIES: tuple[str, ...]                # names of the volumes that a case may have, the usual order; (): one
    INTAKE: Intake | None                      # values that become 0 and 255, unless the user says others
    coding(root) -> Coding | None              # what the label values mean, where the format or a file there says it

A new one is one line in VOLUME_FORMATS.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from vistruct.data.formats.boxes.places import chosen
from vistruct.errors import UserError, closest
from vistruct.issues import IssueCounter

# Imported only when asked for. Of several that fit, the first is meant: the last ones fit anything.
VOLUME_FORMATS = {
    "amos2022": "vistruct.data.formats.volumes.amos",
    "amos2022_mr": "vistruct.data.formats.volumes.amos_mr",
    "brats2021": "vistruct.data.formats.volumes.brats",
    "nifti": "vistruct.data.formats.volumes.nifti",
    "dicom": "vistruct.data.formats.volumes.dicom",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One examination of one patient."""

    name: str  # unique in its data set
    patient: str  # two cases of one patient are never in two splits
    images: dict[str, Path]  # by modality, "" where there is only one
    label: Path | None = None
    split: str = ""  # by the name it has on disk in small letters; "": the data set has none


def volume_module(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: no format of that name.
    """
    if name not in VOLUME_FORMATS:
        raise UserError(f"no format of volumes {name!r}", fix=closest(name, VOLUME_FORMATS))
    return importlib.import_module(VOLUME_FORMATS[name])


def matching_volumes(root: Path) -> list[str]:
    """The format that a folder looks like; nothing where it holds no volumes."""
    if not Path(root).is_dir():
        return []
    return next(([name] for name in VOLUME_FORMATS if volume_module(name).looks_like(Path(root))), [])


def detect_volumes(root: Path) -> str:
    """The format that a folder looks like.

    Raises:
        UserError: no such folder, or none fits.
    """
    if not Path(root).exists():
        raise UserError("no such folder", where=root, fix="check the path")
    found = matching_volumes(root)
    if not found:
        what = f"no volumes are found here; known formats: {', '.join(VOLUME_FORMATS)}"
        fix = "images/case.nii.gz with labels/case.nii.gz, or a folder of DICOM files for each series"
        raise UserError(what, where=root, fix=fix)
    return found[0]


def find_cases(root: Path, name: str, report: IssueCounter) -> list[Case]:
    """All cases of a data set, of every split, by name.

    Raises:
        UserError: none; two of one name; a patient in two splits.
    """
    if not Path(root).is_dir():
        raise UserError("no such folder", where=root, fix="check the path")
    cases = sorted(volume_module(name).cases(Path(root), report), key=lambda case: (case.split, case.name))
    if not cases:
        more = f": {'; '.join(report.lines())}" if report.counts else ""
        raise UserError(f"no volumes of format {name} here{more}", where=root, fix="`vistruct check` says more")
    seen: dict[str, Case] = {}
    for case in cases:
        if case.name in seen:
            both = f"{next(iter(seen[case.name].images.values()))}, {next(iter(case.images.values()))}"
            raise UserError(f"two cases are called {case.name}", where=both, fix="rename one, or remove it")
        seen[case.name] = case
    return cases


def straddling(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """Patients that are in several splits, each with one case of every such split."""
    splits: dict[str, dict[str, Case]] = {}
    for case in cases:
        splits.setdefault(case.patient, {}).setdefault(case.split, case)
    return {patient: list(found.values()) for patient, found in splits.items() if len(found) > 1}


def in_split(cases: Sequence[Case], split: str | None, root: Path) -> list[Case]:
    """The cases of a split (or several, with a plus).

    Raises:
        UserError: no such split; several, and none is named.
    """
    wanted = chosen(split, sorted({case.split for case in cases}), root)
    return [case for case in cases if case.split in wanted]


def with_patients(cases: Sequence[Case], pattern: str | None) -> list[Case]:
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
