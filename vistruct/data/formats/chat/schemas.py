"""Conversations about images, one json object each: the schemas that InternVL, LLaVA and chat models train on.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"},
                                         {"from": "gpt", "value": "Three."}]}

`image` is a path, a list of paths, or empty or absent for text alone; `id` is optional; `families` may name the kind
of each answered question; what turns point at is read by `objects.py`; other keys are not looked at. An object with
`messages` in place of `conversations` is read by `messages.py`. Objects stand one on a line (jsonl), or all in one
list (LLaVA's json).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.contracts import IMAGE_MARK, NO_OBJECTS, Objects, Record, Role, Turn
from vistruct.data.formats.chat import messages as chat_messages
from vistruct.data.formats.chat.objects import parse_objects, pointed, written
from vistruct.data.formats.chat.turns import MALFORMED, NOT_JSON, VIDEO, Defect, check_marks, check_order
from vistruct.data.formats.format import Format
from vistruct.data.formats.json_kind import json_kind
from vistruct.files.text import write_text

ROLES: dict[str, Role] = {"system": "system", "human": "user", "gpt": "assistant"}
_SPEAKERS = {role: speaker for speaker, role in ROLES.items()}


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What one object says."""

    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()  # paths as they are written
    objects: Objects[np.ndarray] = field(default_factory=lambda: NO_OBJECTS)  # what the turns point at, pixels
    families: tuple[str, ...] = ()  # of each answer; empty: not given
    own_id: str | None = None
    is_prepended: bool = False  # a single image was put before the first question


def parse(line: bytes) -> Talk:
    """Read one object.

    A single image without a placeholder in the text goes before the first question.

    Args:
        line: UTF-8 json, with any white space around it.

    Raises:
        Defect: it cannot be trained on, and why.
    """
    entry = _loaded(line)
    if not isinstance(entry, dict):
        what = f"a line is an object with image and conversations, this is a {type(entry).__name__}"
        raise Defect(MALFORMED, what)
    if entry.get("video") or entry.get("videos"):
        raise Defect(VIDEO, "video is not read", "take single frames as images")
    if "messages" in entry and "conversations" not in entry:
        turns, images = chat_messages.parse(entry)
        said = entry["messages"]
    else:
        turns, images = _turns(entry.get("conversations")), _image_names(entry.get("image"))
        said = entry["conversations"]
    objects = parse_objects(entry.get("objects"), len(images))
    turns = pointed(turns, said, len(objects) if "objects" in entry else None)
    is_prepended = check_marks(turns, len(images))
    if is_prepended:
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = replace(turns[first], text=f"{IMAGE_MARK}\n{turns[first].text}")
    own_id = entry.get("id")
    return Talk(
        turns=tuple(turns),
        images=tuple(images),
        objects=objects,
        families=_families(entry.get("families"), sum(turn.role == "assistant" for turn in turns)),
        own_id=None if own_id is None else str(own_id),
        is_prepended=is_prepended,
    )


def row(record: Record, root: Path) -> dict[str, Any]:
    """The json object of a record, with image paths relative to `root`; `parse` gives its content back."""
    images = [Path(os.path.relpath(image, root)).as_posix() for image in record.images]
    turns = [{"from": _SPEAKERS[turn.role], "value": turn.text} | _points(turn) for turn in record.turns]
    image: dict[str, Any] = {} if not images else {"image": images[0] if len(images) == 1 else images}
    families: dict[str, Any] = {"families": list(record.families)} if record.families else {}
    return {"id": record.id, **image, **written(record.objects), "conversations": turns, **families}


def _points(turn: Turn) -> dict[str, Any]:
    return {"points": [list(point) for point in turn.points]} if turn.points else {}


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


def _loaded(line: bytes) -> object:
    try:
        entry = json.loads(line.decode("utf-8"))
        if (
            b"\\u" in line and b"\\ud" in line.lower()
        ):  # half of an escaped pair is a string that no tokenizer and no path can take
            json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        what = f"not valid json: {error.msg} at column {error.colno}"
        raise Defect(NOT_JSON, what, "one whole object a line") from error
    except UnicodeError as error:
        raise Defect(NOT_JSON, f"not UTF-8 text: {error}", "save the file as UTF-8") from error
    except RecursionError:
        raise Defect(NOT_JSON, "not readable json: nested too deeply") from None
    return entry


def _image_names(value: object) -> list[str]:
    if value is None or value == "":
        return []
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not name:
            raise Defect(MALFORMED, f"image is a path or a list of paths, this is {value!r}")
    return names


def _turns(value: object) -> list[Turn]:
    if not isinstance(value, list) or not value:
        raise Defect(MALFORMED, "no conversation: `conversations` is a list of turns", "human and gpt take turns")
    turns: list[Turn] = []
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise Defect(MALFORMED, f"turn {number} has no text: a turn is {{'from': ..., 'value': ...}}")
        speaker = entry.get("from")
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise Defect(MALFORMED, f"turn {number} is from {speaker!r}", f"known: {', '.join(ROLES)}")
        turns.append(Turn(role=ROLES[speaker], text=entry["value"]))
    check_order([turn.role for turn in turns], _SPEAKERS)
    return turns


def _families(value: object, num_answers: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(value) != num_answers:
        raise Defect(MALFORMED, f"families is a list with one word for each of the {num_answers} answers")
    return tuple(value)


FORMAT = Format(kind="talk", looks_like=lambda path: path.is_file() and json_kind(path) == "chat")
MIX = Format(kind="talk", looks_like=lambda path: path.is_file() and json_kind(path) == "mix")  # see `data.chat.mix`
