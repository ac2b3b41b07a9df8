"""Flickr30k Entities: sentences whose phrases mean boxes.

    Sentences/36979.txt      [/EN#5/people A group of friends] stands [/EN#0/notvisual it] ...; five lines
    Annotations/36979.xml    the boxes of each number; of some it says that they have none, or are the scene
    train.txt, val.txt, test.txt    numbers of images, if they are there
    flickr30k-images/36979.jpg

Pixels count from 1 and a box contains its last one, as in VOC: xmin - 1, ymin - 1, xmax, ymax. Merged lines are read
as well (`CWB_flickr30k`; masks in place of boxes, as the segmented set has them):

    {"image_id": 36979, "sentence": "<ph_st>A group<ph_ed> stands.", "boxes": [[x0, y0, x1, y1]], "boxes_seq": [[0]]}
    {"image_id": 36979, "sentence": "<Phrase>A group</Phrase><masks> stands.", "masks": [{...}], "masks_seq": [[0]]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vistruct.data.formats.classes.lines import chosen_splits
from vistruct.data.formats.format import Ask
from vistruct.data.instructions.known import Known, Told
from vistruct.data.known.shapes import add_mask, told
from vistruct.data.known.source import NO_ENTRY, Board, Images, Source, keys_at, meant
from vistruct.files.json_stream import json_entries
from vistruct.files.text import read_text
from vistruct.files.xml_nodes import read_xml
from vistruct.issues import IssueCounter

UNPAIRED = "sentence left out: its phrases and what they mean differ in number"
NO_PAGE = "image left out: it has no annotations"
_PHRASE = re.compile(r"\[/EN#(\d+)(?:/\S+)? ([^\]]*)\]")
_BEFORE, _STOP = re.compile(r"\s+(?=[,.;:!?](?:\s|$))"), re.compile(r"\s*[,.;:!?](?:\s|$)")
_MARKED = re.compile(r"<ph_st>(.*?)<ph_ed>|<Phrase>(.*?)</Phrase>((?:<masks>|<boxes>)*)")


def looks_like(path: Path) -> bool:
    """Whether it is the folder of sentences and annotations, or a file of merged lines."""
    keys = keys_at(path)
    if path.is_dir():
        return (path / "Sentences").is_dir() and (path / "Annotations").is_dir()
    return {"image_id", "sentence"} <= keys and bool({"boxes_seq", "masks_seq"} & keys)


def splits(path: Path) -> tuple[str, ...]:
    """Those that have a list of numbers."""
    names = ("train", "val", "test")
    return tuple(name for name in names if (path / f"{name}.txt").is_file()) if path.is_dir() else ()


def read(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    """An image after the other, with its sentences."""
    if not path.is_dir():
        yield from _lines(path, ask, report)
        return
    known = splits(path)
    chosen = chosen_splits(ask.split, known, path) if known or ask.split is not None else []
    listed = [line.strip() for name in chosen for line in read_text(path / f"{name}.txt").splitlines() if line.strip()]
    numbers = listed or sorted(file.stem for file in (path / "Sentences").glob("*.txt"))
    images = Images.of((f"{number}.jpg" for number in numbers), (path, path.parent), ask, report)
    for number in numbers:
        page, spoken = path / "Annotations" / f"{number}.xml", path / "Sentences" / f"{number}.txt"
        if not page.is_file() or not spoken.is_file():
            report.note(NO_PAGE, str(spoken if page.is_file() else page))
            continue
        image = images.find((f"{number}.jpg",), str(page), _size(page))
        if image is None:
            continue
        board = Board(image, report)
        rows = _rows(page, board)
        sentences = []
        for at, line in enumerate(read_text(spoken, may_be_empty=True).splitlines(), start=1):
            where = f"{spoken}:{at}"
            pieces = list(_pieces(line, rows, where, report))
            sentence = told_of(pieces, where, report)
            sentences += [] if sentence is None else [sentence]
        yield board.known(f"{number}.jpg", sentences=tuple(sentences))


def _size(page: Path) -> tuple[int, int]:
    root = read_xml(page)
    return int(root.number("size", "height")), int(root.number("size", "width"))


def _rows(page: Path, board: Board) -> dict[str, list[int | None]]:
    """The rows of each number."""
    rows: dict[str, list[int | None]] = {}
    for node in read_xml(page).all("object"):
        box = node.find("bndbox")
        if box is None:
            continue
        x0, y0, x1, y1 = (box.number(name) for name in ("xmin", "ymin", "xmax", "ymax"))
        row = board.add([x0 - 1, y0 - 1, x1, y1], box.where)
        for name in node.all("name"):
            rows.setdefault(name.text, []).append(row)
    return rows


def _pieces(
    line: str, rows: dict[str, list[int | None]], where: str, report: IssueCounter
) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    at = 0
    for found in _PHRASE.finditer(line):
        number, phrase = found.groups()
        yield line[at : found.start()], None
        yield phrase, meant(rows.get(number, ()), f"{where}: {phrase}", report) if number != "0" else ()
        at = found.end()
    yield line[at:], None


def _lines(path: Path, ask: Ask, report: IssueCounter) -> Iterator[Known]:
    def entries(counter: IssueCounter) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, entry in json_entries(path, counter):
            if isinstance(entry, dict) and "image_id" in entry and isinstance(entry.get("sentence"), str):
                yield where, entry
            else:
                counter.note(NO_ENTRY, where)

    names = (f"{entry['image_id']}.jpg" for _, entry in entries(IssueCounter()))
    images = Images.of(names, (path.parent,), ask, report)
    for number, group in groupby(entries(report), key=lambda pair: pair[1]["image_id"]):
        first, entry = next(group)
        image = images.find((f"{number}.jpg",), first)
        if image is None:
            continue
        board, sentences = Board(image, report), []
        for where, one in ((first, entry), *group):
            rows = _drawn(one, board, where)
            sentence = marked(one["sentence"], rows, one.get("boxes_seq", one.get("masks_seq")), where, report)
            sentences += [] if sentence is None else [sentence]
        yield board.known(f"{number}.jpg#{first.rpartition(':')[2]}", sentences=tuple(sentences))


def _drawn(entry: dict[str, Any], board: Board, where: str) -> list[int | None]:
    """The rows of an entry's boxes, or else masks."""
    boxes = entry.get("boxes")
    if isinstance(boxes, list):
        return [board.add(box, where) for box in boxes]
    return [add_mask(board, mask, where) for mask in entry.get("masks") or ()]


