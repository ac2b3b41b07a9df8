"""What an answer in the grammar says, read from any string: a model may write anything.

  <Phrase>Oaks</Phrase>(<Unit>box</Unit>[0]<object>[1]<object>) at <Phrase>cars</Phrase>(<Unit>mask</Unit>[0]<object>).

gives the words "Oaks at cars.", two phrases with their places in these words, and as their rows object tokens 0, 1
and 2. A broken answer gives what can be read, and the names of what is broken (`DEFECTS`). Objects are of the phrase
that was closed last. Blanks behind special tokens, where Llama's tokenizers put one, are allowed everywhere.

The time is in proportion to the length: every character is looked at a fixed number of times, and phrases nest at most
`DEEPEST` deep, so that their texts together are no longer than that many times the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

from vistruct.contracts import PHRASE_CLOSE, PHRASE_OPEN, Phrase

PLAN_OPEN, PLAN_CLOSE, UNIT_OPEN, UNIT_CLOSE = "<Task>", "</Task>", "<Unit>", "</Unit>"
UNITS = ("box", "mask", "keypoint", "point", "depth")
DEEPEST = 8
Defect = Literal[
    "no plan",
    "plan not at the beginning",
    "plan not closed",
    "plan not opened",
    "plan repeated",
    "plan malformed",
    "plan row malformed",
    "phrases differ from plan",
    "count differs from plan",
    "phrase not closed",
    "phrase not opened",
    "phrase empty",
    "phrases nested too deep",
    "phrase without objects",
    "objects without phrase",
    "unit missing",
    "unit unknown",
    "unit not closed",
    "unit not opened",
    "unit without objects",
    "parenthesis missing",
    "index order wrong",
    "stray object token",
]
DEFECTS: tuple[Defect, ...] = get_args(Defect)
Plan = tuple[tuple[str, str, int], ...]

_INDEX = re.compile(r"\s*\[\s*([0-9]{1,9})\s*\]\s*")
_CUT_INDEX = re.compile(r"\s*(?:\[\s*[0-9]*\s*)?")  # where an answer ends in the middle of one
_UNIT_NAME = re.compile(r"\s*([\w-]*)\s*")
_ROW, _HEADER = "- Name:", "Unit decode ("
_TAGS = re.compile("|".join(map(re.escape, (PHRASE_OPEN, PHRASE_CLOSE, UNIT_OPEN, UNIT_CLOSE))))
_BREAK = re.compile(r"[ \t]*\n?")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What an answer says."""

    words: str  # without tokens and without the plan
    # In order of the text; `rows` are numbers of object tokens in order of the text (all of the whole string count),
    # `unit` is as it was written, "" where there is none. A phrase with two units is there twice.
    phrases: tuple[Phrase, ...] = ()
    plan: Plan = ()  # (name, unit, how many)
    defects: tuple[Defect, ...] = ()  # each once


def read(text: str, *, object_token: str, units: Collection[str], cot: bool) -> Read:
    """An answer and its plan. Never raises; see the module.

    Args:
        units: that are known.
        cot: an answer has a plan, and one without is broken.
    """
    reader = _Reader(object_token=object_token, units=units)
    block, parts = _without_plan(text, reader)
    plan = None if block is None else _read_plan(block, reader)
    if plan is None and cot:
        reader.note("no plan")
    for chunk, token in parts:
        reader.step(chunk, token)
    if reader.opened:
        reader.note("phrase not closed")
    words = "".join(reader.out).rstrip()
    phrases = _phrases(reader, words)
    if plan is not None:
        _compare(plan, phrases, reader)
    return Read(words=words, phrases=phrases, plan=plan or (), defects=tuple(reader.defects))


@dataclass
class _Entry:
    """A phrase with one of its units."""

    start: int
    end: int
    unit: str | None = None  # None: nothing points at it yet
    rows: list[int] = field(default_factory=list)
    is_phrase: bool = True  # False: objects that are of none


