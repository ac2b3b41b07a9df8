"""What conversations point with and at: how often, and what their objects cannot give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from vistruct.contracts import Record
from vistruct.data.checks.problem import Problem
from vistruct.errors import UserError
from vistruct.vlm.answers import UNITS
from vistruct.vlm.grammar import Grammar, refuse_tokens, write_answer
from vistruct.vlm.lacking import astray, gives, is_lacking, misfit

_SHOWN = "left out where it is drawn or shown: point at what is on the first image, and paint masks on its grid"
_UNWRITTEN = "left out where answers point (task.pointing): write <Phrase>words</Phrase><object> for each thing"
_LEFT_OUT = "left out where it is drawn or shown (task.pointing)"
_FIXES = {
    "mask": "give the object a mask (`masks` of `objects`), or write another unit or prompt",
    "keypoint": "give the object key points (`keypoints` of `objects`), or write another unit",
    "depth": "give the object a depth map as its mask, or write another unit",
}


@dataclass
class Marks:
    """Counted over all conversations."""

    counts: Counter[str] = field(default_factory=Counter)
    lacking: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by "unit" or "prompt", and its name
    unknown: dict[str, list[str]] = field(default_factory=dict)  # by unit
    unwritten: dict[str, list[str]] = field(default_factory=dict)  # by what is wrong with a turn
    nowhere: dict[str, list[str]] = field(default_factory=dict)  # by what is wrong with an object's place

    def add(self, record: Record, where: str) -> None:
        """Those of one conversation.

        Args:
            where: its file and line.
        """
        if why := misfit(record.objects, record.size_hw):
            self.nowhere.setdefault(why, []).append(where)
        for number, turn in enumerate(record.turns, start=1):
            try:
                write_answer(turn, Grammar()) if turn.role == "assistant" else refuse_tokens(turn, Grammar())
            except UserError as error:
                self.unwritten.setdefault(error.what, []).append(f"{where}: turn {number}")
            for row in (row for rows in turn.points for row in rows):
                if why := astray(record.objects, row, record.size_hw):
                    self.nowhere.setdefault(why, []).append(f"{where}: turn {number}, object {row}")
            words = turn.prompts if turn.role == "user" else turn.units
            kind = "prompt" if turn.role == "user" else "unit"
            for rows, word in zip(turn.points, words or ("box",) * len(turn.points), strict=True):
                self.counts[f"{kind} {word}"] += 1
                self.counts["objects pointed at"] += len(rows)
                bad = [row for row in rows if not gives(record.objects, row, word)]
                if bad:
                    places = self.lacking.setdefault((kind, word), [])
                    places += [f"{where}: turn {number}, object {row}" for row in bad]
                if kind == "unit" and word not in UNITS:
                    self.unknown.setdefault(word, []).append(f"{where}: turn {number}")

    def problems(self) -> Iterator[Problem]:
        """What cannot be drawn, and what nobody here knows how to draw."""
        for (kind, word), places in sorted(self.lacking.items()):
            what, fix = is_lacking(kind, word), f"{_LEFT_OUT}: {_FIXES[word]}"
            yield Problem(what=what, effect="left out", count=len(places), places=tuple(places), fix=fix)
        for word, places in sorted(self.unknown.items()):
            fix = f"known: {', '.join(UNITS)}; another needs a decoder of your own (docs/adding.md)"
            what = f"unit {word[:40]!r}, which no decoder of vistruct draws"
            yield Problem(what=what, effect="kept", count=len(places), places=tuple(places), fix=fix)
        for what, places in sorted(self.nowhere.items()):
            yield Problem(what=what, effect="left out", count=len(places), places=tuple(places), fix=_SHOWN)
        for why, places in sorted(self.unwritten.items()):
            what = f"to a model that points, {why}"
            yield Problem(what=what, effect="kept", count=len(places), places=tuple(places), fix=_UNWRITTEN)
