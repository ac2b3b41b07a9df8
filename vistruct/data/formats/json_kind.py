"""What a json or jsonl file holds, told by its first 64 KiB and not by its name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal

from vistruct.errors import UserError

Tool = Literal["label studio", "labelme", "via", "datumaro", "supervisely"]
JsonKind = Literal["coco", "captions", "karpathy", "questions", "chat", "mix", "geojson"] | Tool

_HEAD = 64 * 1024  # bytes looked at
_COCO_KEYS = {"images", "annotations"}  # categories alone are notes, as Label Studio puts them beside YOLO labels
_CHAT_KEYS = {"conversations", "messages", "conversation", "dialogue", "dialog"}
_QUESTIONS = {"query", "question", "prompt", "instruction", "problem", "input"}
_ANSWERS = {"response", "answer", "output", "completion", "solution", "chosen"}
_VIA = re.compile(r'\{\s*"[^"]*"\s*:\s*\{\s*"(filename|fileref)"\s*:')  # an image, by its name and size
NAME_KEYS = (
    "image",
    "file_name",
    "filename",
    "image_path",
    "file",
    "path",
    "img",
    "img_path",
)  # of an image with captions
CAPTION_KEYS = ("caption", "captions", "sentences", "sentence", "text", "description")
_ASKED = (  # questions or answers of VQA, GQA, TextVQA: how the lists begin, and a key that each entry has
    (re.compile(r'"(questions|annotations)"\s*:\s*\[\s*\{'), '"question_id"'),
    (re.compile(r'\A\{\s*"[^"]*"\s*:\s*\{'), '"imageId"'),
    (re.compile(r'"data"\s*:\s*\[\s*\{'), '"answers"'),
)
_BOX = re.compile(r'"(bbox|category_id)"\s*:')
_FOUND = {"image_id", "category_id", "bbox", "segmentation", "keypoints", "score"}  # of a detector's result


def json_kind(file: Path) -> JsonKind | None:
    """COCO, captions, the export of a tool, conversations, a mix of data sets, or GeoJSON; None where the beginning
    (of COCO's lists the end too) does not say.

    Raises:
        UserError: it cannot be read.
    """
    head, tail = ends_of(file)
    if _has_questions(head):
        return "questions"
    found = _kind_of(head)
    if found == "coco" and not _BOX.search(head + tail):
        if re.search(r'"sentences"\s*:\s*\[', head):
            return "karpathy"
        return "captions" if re.search(r'"caption"\s*:', head + tail) else found
    return found


def ends_of(file: Path) -> tuple[str, str]:
    """How a file begins and how it ends, 64 KiB each, of a short one all of it twice.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            head = opened.read(_HEAD).decode("utf-8-sig", errors="replace").lstrip()
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - _HEAD))
            return head, opened.read(_HEAD).decode(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=file, fix="check path and permissions") from error


def _has_questions(head: str) -> bool:
    """Whether it is a set of questions with the answers of several people, or one half of such a set."""
    if head.startswith("["):
        keys = set(top_keys(head[1:]))
        return {"image", "question", "answers"} <= keys and not keys & _ANSWERS
    return head.startswith("{") and any(key in head and start.search(head) for start, key in _ASKED)


def _kind_of(head: str) -> JsonKind | None:
    """What a text that begins like this holds; of COCO's lists it may be any."""
    tool = _tool(head)
    if tool is not None:
        return tool
    if head.startswith("["):
        if _has_captions(_first_value(head[1:].lstrip())):
            return "captions"
        return "chat" if _is_talk(head[1:].lstrip()) else None
    first = _first_value(head)
    if first is None:  # one value over many lines, a long line, or malformed
        return _by_words(head)
    if not isinstance(first, dict):
        return "chat" if isinstance(first, list) and _is_talk(head[1:].lstrip()) else None
    if _is_conversation(set(first)):
        return "chat"
    if first.get("type") == "FeatureCollection":
        return "geojson"
    if _has_captions(first):
        return "captions"
    if first and all(isinstance(entry, dict) and "annotation" in entry for entry in first.values()):
        return "mix"
    return "coco" if _COCO_KEYS & set(first) else None


def _tool(head: str) -> Tool | None:
    """The annotation tool whose export begins like this."""
    if head.startswith("["):
        keys = set(top_keys(head[1:]))
        is_export = "data" in keys and bool(keys & {"annotations", "predictions", "completions"})
        return "label studio" if is_export or {"annotation_id", "lead_time"} <= keys else None
    if not head.startswith("{"):
        return None
    keys = set(top_keys(head))
    if "shapes" in keys and keys & {"imagePath", "imageData", "flags", "version"}:
        return "labelme"
    if "_via_img_metadata" in keys or "_via_settings" in keys or _VIA.match(head):
        return "via"
    if "dm_format_version" in keys or ("items" in keys and "categories" in keys):
        return "datumaro"
    if "categories" in keys and re.search(r'"categories"\s*:\s*\{', head):
        return "datumaro"
    return "supervisely" if {"objects", "size"} <= keys and keys & {"tags", "description"} else None


def _first_value(text: str) -> object:
    """The value that a text begins with; None where it is not all there, or malformed."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _is_conversation(keys: set[str]) -> bool:
    return bool(_CHAT_KEYS & keys) or (bool(_QUESTIONS & keys) and bool(_ANSWERS & keys))


def _has_captions(first: object) -> bool:
    """Whether it is an image with a caption or several, and no turn of a conversation."""
    if not isinstance(first, dict) or _is_conversation(set(first)):
        return False
    told = next((first[key] for key in CAPTION_KEYS if key in first), None)
    captions = [told] if isinstance(told, str) else told
    is_told = isinstance(captions, list) and bool(captions) and all(isinstance(one, str) for one in captions)
    return is_told and any(isinstance(first.get(key), str) for key in NAME_KEYS)


def _is_talk(head: str) -> bool:
    """Whether a list begins with an object that is no result of a detector."""
    first = _first_value(head)
    keys = set(first) if isinstance(first, dict) else set(top_keys(head))
    if first is not None and not isinstance(first, dict):
        return False
    return head.startswith("{") and (_is_conversation(keys) or len(keys & _FOUND) < 2)


def top_keys(head: str) -> list[str]:
    """The keys of the object that a text begins with, as far as the text goes."""
    keys: list[str] = []
    depth = 0
    for found in re.finditer(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]', head):
        sign = found[0]
        if sign[0] != '"':
            depth += 1 if sign in "{[" else -1
            if depth == 0:
                break
        elif depth == 1 and found[2]:
            keys.append(found[1])
    return keys


def _by_words(head: str) -> JsonKind | None:
    """The format whose key comes first."""
    if not head.startswith("{"):
        return None
    if re.search(r'"type"\s*:\s*"FeatureCollection"', head):
        return "geojson"
    keys = set(top_keys(head))
    if "image" in keys or _is_conversation(keys) or re.search(r'"images"\s*:\s*\[?\s*"', head[:4096]):
        return "chat"  # a long line, perhaps with images in base64
    found = re.search(r'"(?:(conversations|messages)|(annotation)|(?:images|annotations|categories))"\s*:', head)
    if found is None:
        return None
    return "chat" if found[1] else "mix" if found[2] else "coco"