def marked(text: str, rows: Sequence[int | None], groups: Any, where: str, report: IssueCounter) -> Told | None:
    """A sentence whose phrases stand between marks, and mean a group of rows each, in order; None: it is left out."""
    found = list(_MARKED.finditer(text))
    groups = groups if isinstance(groups, list) else []
    if len(found) != len(groups) or not all(
        isinstance(one, list) and all(isinstance(at, int) and 0 <= at < len(rows) for at in one) for one in groups
    ):
        report.note(UNPAIRED, where)
        return None
    pieces: list[tuple[str, tuple[int, ...] | None]] = []
    at = 0
    for match, group in zip(found, groups, strict=True):
        phrase = match[1] if match[1] is not None else match[2]
        pieces += [(text[at : match.start()], None), (phrase, meant((rows[n] for n in group), where, report))]
        at = match.end()
    return told_of([*pieces, (text[at:], None)], where, report)


def told_of(pieces: Iterable[tuple[str, tuple[int, ...] | None]], where: str, report: IssueCounter) -> Told | None:
    """A sentence from its pieces, without blanks before commas and full stops; None: it has no words, counted.

    Args:
        pieces: in order, each with the rows it means; None, or no rows: plain words.
    """
    text = ""
    found: list[tuple[tuple[int, int], tuple[int, ...] | None, str]] = []
    for piece, rows in pieces:
        plain = _BEFORE.sub("", piece)
        if _STOP.match(plain):
            text, plain = text.rstrip(), plain.lstrip()
        found.append(((len(text), len(text) + len(plain.rstrip())), rows, where))
        text += plain
    return told(text, found, where, report)


SOURCE = Source(read=read, looks_like=looks_like, splits=splits)