@dataclass
class _Reader:
    """Where the reading of an answer is between two tokens."""

    object_token: str
    units: Collection[str]
    number: int = 0  # of the next object token
    out: list[str] = field(default_factory=list)  # words
    length: int = 0  # of them
    last: str = ""  # their last character
    gap: bool = False  # blanks were dropped: two words must not run together here
    before: str = ""  # the token before the text that is read
    opened: list[int] = field(default_factory=list)  # where the open phrases begin, the innermost last
    is_fresh: bool = False  # a phrase was opened, and none closed since
    too_deep: int = 0  # open phrases that are not looked at
    entries: list[_Entry] = field(default_factory=list)
    current: _Entry | None = None  # of the phrase that was closed last
    held: _Entry | None = None  # whose objects follow now
    defects: dict[Defect, None] = field(default_factory=dict)

    def note(self, defect: Defect) -> None:
        self.defects[defect] = None

    def step(self, chunk: str, token: str) -> None:
        """Take in text and the token behind it; "" is the end."""
        before, self.before = self.before, token
        if before == UNIT_OPEN:
            name = _UNIT_NAME.match(chunk)
            if token == UNIT_CLOSE:
                self._hold(" ".join(chunk.split()))
                return
            self.note("unit not closed")
            self._hold("" if name is None else name[1])
            chunk = chunk if name is None else chunk[name.end() :]
        if self.held is not None:
            if token == self.object_token and self._takes(chunk):
                return
            chunk = self._let_go(chunk, is_end=not token)
        elif before == PHRASE_CLOSE and chunk.startswith("  "):
            chunk = chunk[1:]
        elif before == PHRASE_OPEN:
            chunk = self._begin_phrase(chunk)
        if token == self.object_token:
            self._object_alone(chunk)
        elif token == UNIT_OPEN:
            bare = chunk.rstrip()
            if not bare.endswith("("):
                self.note("parenthesis missing")
            self._say_before(bare.removesuffix("("))
        elif token == UNIT_CLOSE:
            self._unit_not_opened(chunk)
        else:
            self._say(chunk)
            if token == PHRASE_OPEN:
                self._open()
            elif token == PHRASE_CLOSE:
                self._close()

    def _say(self, text: str) -> None:
        text = text if self.length else text.lstrip()
        if not text:
            return
        if self.gap and self.last.isalnum() and text[0].isalnum():
            text = " " + text
        self.gap = False
        self.out.append(text)
        self.length += len(text)
        self.last = text[-1]

    def _say_before(self, text: str) -> None:
        """Words in front of objects, without the blanks between."""
        bare = text.rstrip()
        self._say(bare)
        self.gap |= len(bare) < len(text)

    def _begin_phrase(self, chunk: str) -> str:
        """Blanks at the beginning of a phrase are before it, and none but where two words would run together."""
        bare = chunk.lstrip()
        if len(bare) < len(chunk) and self.last.isalnum():
            self._say(" ")
            if self.opened and not self.too_deep:
                self.opened[-1] = self.length
        return bare

    def _open(self) -> None:
        if len(self.opened) == DEEPEST:
            self.note("phrases nested too deep")
            self.too_deep += 1
        else:
            self.opened.append(self.length)
            self.is_fresh = True

    def _close(self) -> None:
        if self.too_deep:
            self.too_deep -= 1
        elif self.opened:
            self.current = _Entry(start=self.opened.pop(), end=self.length)
            self.entries.append(self.current)
            self.is_fresh = False
        else:
            self.note("phrase not opened")
            self.current = None

    def _hold(self, unit: str) -> None:
        """Objects with this unit follow."""
        if self.opened and self.is_fresh:
            self.note("phrase not closed")
            self._close()
        of = self.current
        if of is None or of.unit is not None:
            start, end = (self.length, self.length) if of is None else (of.start, of.end)
            of = _Entry(start=start, end=end, is_phrase=of is not None)
            self.entries.append(of)
        of.unit = unit
        self.held = of
        if not of.is_phrase:
            self.note("objects without phrase")
        if not unit:
            self.note("unit missing")
        elif unit not in self.units:
            self.note("unit unknown")

    def _takes(self, chunk: str) -> bool:
        """Whether this is one more object of the held phrase."""
        index = _INDEX.fullmatch(chunk)
        if self.held is None or (index is None and chunk.strip()):
            return False
        if index is None or int(index[1]) != len(self.held.rows):
            self.note("index order wrong")
        self.held.rows.append(self.number)
        self.number += 1
        return True

    def _let_go(self, chunk: str, is_end: bool) -> str:
        """No more objects of this unit; what of the text behind them is words."""
        if self.held is not None and not self.held.rows:
            self.note("unit without objects")
        self.held = None
        bare = chunk.lstrip()
        if bare.startswith(")"):
            return bare[1:]
        self.note("parenthesis missing")
        return "" if is_end and _CUT_INDEX.fullmatch(chunk) else chunk

    def _object_alone(self, chunk: str) -> None:
        """An object token without a unit before it, such as `<Phrase>tree</Phrase>[0]<object>`."""
        words, index = chunk.rstrip(), ""
        if words.endswith("]") and (at := words.rfind("[")) >= 0 and _INDEX.fullmatch(words, at):
            words, index = words[:at].rstrip(), words[at:]
        is_marked = bool(index) or words.endswith("(")
        words = words.removesuffix("(")
        self._say_before(words)
        of = self.current
        behind = of is not None and of.unit is None and of.end == self.length and not self.is_fresh
        if behind or (is_marked and self.opened and self.is_fresh):
            self._hold("")
            self._takes(index)
        else:
            self.note("stray object token")
            self.number += 1

    def _unit_not_opened(self, chunk: str) -> None:
        self.note("unit not opened")
        at = chunk.rfind("(")
        name = _UNIT_NAME.fullmatch(chunk, at + 1)
        if at >= 0 and name is not None and name[1]:
            self._say_before(chunk[:at])
            self._hold(name[1])
        else:
            self._say(chunk)


