"""What an annotation file is, told by its content and not by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from vistruct.errors import UserError

Format = Literal["coco", "chat", "mix"]

_HEAD = 64 * 1024  # bytes looked at
_COCO_KEYS = {"images", "annotations", "categories"}
_CHAT_KEYS = {"conversations", "messages"}


def find_annotation(path: Path) -> Path:
    """The annotation file that a path means: itself, or the only json or jsonl file of a folder.

    Raises:
        UserError: no such path, no candidate, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError("no such file or folder", where=path, fix="check the path")
    for folder in (path, path / "annotations"):
        found = sorted(file for file in folder.glob("*.json*") if file.suffix in (".json", ".jsonl"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5]) + (", ..." if len(found) > 5 else "")
            raise UserError(f"{len(found)} annotation files: {names}", where=folder, fix=f"name one: {found[0]}")
    raise UserError("no .json or .jsonl file here", where=path, fix="give a COCO json or a conversation jsonl")


def detect_format(annotation: Path) -> Format:
    """COCO boxes, conversations, or a mix of data sets, by a file's beginning; by its name where that says nothing.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(annotation, "rb") as file:
            head = file.read(_HEAD).decode("utf-8-sig", errors="replace").lstrip()
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=annotation, fix="check path and permissions") from error
    by_name: Format = "chat" if annotation.suffix == ".jsonl" else "coco"
    if head.startswith("["):
        return "chat" if head[1:].lstrip().startswith("{") else by_name
    try:
        first = json.loads(head.split("\n", 1)[0])
    except (json.JSONDecodeError, RecursionError):  # one value over many lines, a long line, or malformed
        return _by_words(head) or by_name
    if not isinstance(first, dict):
        return by_name
    if _CHAT_KEYS & set(first):
        return "chat"
    if first and all(isinstance(entry, dict) and "annotation" in entry for entry in first.values()):
        return "mix"
    return "coco" if _COCO_KEYS & set(first) else by_name


def _by_words(head: str) -> Format | None:
    """The format whose key comes first."""
    keys = re.search(r'"(?:(conversations|messages)|(annotation)|(?:images|annotations|categories))"\s*:', head)
    if keys is None:
        return None
    return "chat" if keys[1] else "mix" if keys[2] else "coco"
