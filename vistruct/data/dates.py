"""Pairs of dates of one place, from images of which is known that they show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vistruct.contracts import Record
from vistruct.issues import IssueCounter

ALONE = "image left out: no other of its group"
OTHER_SIZE = "image left out: the next of its group has another size"


def in_pairs(records: Sequence[Record], report: IssueCounter) -> list[Record]:
    """Each image with the next of its group by name, as a second image; the last one with the first.

    Args:
        report: counts images alone in their group, and those whose next one has another size.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group or record.id, []).append(record)
    paired: list[Record] = []
    for own in groups.values():
        own = sorted(own, key=lambda record: record.id)
        for record, other in zip(own, own[1:] + own[:1], strict=True):
            if len(own) == 1 or other.size_hw != record.size_hw:
                report.note(ALONE if len(own) == 1 else OTHER_SIZE, record.id, "left out")
                continue
            paired.append(replace(record, images=(*record.images, *other.images)))
    return paired
