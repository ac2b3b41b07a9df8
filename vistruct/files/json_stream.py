"""Json that is larger than memory: one entry of a list, one member of an object or one line at a time.

What is read is held only until its end is found: an entry costs its own size, however long the list is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from vistruct.errors import UserError
from vistruct.issues import IssueCounter

NOT_JSON = "line left out: not json"
_BLOCK = 2**16  # characters read at a time, or as many as are waiting for their end
_MOST = 2**27  # characters of one entry; a damaged one would else be looked for its end through the whole file
_WHITE = " \t\n\r"
_BEHIND = tuple(",:]}" + _WHITE)  # what may follow a value


def json_list(path: Path, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """The entries of a list, or of the list below a key of an object, each with its place.

    Raises:
        UserError: no such file, not json (with its line), or no such list.
    """
    with _Text(path) as text:
        if text.next() == "{" and key is not None:
            for name in text.names():
                if name == key and text.next() == "[":
                    yield from ((f"{path}: {key} {number}", entry) for number, entry in text.entries())
                    return
                text.value()
        elif text.next() == "[":
            yield from ((f"{path}: entry {number}", entry) for number, entry in text.entries())
            return
    what = "no list here" if key is None else f"no list of {key!r} in this json"
    raise UserError(what, where=path, fix="copy the file again, whole")


def json_members(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The members of an object: place, name, value.

    Raises:
        UserError: no such file, not json (with its line), or no object.
    """
    with _Text(path) as text:
        if text.next() != "{":
            raise UserError("no json object here", where=path, fix="copy the file again, whole")
        for name in text.names():
            yield f"{path}: {name}", name, text.value()


def json_lines(path: Path, report: IssueCounter) -> Iterator[tuple[str, Any]]:
    """The value of each line with its place; empty lines are no lines, and what is not json is counted.

    Raises:
        UserError: no such file, or not text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    report.note(NOT_JSON, where)
                    continue
                yield where, value
    except (OSError, UnicodeDecodeError) as error:
        raise _unread(path, error) from error


def json_entries(path: Path, report: IssueCounter, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """As `json_lines` of a file that begins with an object and no key is asked for, else as `json_list`."""
    with _Text(path) as text:
        is_list = key is not None or text.next() == "["
    yield from json_list(path, key) if is_list else json_lines(path, report)


def _unread(path: Path, error: OSError | UnicodeDecodeError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError("no such annotation file", where=path, fix="check the path")
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"not UTF-8 text: {error}", where=path, fix="save the file as UTF-8")
    return UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read")


class _Text:
    """The text of a file, of which what was read is forgotten."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = open(path, encoding="utf-8-sig")  # noqa: SIM115  # closed on leaving
        except OSError as error:
            raise _unread(path, error) from error
        self.text, self.at, self.line = "", 0, 1
        self.decoder = json.JSONDecoder()

    def __enter__(self) -> _Text:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def next(self) -> str:
        """The next sign that is not white; "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _WHITE:
                self.at += 1
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """The value that comes next.

        Raises:
            UserError: none does.
        """
        self.next()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at < _MOST and self._more():  # its end is still to come
                    continue
                self._broken(error)
            if self.text[end : end + 1] in _BEHIND or not self._more():  # a number may go on: 2, 2.5
                self.at = end
                return value

    def entries(self) -> Iterator[tuple[int, Any]]:
        """Of a list whose bracket comes next: their numbers from 1, and values."""
        self._take("[")
        number = 0
        while self.next() != "]":
            if number:
                self._take(",")
            number += 1
            yield number, self.value()
        self._take("]")

    def names(self) -> Iterator[str]:
        """Of an object whose brace comes next, each before its value, which must be taken then."""
        self._take("{")
        is_first = True
        while self.next() != "}":
            if not is_first:
                self._take(",")
            is_first = False
            name = self.value()
            if not isinstance(name, str):
                self._broken(ValueError("a name is a text"))
            self._take(":")
            yield name
        self._take("}")

    def _take(self, sign: str) -> None:
        if self.next() != sign:
            self._broken(ValueError(f"{sign!r} belongs here"))
        self.at += 1

    def _more(self) -> bool:
        """Whether there was more to read."""
        try:
            block = self.file.read(max(_BLOCK, len(self.text) - self.at))
        except (OSError, UnicodeDecodeError) as error:
            raise _unread(self.path, error) from error
        if block:
            self.line += self.text.count("\n", 0, self.at)
            self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def _broken(self, error: Exception) -> NoReturn:
        at = error.pos if isinstance(error, json.JSONDecodeError) else self.at
        where = f"{self.path}, line {self.line + self.text.count(chr(10), 0, at)}"
        told = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"not valid json: {told}", where=where, fix="correct or write the file again") from error
