"""GRIT: captions whose phrases were found in the image by a model, and expressions for what they mean.

    00000/000000012.json, 00000/000000012.jpg    as img2dataset unpacks them, in folders of any depth; or

    {"key": "000000012", "caption": "A brown dog and two cats", "width": 60, "height": 48,
     "noun_chunks": [[2, 11, 0.05, 0.08, 0.33, 0.37, 0.9], ...], "ref_exps": [[2, 11, ...], ...]}

on the lines of a jsonl. A row has the first and the last character of its words in the caption (the last is not one of
them), a box in shares of the image, and how sure the model was. Rows of the same words mean several objects. The
objects are what the caption speaks of, and so never said to be all of a kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vistruct.data.formats.boxes.coco_shapes import are_numbers
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Said
from vistruct.data.known.shapes import told
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, meant, told_size, words
from vistruct.errors import UserError
from vistruct.files.json_files import read_json
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

BAD_ROW = "phrase left out: it is no span of the caption with a box and a score"
_KEYS = {"caption", "noun_chunks", "ref_exps"}
_LOOKED_AT = 20  # files and folders, for one that is of it
Spans = dict[tuple[int, int], list[int | None]]


def looks_like(path: Path) -> bool:
    """Whether it is a jsonl of such rows, or a folder that begins with such files."""
    if path.is_dir():
        folders = [path, *(one for one in islice(sorted(path.iterdir()), _LOOKED_AT) if one.is_dir())]
        return any(keys_at(file) >= _KEYS for folder in folders for file in islice(folder.glob("*.json"), _LOOKED_AT))
    return keys_at(path) >= _KEYS


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other."""
    names = (names[0] for _, _, names in _entries(path, IssueCounter()))
    root = path if path.is_dir() else path.parent
    images = Images.of(names, (root,), ask, report)
    for where, entry, files in _entries(path, report):
        caption = entry["caption"]
        if words(caption, where, report) is None:
            continue
        image = images.find(files, where, told_size(entry))
        if image is None:
            continue
        board = Board(image, report)
        chunks, found = _spans(entry, "noun_chunks", board, where), _spans(entry, "ref_exps", board, where)
        phrases = [(span, meant(rows, where, report), where) for span, rows in chunks.items()]
        sentence = told(caption, phrases, where, report)
        expressions = [
            Said(text=text, rows=rows)
            for (start, end), means in found.items()
            if (text := words(caption[start:end], where, report)) is not None
            and (rows := board.rows_of(dict.fromkeys(means), where))
        ]
        yield board.known(files[0], sentences=() if sentence is None else (sentence,), expressions=tuple(expressions))


def _entries(path: Path, report: IssueCounter) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Place, what is said, and how the image may be called."""
    if path.is_dir():
        for file in _files(path):
            try:
                entry = read_json(file)
            except UserError:
                report.note(NO_ENTRY, str(file))
                continue
            name = file.relative_to(path).with_suffix("").as_posix()
            if _is_whole(entry, str(file), report):
                yield str(file), entry, tuple(f"{name}{suffix}" for suffix in (".jpg", ".png", ".webp"))
        return
    for where, entry in json_entries(path, report):
        if _is_whole(entry, where, report) and isinstance(key := entry.get("key"), str):
            yield where, entry, (f"{key}.jpg", f"{key[:5]}/{key}.jpg")


def _files(folder: Path) -> Iterator[Path]:
    """Folder by folder, so that a million names are never held at once."""
    inner = sorted(folder.iterdir())
    yield from (file for file in inner if file.suffix == ".json" and not file.name.endswith("_stats.json"))
    for one in inner:
        if one.is_dir():
            yield from _files(one)


def _is_whole(entry: Any, where: str, report: IssueCounter) -> bool:
    if isinstance(entry, dict) and isinstance(entry.get("caption"), str):
        return True
    report.note(NO_ENTRY, where)
    return False


def _spans(entry: dict[str, Any], key: str, board: Board, where: str) -> Spans:
    """The rows of each run of words, in order of the caption."""
    found: Spans = {}
    caption = entry["caption"]
    rows: list[Any] = entry[key] if isinstance(entry.get(key), list) else [None]
    for at, row in enumerate(rows, start=1):
        here = f"{where}, {key} {at}"
        if not are_numbers(row) or len(row) != 7 or not 0 <= int(row[0]) < int(row[1]) <= len(caption):
            board.report.note(BAD_ROW, here)
            continue
        start, end = int(row[0]), int(row[1])
        # An expression is about an object that has a name already, as a rule.
        name = " ".join(caption[start:end].split()) if key == "noun_chunks" else ""
        found.setdefault((start, end), []).append(
            board.add(row[2:6], here, form="relative", name=name, score=float(row[6]))
        )
    return dict(sorted(found.items()))


SOURCE = Source(read=read, looks_like=looks_like)
