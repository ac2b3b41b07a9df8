"""AMOS 2022, its MR volumes: see `amos.py`. Values of MR have no unit, so that every volume has a range of its own."""

from __future__ import annotations

from pathlib import Path

from vistruct.data.formats.volumes.amos import LAST_CT, MODALITIES, all_cases, coding
from vistruct.data.formats.volumes.registry import Case
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter

__all__ = ["INTAKE", "MODALITIES", "cases", "coding", "looks_like"]

INTAKE = Intake(percentiles=(0.5, 99.5), background=0.0, channels=3)
OTHER_MODALITY = "volume left out: CT, and MR is meant (format amos2022 reads them)"


def looks_like(root: Path) -> bool:
    """Never by itself: the CT volumes are what is usually meant."""
    return False


def cases(root: Path, report: IssueCounter) -> list[Case]:
    """The MR volumes."""
    found = all_cases(root)
    for case, number in found:
        if number <= LAST_CT:
            report.note(OTHER_MODALITY, case.name)
    return [case for case, number in found if number > LAST_CT]
