"""Lines that say one thing of one object each, as sets of expressions and of descriptions were merged by others.

    {"img_path": "a.jpg", "expression": "the cat on the left", "bbox": [x0, y0, x1, y1],
     "mask": [[x, y, ...], ...], "height": 48, "width": 60}

`REC_ref3` (RefCOCO, RefCOCO+, RefCOCOg) and `GC_genome196` (Visual Genome) are written in the same way, and mean
different things: an expression fits its object alone, a description may fit others. The names of the images tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vistruct.data.formats.boxes.objects import Told
from vistruct.data.formats.format import Ask
from vistruct.data.formats.json_kind import ends_of
from vistruct.data.instructions.known import Known, Said
from vistruct.data.known.shapes import hull_of, mask_of
from vistruct.data.known.source import NO_ENTRY, Board, Images, keys_at, told_size, words
from vistruct.files.json_stream import json_entries
from vistruct.issues import IssueCounter

AMBIGUOUS = "expression left out: in its image it means two different things"
_ROW = {"img_path", "expression"}
_FIRST = re.compile(r'"img_path"\s*:\s*"([^"]*)"')


def are_rows(path: Path) -> bool:
    """Whether it is a file of merged lines."""
    keys = keys_at(path)
    return keys >= _ROW and bool(keys & {"bbox", "mask"})


def images_of_rows(path: Path) -> Literal["coco", "visual genome"] | None:
    """Whose images the lines are about, as far as the first name tells."""
    found = _FIRST.search(ends_of(path)[0])
    name = PurePosixPath(found[1] if found else "")
    if name.name.startswith("COCO_"):
        return "coco"
    return "visual genome" if str(name.parent).startswith("VG_100K") or name.stem.isdigit() else None


def read_rows(path: Path, ask: Ask, report: IssueCounter, *, is_unique: bool) -> Iterator[Known]:
    """Merged lines, those of one image that follow each other together.

    Args:
        is_unique: whether an expression fits its object alone; else it describes a region.
    """

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, report):
            if isinstance(entry, dict) and isinstance(entry.get("img_path"), str):
                yield where, entry
            else:
                report.note(NO_ENTRY, where)

    images = Images.of((entry["img_path"] for _, entry in _quietly(path)), (path.parent,), ask, report)
    for name, group in groupby(entries(), key=lambda pair: pair[1]["img_path"]):
        rows = list(group)
        first, entry = rows[0]
        image = images.find((name,), first, told_size(entry))
        if image is None:
            continue
        board, told = Board(image, report), []
        for where, one in rows:
            mask = mask_of(one.get("mask"), where, report)
            box = hull_of(mask) if mask and "bbox" not in one else one.get("bbox")
            told.append((one.get("expression"), board.add(box, where, told=Told(mask=mask)), where))
        said = said_of(told, board)
        id = f"{name}#{first.rpartition(':')[2]}"
        what: dict[str, Any] = {"expressions": unique(said, report)} if is_unique else {"regions": first_of(said)}
        yield board.known(id, **what)


def first_of(said: Iterable[tuple[Said, str]]) -> tuple[Said, ...]:
    """What is said, each once."""
    return tuple(dict.fromkeys(one for one, _ in said))


def unique(said: Iterable[tuple[Said, str]], report: IssueCounter) -> tuple[Said, ...]:
    """Without the expressions that mean different objects of one image."""
    found = list(said)
    means: dict[str, set[tuple[int, ...]]] = {}
    for one, _ in found:
        means.setdefault(one.text, set()).add(one.rows)
    for one, where in found:
        if len(means[one.text]) > 1:
            report.note(AMBIGUOUS, where)
    return first_of(pair for pair in found if len(means[pair[0].text]) == 1)


def said_of(told: Iterable[tuple[Any, int | None, str]], board: Board) -> list[tuple[Said, str]]:
    """What words say, each with its place, without those that cannot be used, which are counted.

    Args:
        told: text, the row it means (None: left out), place.
    """
    found = []
    for text, row, where in told:
        plain, rows = words(text, where, board.report), board.rows_of((row,), where)
        if plain is not None and rows is not None:
            found.append((Said(text=plain, rows=rows), where))
    return found


def _quietly(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries that are whole, to look at the first of them."""
    return (
        (where, one)
        for where, one in json_entries(path, IssueCounter())
        if isinstance(one, dict) and isinstance(one.get("img_path"), str)
    )
