"""Conversations about images, one json object each: what one line says, in any of the shapes of `shapes.py`.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"},
                                         {"from": "gpt", "value": "Three."}]}

`image` (or `images`) is a path, a list of paths, the image itself in base64, or empty or absent for text alone; `id` is
optional; `families` may name the kind of each answered question; an answer may have `others` beside it, those of other
people, and a `form` that says how it is measured (`contracts.Form`); what turns point at is read by `objects.py`, marks
of other tools by `marks.py`, boxes that are kept apart by `text_boxes.py`. Keys that carry texts, images or weights and
are not read are said. Objects stand one on a line (jsonl), or all in one list (LLaVA's json).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vistruct.contracts import IMAGE_MARK, NO_OBJECTS, Form, Objects, Record, Role, Turn
from vistruct.data.formats.chat.marks import IMAGE_SUFFIXES, settle
from vistruct.data.formats.chat.objects import parse_objects, placed, pointed, written
from vistruct.data.formats.chat.shapes import IMAGE_KEYS, WEIGHT_KEYS, Said, in_order, read_line
from vistruct.data.formats.chat.text_boxes import Filling, fill_boxes, fill_refs, from_json, is_grounding, note_of_boxes
from vistruct.data.formats.chat.turns import (
    BOXES_FILLED,
    MALFORMED,
    NOT_JSON,
    PREPENDED,
    UNREAD_IMAGE,
    Defect,
    check_marks,
    check_order,
)
from vistruct.data.formats.format import Format
from vistruct.data.formats.json_kind import json_kind
from vistruct.files.embedded import spans
from vistruct.files.text import write_text

FORMS = get_args(Form)
_SPEAKERS: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
_PATH = re.compile(r"[^\n]{1,400}")


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What one object says."""

    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()  # paths as they are written; `@START+LENGTH`: bytes of the line, see `files.embedded`
    objects: Objects[np.ndarray] = field(default_factory=lambda: NO_OBJECTS)  # what the turns point at, pixels
    families: tuple[str, ...] = ()  # of each answer; empty: not given
    own_id: str | None = None
    notes: tuple[str, ...] = ()  # what else is to be said of it, see `turns`
    filling: Filling | None = None  # boxes that the texts still lack

    def filled(self, sizes_hw: Sequence[tuple[int, int]]) -> Talk:
        """With the boxes in the texts, where images of these sizes are shown.

        Raises:
            Defect: a box that does not lie in its image.
        """
        if self.filling is None:
            return self
        return replace(self, turns=fill_boxes(self.turns, self.filling, sizes_hw), filling=None)


def parse(line: bytes) -> Talk:
    """Read one object.

    A single image without a placeholder in the text goes before the first question.

    Args:
        line: UTF-8 json, with any white space around it.

    Raises:
        Defect: it cannot be trained on, and why.
    """
    entry = _loaded(line)
    if isinstance(entry, list) and entry and all(isinstance(one, dict) for one in entry):
        entry = {"messages": entry}  # the turns without anything around them
    if not isinstance(entry, dict):
        what = f"a line is an object with image and conversations, this is a {type(entry).__name__}"
        raise Defect(MALFORMED, what)
    said = read_line(entry)
    settle(said)
    images = in_order(said)
    if not images and (key := _image_key(entry, said.keys)):
        what = f"the key {key!r} holds {_text_of(entry[key]):.60}, which looks like an image's path and is not read"
        raise Defect(UNREAD_IMAGE, what, f"call the key `image` or `images` instead of {key!r}")
    turns = [
        Turn(role=one.role, text=one.text, is_taught=one.is_taught, **_measured(one, number))
        for number, one in enumerate(said.turns, start=1)
    ]
    check_order([turn.role for turn in turns], said.names)
    given = from_json(entry.get("objects"))
    notes = [*said.notes, *_unread(entry, said.keys)]
    turns, filling = fill_refs(turns, given, len(images))
    if is_grounding(given):
        notes += [BOXES_FILLED] if filling or any("<box>" in turn.text for turn in turns) else []
        given = None
    objects = parse_objects(given, len(images))
    turns = pointed(
        turns, said.turns, len(objects) if given is not None or ("objects" in entry and not notes) else None
    )
    if check_marks(turns, len(images)):
        notes.append(PREPENDED)
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = replace(turns[first], text=f"{IMAGE_MARK}\n{turns[first].text}")
    own_id = entry.get("id")
    told = [turn for turn in turns if turn.role == "assistant"]
    notes += {note: None for turn in told if (note := note_of_boxes(turn.text))}
    return Talk(
        turns=tuple(turns),
        images=_places(line, images),
        objects=objects,
        families=_families(entry.get("families"), len(told)),
        own_id=None if own_id is None else str(own_id),
        notes=tuple(notes),
        filling=filling,
    )


