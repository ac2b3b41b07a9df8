"""What every format of label maps does alike: find its records, then the coding of their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.maps.coding import fitting
from vistruct.errors import UserError
from vistruct.files.coding import Coding
from vistruct.files.intake import Intake
from vistruct.issues import IssueCounter


def map_format(
    *,
    looks_like: Callable[[Path], bool],
    splits: Callable[[Path], Sequence[str]],
    find: Callable[[Path, Ask, IssueCounter, Stop], list[Record]],
    coding: Callable[[Path, Sequence[Record], Ask, IssueCounter], Coding] | tuple[Coding, ...],
    intake: Intake | None = None,
) -> Format:
    """A format whose labels are raster files.

    Args:
        find: the records of a split, which need no sizes yet.
        coding: what the labels mean, found out; or those that are in use, of which the first that fits is taken.
        intake: what images of many bands are read with, where the user says nothing.
    """

    def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
        records = find(path, ask, report, stop)
        own = ask.coding
        try:
            if own is None:
                if isinstance(coding, tuple):
                    own = fitting(records, coding, path, ask) if records and len(coding) > 1 else coding[0]
                elif records:
                    own = coding(path, records, ask, report)
        except UserError as error:  # what is found is looked at all the same
            stop(error)
        return Walked(records=records, coding=own, intake=intake)

    return Format(kind="maps", looks_like=looks_like, splits=splits, walk=walk)
