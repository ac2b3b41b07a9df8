"""Objects of an image and its caption or captions, one on a line (jsonl), or all in one list (json):

    {"image": "a.jpg", "caption": "A cat."}
    {"image": "a.jpg", "caption": ["A cat.", "A cat sleeps."], "split": "val"}         BLIP's and LAVIS's lists
    {"file_name": "a.jpg", "text": "A cat."}                                           metadata.jsonl of `datasets`

An image may have several lines. `instructions` reads the answers of the family `caption` from conversations as
`vistruct instruct` writes them: captions that are made from boxes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistruct.data.formats.captions.said import Said, merged, records_of
from vistruct.data.formats.captions.tables import SPLIT
from vistruct.data.formats.chat.schemas import parse
from vistruct.data.formats.chat.turns import Defect
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.json_kind import CAPTION_KEYS, NAME_KEYS, json_kind
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

FAMILY = "caption"  # of questions whose answers describe the whole image
_LISTS, _LINES = ".json", ".jsonl"


def looks_like(path: Path) -> bool:
    """Whether it is such a file, or a folder with some."""
    return bool(_files(path))


def splits(path: Path) -> tuple[str, ...]:
    """Those that the objects or the files name."""
    found = dict.fromkeys(row.split for file in _files(path) for row in _rows(file, _ignore))
    return tuple(name for name in found if name)


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, with the captions of all its objects."""
    files = _files(path) or ([path] if path.is_file() else [])
    if not files:
        raise UserError("no json or jsonl of images and captions here", where=path, fix="name the file")
    rows = [row for file in files for row in _rows(file, stop)]
    return Walked(records=records_of(merged(rows), files[0], ask, report, stop), annotations=tuple(files))


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.json*")) if path.is_dir() else []
    return [
        file
        for file in files
        if file.suffix in (_LISTS, _LINES) and json_kind(file) == "captions" and not _is_coco(file)
    ]


def _is_coco(file: Path) -> bool:
    with open(file, "rb") as opened:
        is_object = opened.read(64).decode("utf-8-sig", errors="replace").lstrip().startswith("{")
    return is_object and file.suffix == _LISTS


def _objects(file: Path, stop: Stop) -> Iterator[tuple[str, Any]]:
    """Each with where it is."""
    if file.suffix == _LISTS:
        content = read_json(file)
        if not isinstance(content, list):
            raise UserError("not a list of images and captions", where=file, fix="or one object a line, as .jsonl")
        yield from ((f"{file}: entry {number}", one) for number, one in enumerate(content))
        return
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        here = f"{file}, line {number}"
        try:
            if line.strip():
                yield here, json.loads(line)
        except (ValueError, RecursionError):
            stop(UserError("a line that is not json", where=here, fix="correct or remove this line"))


def _rows(file: Path, stop: Stop) -> Iterator[Said]:
    of_file = next((word for word in ("train", "val", "test") if word in file.stem.lower().split("_")), "")
    for here, one in _objects(file, stop):
        keys = [key for key in one if key in NAME_KEYS] if isinstance(one, dict) else []
        own = [key for key in one if key in CAPTION_KEYS] if keys else []
        told = one[own[0]] if own else None
        captions = [told] if isinstance(told, str) else told
        named = one[keys[0]] if keys else None
        is_told = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
        if not is_told or not isinstance(named, str):
            stop(UserError("no image with a caption", where=here, fix='{"image": "a.jpg", "caption": "A cat."}'))
            continue
        split = next((str(value) for key, value in one.items() if SPLIT.fullmatch(key)), of_file)
        yield Said(name=named.replace("\\", "/"), where=here, captions=list(captions), split=split)


def _walk_talk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """The answers of the family `caption` of each conversation about one image."""
    path = path / "instructions.jsonl" if path.is_dir() else path
    rows: list[Said] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        here = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            talk = parse(line.encode())
        except Defect as defect:
            stop(UserError(str(defect), where=here, fix="`vistruct check` of the conversations says more"))
            continue
        answers = [turn.text for turn in talk.turns if turn.role == "assistant"]
        captions = [text for text, family in zip(answers, talk.families, strict=False) if family == FAMILY]
        if len(talk.images) == 1:
            rows.append(Said(name=talk.images[0], where=here, captions=captions))
    if rows and not any(row.captions for row in rows):
        what = f"no answer of the family {FAMILY!r} in these conversations"
        raise UserError(what, where=path, fix="vistruct instruct BOXES --always caption")
    return Walked(records=records_of(merged(rows), path, ask, report, stop), annotations=(path,))


def _ignore(error: UserError) -> None:
    """Errors are told when the file is read for training."""


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=walk)
TALK = Format(kind="captions", walk=_walk_talk)
