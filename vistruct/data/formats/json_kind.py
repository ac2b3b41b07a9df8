"""What a json or jsonl file holds, told by its first 64 KiB and not by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from vistruct.errors import UserError

JsonKind = Literal["coco", "chat", "mix", "geojson"]

_HEAD = 64 * 1024  # bytes looked at
_COCO_KEYS = {"images", "annotations", "categories"}
_CHAT_KEYS = {"conversations", "messages"}


def json_kind(file: Path) -> JsonKind | None:
    """COCO, conversations, a mix of data sets, or GeoJSON; None where the beginning does not say.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD).decode("utf-8-sig", errors="replace").lstrip()
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=file, fix="check path and permissions") from error
    if head.startswith("["):
        return "chat" if _is_talk(head[1:].lstrip()) else None
    try:
        first = json.loads(head.split("\n", 1)[0])
    except (json.JSONDecodeError, RecursionError):  # one value over many lines, a long line, or malformed
        return _by_words(head)
    if not isinstance(first, dict):
        return None
    if _CHAT_KEYS & set(first):
        return "chat"
    if first.get("type") == "FeatureCollection":
        return "geojson"
    if first and all(isinstance(entry, dict) and "annotation" in entry for entry in first.values()):
        return "mix"
    return "coco" if _COCO_KEYS & set(first) else None


def _is_talk(head: str) -> bool:
    """Whether a list begins with an object that is no result of a detector."""
    return head.startswith("{") and re.match(r'\{\s*"(?:image_id|category_id|bbox|score)"', head) is None


def _by_words(head: str) -> JsonKind | None:
    """The format whose key comes first."""
    if not head.startswith("{"):
        return None
    if re.search(r'"type"\s*:\s*"FeatureCollection"', head):
        return "geojson"
    keys = re.search(r'"(?:(conversations|messages)|(annotation)|(?:images|annotations|categories))"\s*:', head)
    if keys is None:
        return None
    return "chat" if keys[1] else "mix" if keys[2] else "coco"
