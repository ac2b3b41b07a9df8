"""What conversations point with and at: how often, and what their objects cannot give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vistruct.contracts import Objects, Record
from vistruct.data.checks.problem import Problem
from vistruct.files.depth import is_depth

UNITS = ("box", "mask", "keypoint", "point", "depth")  # that decoders of ours draw; others are a plug-in's
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

    def add(self, record: Record, where: str) -> None:
        """Those of one conversation.

        Args:
            where: its file and line.
        """
        for number, turn in enumerate(record.turns, start=1):
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
