"""Conversations in the words of chat models: `messages` of a role and a content.

    {"messages": [{"role": "user", "content": "<image>\\nHow many?"},
                  {"role": "assistant", "content": "Three."}], "images": ["a.jpg"]}

A content may also be a list of parts, `{"type": "text", "text": ...}` and `{"type": "image", "image": "a.jpg"}`; an
image part without a path of its own stands for the next of `images` (or `image`), as does an `<image>` in a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vistruct.contracts import IMAGE_MARK, Role, Turn
from vistruct.data.formats.chat.turns import MALFORMED, MISMATCH, VIDEO, Defect, check_order

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_NAMES = {role: name for name, role in ROLES.items()}
_PATH_KEYS = ("image", "path", "image_url", "url")


def parse(entry: Mapping[str, Any]) -> tuple[list[Turn], list[str]]:
    """The turns, with a placeholder for each image in a list of parts, and the image paths in their order.

    Raises:
        Defect: a content or role that is not understood; placeholders that are not as many as the images, where
            image parts with and without a path stand side by side.
    """
    messages = entry["messages"]
    if not isinstance(messages, list) or not messages:
        raise Defect(MALFORMED, "no conversation: `messages` is a list of turns", "user and assistant take turns")
    listed = _listed(entry.get("images") or entry.get("image"))
    turns: list[Turn] = []
    shown: list[str | None] = []  # for each mark in the texts, the path that stands with it
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise Defect(MALFORMED, f"turn {number} is from {role!r}", f"known: {', '.join(ROLES)}")
        text, paths = _content(message.get("content"), number)
        turns.append(Turn(role=ROLES[role], text=text))
        shown += paths
    check_order([turn.role for turn in turns], _NAMES)
    if not any(shown):
        return turns, listed
    if shown.count(None) != len(listed):
        what = f"{shown.count(None)} x {IMAGE_MARK} without a path, but {len(listed)} images in the list"
        raise Defect(MISMATCH, what, "name each image once: with its part, or in the list")
    rest = iter(listed)
    return turns, [path or next(rest) for path in shown]


def _content(value: object, number: int) -> tuple[str, list[str | None]]:
    if isinstance(value, str):
        return value, [None] * value.count(IMAGE_MARK)
    if not isinstance(value, list):
        raise Defect(MALFORMED, f"turn {number} has no text: a turn is {{'role': ..., 'content': ...}}")
    text = ""
    paths: list[str | None] = []
    after_image = False
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += "\n" * after_image + part["text"]  # an image stands on a line of its own
            paths += [None] * part["text"].count(IMAGE_MARK)
        elif kind in ("image", "image_url"):
            text += "\n" * bool(text) + IMAGE_MARK
            paths.append(_path(part, number))
        elif isinstance(kind, str) and kind.startswith("video"):
            raise Defect(VIDEO, "video is not read", "take single frames as images")
        else:
            what = f"turn {number} has a part of type {kind!r}"
            raise Defect(MALFORMED, what, "parts are {'type': 'text', 'text': ...} and {'type': 'image', ...}")
        after_image = kind != "text"
    return text, paths


def _path(part: Mapping[str, Any], number: int) -> str | None:
    for key in _PATH_KEYS:
        value = part.get(key)
        if isinstance(value, dict):  # {"image_url": {"url": ...}}
            value = value.get("url")
        if isinstance(value, str) and value:
            if value.startswith(("http:", "https:", "data:")):
                fix = "download it and give its path"
                raise Defect(MALFORMED, f"turn {number} shows {value[:40]}..., which is no file", fix)
            return value.removeprefix("file://")
    return None


def _listed(value: object) -> list[str]:
    """`images`: paths, or objects with one."""
    names = [] if value in (None, "") else value if isinstance(value, list) else [value]
    found: list[str] = []
    for name in names:
        path = _path(name, 0) if isinstance(name, dict) else name
        if not isinstance(path, str) or not path:
            raise Defect(MALFORMED, f"images is a list of paths, this is {value!r:.60}")
        found.append(path)
    return found