def _without_plan(text: str, reader: _Reader) -> tuple[str | None, list[tuple[str, str]]]:
    """The plan's text (of several the first; None: there is none), and the answer as (text, token behind it)."""
    tokens = (PLAN_OPEN, PLAN_CLOSE, UNIT_OPEN, UNIT_CLOSE, PHRASE_OPEN, PHRASE_CLOSE, reader.object_token)
    cut = re.compile(f"({'|'.join(map(re.escape, tokens))})")
    parts = [*cut.split(text), ""]  # text and token in turn; "" is the last token
    last_close = max((at for at in range(1, len(parts), 2) if parts[at] == PLAN_CLOSE), default=-1)
    plan: str | None = None
    out: list[tuple[str, str]] = []
    at = 0
    while at < len(parts):
        chunk, token = parts[at], parts[at + 1]
        if token != PLAN_OPEN:
            if token == PLAN_CLOSE:
                reader.note("plan not opened")
            out.append((chunk, token))
            at += 2
            continue
        if plan is not None:
            reader.note("plan repeated")
        elif chunk.strip() or any(t or c.strip() for c, t in out):
            reader.note("plan not at the beginning")
        out.append((chunk, token))
        if at + 1 < last_close:
            end = parts.index(PLAN_CLOSE, at + 2)
            inside = parts[at + 2 : end]
            plan = "".join(inside[::2]) if plan is None else plan
            out += [("", token) for token in inside[1::2] if token == reader.object_token]
            parts[end + 1] = _BREAK.sub("", parts[end + 1], count=1)
            at = end + 1
            continue
        reader.note("plan not closed")
        at += 2
        if plan is None:
            plan, rest = _lines_of_plan("".join(parts[at:]), reader.object_token)
            parts, at, last_close = [*cut.split(rest), ""], 0, -1
    return plan, out


def _lines_of_plan(text: str, object_token: str) -> tuple[str, str]:
    """Where no end is marked: the lines that look like a plan's, and the rest."""
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = _TAGS.sub("", text[at:end]).strip()
        is_cut = end == len(text) and (_ROW.startswith(line) or _HEADER.startswith(line))
        if line and (object_token in line or not (line.startswith((_ROW, _HEADER)) or is_cut)):
            break
        at = end
    return text[:at], text[at:]


def _read_plan(block: str, reader: _Reader) -> Plan:
    rows: list[tuple[str, str, int]] = []
    says: list[bool] = []  # that there are objects
    for line in block.split("\n"):
        line = _TAGS.sub("", line).strip()
        before, _, count = line.rpartition("Num:")
        before, _, unit = before.rpartition("Unit:")
        if line.startswith(_HEADER):
            says.append(line.removeprefix(_HEADER).lstrip().startswith("True"))
        elif before.startswith(_ROW) and unit.strip() and re.fullmatch(r"\s*[0-9]{1,9}", count):
            rows.append((" ".join(before.removeprefix(_ROW).split()), unit.strip(), int(count)))
        elif line:
            reader.note("plan row malformed")
    if says != [bool(rows)]:
        reader.note("plan malformed")
    return tuple(rows)


def _phrases(reader: _Reader, words: str) -> tuple[Phrase, ...]:
    places: dict[tuple[int, int], tuple[int, int, str]] = {}  # the text of a phrase with many units is there once
    out = []
    for entry in reader.entries:
        key = (entry.start, entry.end)
        if key not in places:
            whole = words[entry.start : entry.end]
            bare = whole.strip()
            start = min(entry.start + len(whole) - len(whole.lstrip()), len(words))
            places[key] = (start, start + len(bare), bare)
        start, end, text = places[key]
        if entry.unit is None:
            reader.note("phrase without objects")
        if entry.is_phrase and not text:
            reader.note("phrase empty")
        out.append(Phrase(text=text, unit=entry.unit or "", rows=tuple(entry.rows), start=start, end=end))
    return tuple(out)


def _compare(plan: Plan, phrases: tuple[Phrase, ...], reader: _Reader) -> None:
    names = {text: " ".join(text.split()) for text in {phrase.text for phrase in phrases}}
    said = [(names[p.text], p.unit, len(p.rows)) for p in phrases if p.rows]
    if [row[:2] for row in plan] != [row[:2] for row in said]:
        reader.note("phrases differ from plan")
        if sum(row[2] for row in plan) != sum(row[2] for row in said):
            reader.note("count differs from plan")
    elif list(plan) != said:
        reader.note("count differs from plan")