def _places(line: bytes, images: Sequence[str]) -> tuple[str, ...]:
    """The images with those that stand in the line itself as places of it."""
    if not any(len(name) > 400 or name.startswith("data:") for name in images):
        return tuple(images)
    found = spans(line)
    return tuple(found.get(name, name) for name in images)


def _image_key(entry: Mapping[str, Any], read: set[str]) -> str | None:
    """The first key that is not read and looks like it held an image's path."""
    return next((key for key, value in entry.items() if key not in read and _names_image(value)), None)


def _names_image(value: object) -> bool:
    text = _text_of(value)
    return text.startswith("data:image/") or (text.lower().endswith(IMAGE_SUFFIXES) and bool(_PATH.fullmatch(text)))


def _text_of(value: object) -> str:
    """A text, or the first of a list or an object of texts."""
    while isinstance(value, list | dict) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value if isinstance(value, str) else ""


def _unread(entry: Mapping[str, Any], read: set[str]) -> list[str]:
    """What is to be said of keys that carry something and are not read."""
    notes = []
    for key, value in entry.items():
        if key in read or key in IMAGE_KEYS:
            continue
        name = f"key {key:.40}".replace("\n", " ")
        if _names_image(value):
            notes.append(f"{name}, which names images, is not read")
        elif any(character.isspace() for character in _text_of(value).strip()):
            notes.append(f"{name}, which holds texts, is not read")
        elif isinstance(value, int | float) and "weight" in key.lower() and key not in WEIGHT_KEYS:
            notes.append(f"{name}, which holds weights, is not read")
    return notes


def row(record: Record, root: Path) -> dict[str, Any]:
    """The json object of a record, with image paths relative to `root`; `parse` gives its content back."""
    images = [_below(root, image) for image in record.images]
    objects = placed(record.objects, lambda depth: _below(root, depth))
    turns = [{"from": _SPEAKERS[turn.role], "value": turn.text} | _beside(turn) for turn in record.turns]
    image: dict[str, Any] = {} if not images else {"image": images[0] if len(images) == 1 else images}
    families: dict[str, Any] = {"families": list(record.families)} if record.families else {}
    return {"id": record.id, **image, **written(objects), "conversations": turns, **families}


def _below(root: Path, path: Path | str) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _beside(turn: Turn) -> dict[str, Any]:
    """What stands beside the text of a turn."""
    points: dict[str, Any] = {"points": [list(point) for point in turn.points]} if turn.points else {}
    points |= {"units": list(turn.units)} if turn.units else {}
    points |= {"prompts": list(turn.prompts)} if turn.prompts else {}
    points |= {"task": turn.task} if turn.task else {}
    others: dict[str, Any] = {"others": list(turn.others)} if turn.others else {}
    return points | others | ({"form": turn.form} if turn.form is not None else {})


def _measured(said: Said, number: int) -> dict[str, Any]:
    """What others answered, and how an answer is measured.

    Raises:
        Defect: neither texts nor a known form.
    """
    others, form = [] if said.others is None else said.others, said.form
    if not isinstance(others, list) or not all(isinstance(one, str) for one in others):
        raise Defect(MALFORMED, f"turn {number}: others are answers of other people, this is {others!r:.60}")
    if form is not None and form not in FORMS:
        raise Defect(MALFORMED, f"turn {number}: form is {form!r:.40}", f"known: {', '.join(FORMS)}")
    return {"others": tuple(others), "form": form}


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
    except ValueError:  # what Python's int refuses
        raise Defect(NOT_JSON, "not readable json: a number of thousands of digits") from None
    return entry


def _families(value: object, num_answers: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(value) != num_answers:
        raise Defect(MALFORMED, f"families is a list with one word for each of the {num_answers} answers")
    return tuple(value)


FORMAT = Format(kind="talk", looks_like=lambda path: path.is_file() and json_kind(path) == "chat")
MIX = Format(kind="talk", looks_like=lambda path: path.is_file() and json_kind(path) == "mix")  # see `data.chat.mix`
