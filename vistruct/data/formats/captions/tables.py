"""Tables of images and captions, a caption on each line, as many lines of an image as it has captions:

    image,caption                image_name| comment_number| comment          1000092795.jpg#0<TAB>Two young men.
    a.jpg,"A cat, asleep."       1000092795.jpg| 0| Two young men.            1000092795.jpg#1<TAB>Two friends.
    (csv, tsv)                   (Flickr30k as Kaggle has it)                 (Flickr30k as published, `.token`)

A column `split` says to which split a line belongs; or every split has a table of its own, `train.csv` and so on.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from vistruct.data.formats.captions.said import Said, merged, records_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.errors import UserError
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

SHORT = "line left out: it has fewer columns than the first"
JOINED = "caption with the separator of the table in it: put together again"

IMAGE = re.compile(r"(image|file|img)([-_ ]?(name|path|id|file))?|name|path|filename|filepath", re.IGNORECASE)
CAPTION = re.compile(r"captions?|sentences?|comments?|descriptions?|texts?|raw", re.IGNORECASE)
SPLIT = re.compile(r"split|subset|set|fold|partition", re.IGNORECASE)
_OF_FILE = re.compile(r"train|val|valid|test|trainval", re.IGNORECASE)
_TOKEN = re.compile(r"(?P<name>\S.*?\.\w{3,4})#\d+\t")  # Flickr's own
_ENDINGS = (".csv", ".tsv", ".token", ".txt")
_SEPARATORS = ("\t", "|", ";", ",")


def looks_like(path: Path) -> bool:
    """Whether it is a table with a column of images and one of captions, or a folder of such tables."""
    return bool(_tables(path))


def splits(path: Path) -> tuple[str, ...]:
    """Names in the column `split`, or of the tables."""
    found = dict.fromkeys(row.split for table in _tables(path) for row in _rows(table, IssueCounter()))
    return tuple(name for name in found if name)


def walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image, with the captions of all its lines."""
    tables = _tables(path) or ([path] if path.is_file() else [])
    if not tables:
        raise UserError("no table of images and captions here", where=path, fix="name the file")
    rows = [row for table in tables for row in _rows(table, report)]
    if not rows:
        raise UserError("no line of this table can be used", where=tables[0], fix="image,caption on each line")
    records = records_of(merged(rows), tables[0], ask, report, stop)
    return Walked(records=records, annotations=tuple(tables))


def _tables(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in files if file.suffix.lower() in _ENDINGS and file.is_file() and _is_table(file)]


def _is_table(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8-sig") as opened:
            first = opened.readline()
    except (OSError, UnicodeDecodeError):
        return False
    return bool(_TOKEN.match(first)) or _columns(first) is not None


def _columns(header: str) -> tuple[str, list[str]] | None:
    """The separator and the names of the columns; None: no table of captions."""
    for separator in _SEPARATORS:
        names = [name.strip().strip('"') for name in header.strip().split(separator)]
        if any(map(IMAGE.fullmatch, names)) and any(map(CAPTION.fullmatch, names)):
            return separator, names
    return None


def _rows(file: Path, report: IssueCounter) -> Iterator[Said]:
    """
    Raises:
        UserError: no columns of images and captions.
    """
    text = read_text(file)
    of_file = file.stem.lower() if _OF_FILE.fullmatch(file.stem) else ""
    lines = text.splitlines()
    if _TOKEN.match(lines[0]):
        for number, line in enumerate(lines, start=1):
            match, here = _TOKEN.match(line), f"{file}, line {number}"
            if match is not None:
                yield Said(name=match["name"], where=here, captions=[line[match.end() :]], split=of_file)
            elif line.strip():
                report.note(SHORT, here)
        return
    found = _columns(lines[0])
    if found is None:
        what = f"columns {lines[0][:60]!r}: which is the image, which the caption?"
        raise UserError(what, where=file, fix="call them image and caption")
    separator, names = found
    image, caption, split = (
        next((at for at, name in enumerate(names) if pattern.fullmatch(name)), None)
        for pattern in (IMAGE, CAPTION, SPLIT)
    )
    assert image is not None
    assert caption is not None
    quoting = csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, quoting=quoting)
    next(reader)
    for cells in reader:
        here = f"{file}, line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names) and caption == len(names) - 1:
            report.note(JOINED, here, "repaired")
            cells[caption:] = [separator.join(cells[caption:])]
        if len(cells) != len(names):
            report.note(SHORT, here)
            continue
        own = cells[split].strip() if split is not None else of_file
        name = cells[image].strip().replace("\\", "/")
        yield Said(name=name, where=here, captions=[cells[caption]], split=own)


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=walk)
