"""Whom a file of predictions is about: images of the truth by name, or patches of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vistruct.contracts import Record
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.volume_names import ENDINGS
from vistruct.issues import IssueCounter
from vistruct.windows.patches import KNOWN, Patch, patch_of, pattern_of

UNKNOWN_IMAGE = "prediction left out: about an image that the truth does not have"
ON_PATCH = "predictions on a patch: joined to those on its whole image"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An image of the truth, or a part of it."""

    record: Record
    patch: Patch | None = None


class TruthImages:
    """Images of the truth by their names: whole, without folders, without endings."""

    def __init__(self, records: Sequence[Record], report: IssueCounter, patches: str | None = None) -> None:
        """
        Args:
            patches: a template of names, see `windows/patches.py`; None: those that can be nothing else.
        """
        self.records, self.report, self.said = records, report, patches
        self.patterns = [pattern_of(one) for one in ((patches,) if patches is not None else KNOWN)]
        self.by_name: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            for name in dict.fromkeys((record.id, *_shorter(record.id))):
                self.by_name[name].append(record)
        self.known: dict[str, Place | None] = {}
        self.unknown: list[str] = []

    def find(self, name: str, here: str) -> Place | None:
        """The image that is meant; None, and counted: there is none.

        Raises:
            UserError: it may be several.
        """
        if name not in self.known:
            place = self.known[name] = self._found(name, here)
            if place is None:
                self.unknown.append(name)
            elif place.patch is not None:
                self.report.note(ON_PATCH, name, "kept")
        place = self.known[name]
        if place is None:
            self.report.note(UNKNOWN_IMAGE, f"{here}: {name}")
        return place

    def check(self, where: object) -> None:
        """
        Raises:
            UserError: names were asked for, and none of them is an image's.
        """
        if self.unknown and not any(self.known.values()):
            own = self.records[0].id
            what = f"none of these predictions is about an image of the truth: {self.unknown[0]}, and it has {own}"
            fix = "other --data; or, of patches of images, how they are called: --patches '{name}_{x}_{y}'"
            raise UserError(what, where=where, fix=fix)

    def _found(self, name: str, here: str) -> Place | None:
        if self.said is None or patch_of(_plain(name), self.patterns) is None:
            for one in dict.fromkeys((name, *_shorter(name))):
                record = self._only(one, here)
                if record is not None:
                    return Place(record=record)
        patch = patch_of(_plain(name), self.patterns)
        whole = None if patch is None else self._only(patch.name, here) or self._only(_plain(patch.name), here)
        return None if whole is None else Place(record=whole, patch=patch)

    def _only(self, name: str, here: str) -> Record | None:
        found = self.by_name.get(name, [])
        if len(found) > 1:
            what = f"{name!r} may be several images of the truth: {', '.join(one.id for one in found[:3])}"
            raise UserError(what, where=here, fix="name images of predictions with their folders")
        return found[0] if found else None


def numbered(records: Iterable[Record]) -> dict[int, Record]:
    """Those whose names are numbers, by them; none that two share."""
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        stem = _plain(record.id)
        if re.fullmatch(r"[0-9]{1,18}", stem):
            found[int(stem)].append(record)
    return {number: records[0] for number, records in found.items() if len(records) == 1}


def bare(name: str) -> str:
    """A name without the ending of an image, a volume or a text; others belong to it."""
    volume = next((end for end in ENDINGS if name.endswith(end)), "")
    suffix = PurePosixPath(name).suffix
    end = volume or (suffix if suffix.lower() in IMAGE_SUFFIXES | {".txt"} else "")
    return name.removesuffix(end)


def _shorter(name: str) -> tuple[str, ...]:
    """Without its ending, without its folders, without both."""
    return bare(name), PurePosixPath(name).name, _plain(name)


def _plain(name: str) -> str:
    return PurePosixPath(bare(name)).name
