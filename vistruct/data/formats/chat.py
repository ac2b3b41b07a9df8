"""Conversations about images, one json object a line, in the schema that InternVL and LLaVA train on.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"},
                                         {"from": "gpt", "value": "Three."}]}

`image` is a path, a list of paths, or empty or absent for text alone; `id` is optional; other keys are not
looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vistruct.contracts import Record, Role, Turn
from vistruct.data.formats.text import read_text, write_text
from vistruct.data.report import Report
from vistruct.errors import UserError

PLACEHOLDER = "<image>"  # where an image goes in a human turn
EMPTY_ANSWER = "conversation left out: an answer is empty"
EMPTY_QUESTION = "conversation left out: a question is empty"
PREPENDED = "image put before the first question, which did not say where"

ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
_SPEAKERS = {role: speaker for speaker, role in ROLES.items()}

Stop = Callable[[UserError], None]


@dataclass
class _Malformed(Exception):
    """Why a line is not a conversation; turned into a UserError with its place."""

    what: str
    fix: str = "correct or remove this line"


def read(path: Path, root: Path | None = None) -> tuple[list[Record], Report]:
    """Read conversations from a jsonl file.

    A single image without a placeholder in the text goes before the first question.

    Args:
        path: the jsonl file; blank lines are passed over.
        root: the folder that image paths start from; None: the folder of the file.

    Returns:
        One record a line, its id being the line's own `id` where that is given and unique, else `FILE:LINE`;
        and what was left out or repaired.

    Raises:
        UserError: no file, an empty file, a line that is no conversation (with its number), missing images.
    """
    report = Report()
    return walk(path, root, report, _raise), report


def walk(path: Path, root: Path | None, report: Report, stop: Stop) -> list[Record]:
    """`read` with a choice of what happens at an error: where `stop` returns, the faulty line is left out."""
    path = Path(path)
    root = Path(root) if root is not None else path.parent
    try:
        text = read_text(path)
    except UserError as error:
        stop(error)
        return []
    records: list[Record] = []
    ids: set[str] = set()
    place_of: dict[Path, str] = {}  # first line that names an image
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 is allowed inside json text
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            record = _record(line, place, root, report)
        except _Malformed as error:
            stop(UserError(error.what, where=f"{path}:{number}", fix=error.fix))
            continue
        if record is None:
            continue
        if record.id in ids:
            record = _record(line, place, root, Report(), own_id=False) or record
        ids.add(record.id)
        records.append(record)
        for image in record.images:
            place_of.setdefault(image, place)
    absent = [image for image in place_of if not image.is_file()]
    if absent:
        shown = ", ".join(f"{image} ({place_of[image]})" for image in absent[:3])
        more = ", ..." if len(absent) > 3 else ""
        what = f"{len(absent)} of {len(place_of)} images are not on disk: {shown}{more}"
        stop(
            UserError(
                what,
                where=f"{path}:{place_of[absent[0]].rpartition(':')[2]}",
                fix=f"images are sought from {root}",
            )
        )
        gone = set(absent)
        records = [record for record in records if not gone.intersection(record.images)]
    return records


def row(record: Record, root: Path) -> dict[str, Any]:
    """The json object of a record, with image paths relative to `root`; `read` gives the record back."""
    images = [Path(os.path.relpath(image, root)).as_posix() for image in record.images]
    turns = [{"from": _SPEAKERS[turn.role], "value": turn.text} for turn in record.turns]
    image: dict[str, Any] = {} if not images else {"image": images[0] if len(images) == 1 else images}
    return {"id": record.id, **image, "conversations": turns}


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one json object a line, all of them or no file at all.

    Returns:
        How many were written.

    Raises:
        OSError: the disk is full, or the folder may not be written to; an older file is untouched.
        ValueError: a value that json has no word for, such as NaN.
    """
    num_rows = 0

    def lines() -> Iterable[str]:
        nonlocal num_rows
        for entry in rows:
            num_rows += 1
            yield json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"

    write_text(path, lines())
    return num_rows


def _raise(error: UserError) -> NoReturn:
    raise error


def _record(line: str, place: str, root: Path, report: Report, *, own_id: bool = True) -> Record | None:
    """One line's record, or None where it was left out and counted."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise _Malformed(f"not valid json: {error.msg} at column {error.colno}", "one whole object a line") from error
    if not isinstance(entry, dict):
        raise _Malformed(f"a line is an object with image and conversations, this is a {type(entry).__name__}")
    images = _image_names(entry.get("image"))
    turns = _turns(entry.get("conversations"))
    num_placeholders = sum(turn.text.count(PLACEHOLDER) for turn in turns if turn.role == "user")
    if any(PLACEHOLDER in turn.text for turn in turns if turn.role != "user"):
        raise _Malformed(f"{PLACEHOLDER} stands outside a human turn", "only a human turn can show an image")
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip():
            report.note(EMPTY_ANSWER, place)
            return None
        if turn.role == "user" and not turn.text.strip() and not (len(images) == 1 and num_placeholders == 0):
            report.note(EMPTY_QUESTION, place)
            return None
    if len(images) == 1 and num_placeholders == 0:
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn(role="user", text=f"{PLACEHOLDER}\n{turns[first].text}")
        report.note(PREPENDED, place)
    elif num_placeholders != len(images):
        fix = "write <image> once for each image, in the order of the list"
        raise _Malformed(f"{num_placeholders} x {PLACEHOLDER} in the text, but {len(images)} images", fix)
    own = entry.get("id") if own_id else None
    return Record(
        id=place if own is None else str(own),
        images=tuple(root / name for name in images),
        turns=tuple(turns),
    )


def _image_names(value: object) -> list[str]:
    if value is None or value == "":
        return []
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not name:
            raise _Malformed(f"image is a path or a list of paths, this is {value!r}")
    return names


def _turns(value: object) -> list[Turn]:
    if not isinstance(value, list) or not value:
        raise _Malformed("no conversation: `conversations` is a list of turns", "human and gpt take turns")
    turns: list[Turn] = []
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise _Malformed(f"turn {number} has no text: a turn is {{'from': ..., 'value': ...}}")
        speaker = entry.get("from")
        if speaker not in ROLES:
            raise _Malformed(f"turn {number} is from {speaker!r}", f"known: {', '.join(ROLES)}")
        expected = "assistant" if turns and turns[-1].role == "user" else "user"
        if ROLES[speaker] != expected and not (speaker == "system" and number == 1):
            what = f"turn {number} is from {speaker}, where {_SPEAKERS[expected]} must follow"
            raise _Malformed(what, "system may come first, then human and gpt take turns")
        turns.append(Turn(role=ROLES[speaker], text=entry["value"]))
    if turns[-1].role != "assistant":
        raise _Malformed(f"the last turn is from {_SPEAKERS[turns[-1].role]}, so nothing is answered", "end with gpt")
    return turns
