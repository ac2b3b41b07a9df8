"""GranD, the pretraining set of GLaMM: objects with masks, labels and attributes, and captions whose phrases mean them.

    sa_1.json    {"sa_1.jpg": {"objects": [{"id", "bbox": [x0, y0, x1, y1], "segmentation": run lengths,
                                            "labels": [...], "attributes": [...]}],
                               "floating_objects": the same, some without a mask,
                               "short_captions": [{"caption", "details": [{"phrase", "id" or "ids",
                                                                           "tokens_positive": [first, behind]}]}],
                               "dense_caption": the same as one of these}}

One json an image, in a folder; or one of them. Its objects are all that the set's own pipeline found: "all" is asked of
them. The first label is an object's word; attributes describe it; a phrase of `details` is an expression for what it
means, and where it has a place in its caption, a phrase of that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known, Said, Told
from vistruct.data.known.refcoco import unique
from vistruct.data.known.shapes import add_mask, told
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, words
from vistruct.files.json_files import read_json
from vistruct.issues import IssueCounter

NO_OBJECT = "phrase left out: no object has the id that it names"


def looks_like(path: Path) -> bool:
    """Whether it is such a json, or a folder of them."""
    file = next(iter(_files(path)), None)
    return file is not None and all(f'"{key}"' in "".join(ends_of(file)) for key in ("objects", "short_captions"))


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other, in the order of their names."""
    files = _files(path)
    place = path if path.is_dir() else path.parent
    names = (name for file in islice(files, 20) for name, _ in _entries(file, IssueCounter()))
    images = Images.of(names, (place, place.parent), ask, report)
    for file in files:
        for name, entry in _entries(file, report):
            image = images.find((name,), str(file))
            if image is not None:
                yield _known(name, entry, Board(image, report), str(file))


def _known(name: str, entry: dict[str, Any], board: Board, where: str) -> Known:
    rows: dict[str, int | None] = {}  # by id
    regions: list[Said] = []
    for one in [*_dicts(entry.get("objects")), *_dicts(entry.get("floating_objects"))]:
        here = f"{where}: object {one.get('id')}"
        word = next((label for label in one.get("labels") or () if isinstance(label, str)), "").replace("_", " ")
        row = add_mask(board, one.get("segmentation"), here, name=" ".join(word.split()), box=one.get("bbox"))
        rows[str(one.get("id"))] = row
        plain = [words(text, here, board.report) for text in one.get("attributes") or ()] if row is not None else []
        regions += [Said(text=text, rows=(row,)) for text in plain if text is not None and row is not None]
    sentences: list[Told] = []
    expressions: list[tuple[Said, str]] = []
    captions = [*_dicts(entry.get("short_captions")), *_dicts([entry.get("dense_caption")])]
    for number, caption in enumerate(captions, start=1):
        here = f"{where}: caption {number}"
        details = [(one, _rows(one, rows, board, here)) for one in _dicts(caption.get("details"))]
        spans = [(_span(one.get("tokens_positive")), found, here) for one, found in details]
        sentence = told(caption.get("caption"), [one for one in spans if one[0] is not None], here, board.report)
        sentences += [sentence] if sentence is not None else []
        for one, found in details:
            text = words(one.get("phrase"), here, board.report) if found else None
            expressions += [(Said(text=text, rows=found), here)] if text is not None and found is not None else []
    return board.known(
        name,
        is_complete=True,
        expressions=unique(expressions, board.report),
        regions=tuple(dict.fromkeys(regions)),
        sentences=tuple(sentences),
    )


def _rows(detail: dict[str, Any], rows: dict[str, int | None], board: Board, where: str) -> tuple[int, ...] | None:
    """What a phrase means; None: nothing that is there, counted."""
    ids = detail["ids"] if isinstance(detail.get("ids"), list) else [detail.get("id")]
    if not ids or any(str(one) not in rows for one in ids):
        board.report.note(NO_OBJECT, where)
        return None
    return board.rows_of((rows[str(one)] for one in ids), where)


def _span(told: Any) -> Any:
    """A place in a caption, which may stand in a list of places of which it is the only one."""
    return told[0] if isinstance(told, list) and len(told) == 1 else told


def _dicts(entries: Any) -> list[dict[str, Any]]:
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _entries(file: Path, report: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_json(file)
    for name, entry in content.items() if isinstance(content, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("objects"), list):
            yield name, entry
        else:
            report.note(NO_ENTRY, f"{file}: {name}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.suffix == ".json" else []
    with os.scandir(path) as found:
        return [path / name for name in sorted(one.name for one in found if one.name.endswith(".json"))]


SOURCE = Source(read=read, looks_like=looks_like)
