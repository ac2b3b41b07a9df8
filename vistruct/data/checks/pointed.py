"""What conversations point with and at: how often, and what their objects cannot give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vistruct.contracts import Objects, Record
from vistruct.data.checks.problem import Problem
from vistruct.errors import UserError
from vistruct.files.depth import is_depth
from vistruct.vlm.answers import UNITS
from vistruct.vlm.grammar import Grammar, write_answer

_UNWRITTEN = "left out where answers point (task.pointing): write <Phrase>words</Phrase><object> for each thing"
_FIXES = {
    "mask": "give the object a mask (`masks` of `objects`), or write another unit or prompt",
    "keypoint": "give the object a key point that is annotated (`keypoints` of `objects`), or write another unit",
    "depth": "give the object a depth map as its mask, or write another unit",
}


@dataclass
class Marks:
    """Counted over all conversations."""

    counts: Counter[str] = field(default_factory=Counter)
    lacking: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by "unit" or "prompt", and its name
    unknown: dict[str, list[str]] = field(default_factory=dict)  # by unit
    unwritten: dict[str, list[str]] = field(default_factory=dict)  # by what is wrong with an answer

    def add(self, record: Record, where: str) -> None:
        """Those of one conversation.

        Args:
            where: its file and line.
        """
        for number, turn in enumerate(record.turns, start=1):
            if turn.role == "assistant" and turn.points:
                try:
                    write_answer(turn, Grammar())
                except UserError as error:
                    self.unwritten.setdefault(error.what, []).append(f"{where}: turn {number}")
            words = turn.prompts if turn.role == "user" else turn.units
            kind = "prompt" if turn.role == "user" else "unit"
            for rows, word in zip(turn.points, words or ("box",) * len(turn.points), strict=True):
                self.counts[f"{kind} {word}"] += 1
                self.counts["objects pointed at"] += len(rows)
                bad = [row for row in rows if not _gives(record.objects, row, word)]
                if bad:
                    places = self.lacking.setdefault((kind, word), [])
                    places += [f"{where}: turn {number}, object {row}" for row in bad]
                if kind == "unit" and word not in UNITS:
                    self.unknown.setdefault(word, []).append(f"{where}: turn {number}")

    def problems(self) -> Iterator[Problem]:
        """What cannot be drawn, and what nobody here knows how to draw."""
        for (kind, word), places in sorted(self.lacking.items()):
            noun = "key point" if word == "keypoint" else "depth map" if word == "depth" else word
            what = f"{kind} {word} of an object that has no {noun}"
            yield Problem(what=what, effect="stops training", count=len(places), places=tuple(places), fix=_FIXES[word])
        for word, places in sorted(self.unknown.items()):
            fix = f"known: {', '.join(UNITS)}; another needs a decoder of your own (docs/adding.md)"
            what = f"unit {word[:40]!r}, which no decoder of vistruct draws"
            yield Problem(what=what, effect="kept", count=len(places), places=tuple(places), fix=fix)
        for why, places in sorted(self.unwritten.items()):
            what = f"to a model that points, {why}"
            yield Problem(what=what, effect="kept", count=len(places), places=tuple(places), fix=_UNWRITTEN)


def _gives(objects: Objects[np.ndarray], row: int, word: str) -> bool:
    """Whether what a unit or a prompt is made of is known of an object."""
    mask = None if objects.masks is None else objects.masks[row]
    if word == "mask":
        return bool(mask) and not is_depth(mask)
    if word == "depth":
        return is_depth(mask)
    if word == "keypoint":
        return objects.keypoints is not None and bool((objects.keypoints[row, :, 2] > 0).any())
    return True
