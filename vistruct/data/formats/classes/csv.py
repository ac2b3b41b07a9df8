"""Tables of images and their classes. Each of these is read, and told by its first line:

    image,label            image,labels             image,cat,dog,horse
    a.jpg,cat              a.jpg,cat;dog            a.jpg,1,1,0
    b.jpg,dog              b.jpg,                   b.jpg,0,0,1

Several classes of one image are separated by `;` or `|`, or by blanks where no class has one (and the column is called
tags or labels); that is multi-label data, and has to be asked for with `multi_label`. A column `split` says to which
split a line belongs; or every split has a table of its own, `train.csv` and so on. Names of images may lack their
ending. Read by Python's own `csv`; pandas would be a dependency for thirty lines.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vistruct.contracts import Record
from vistruct.data.formats.boxes.objects import MISSING_IMAGE
from vistruct.data.formats.classes.folders import ABSENT, below
from vistruct.data.formats.classes.lines import chosen_splits, refuse_straddlers
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.order import class_order
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError, typed
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

NO_CLASS = "image without any class taken as such"

_IMAGE = re.compile(r"(image|file|img)([-_ ]?(name|path|id|file))?|name|path|filename|filepath", re.IGNORECASE)
_LABEL = re.compile(r"labels?|class(es)?|tags?|category|categories|class[-_ ]?name|label[-_ ]?name", re.IGNORECASE)
_SPLIT = re.compile(r"split|subset|set|fold|partition", re.IGNORECASE)


@dataclass(frozen=True)
class TableRow:
    """A line of a table."""

    name: str
    said: tuple[str, ...]  # classes
    split: str
    where: str


def looks_like(root: Path) -> bool:
    """Whether it is a table with a column of images, or a folder of such tables."""
    tables = find_tables(root)
    return bool(tables) and all(_is_table(file) for file in tables)


def splits(root: Path) -> tuple[str, ...]:
    """Names in the column `split`, or of the tables."""
    found = {row.split for file in find_tables(root) for row in _rows(file, _ignore, is_several=True)}
    return tuple(sorted(name for name in found if name))


def walk(root: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record a line."""
    tables = find_tables(root)
    if not tables:
        raise UserError("no csv here", where=root, fix="name the table")
    rows = [row for file in tables for row in _rows(file, stop, is_several=ask.multi_label)]
    if not rows:
        stop(
            UserError("no line of this table can be used", where=tables[0], fix="name,class on each line; quote commas")
        )
        return Walked(annotations=tuple(tables))
    known = list(dict.fromkeys(row.split for row in rows))
    members = {split: [row.name for row in rows if row.split == split] for split in known}
    refuse_straddlers(members, stop, root)
    names = chosen_splits(ask.split, known, root) if known != [""] or ask.split is not None else [""]
    columns = dict.fromkeys(name for file in tables for name in _class_columns(file))
    found = {name for row in rows for name in row.said}
    own = ask.classes or (tuple(columns) if columns else None)
    class_names = class_order(sorted(found), own, where=root, stop=stop)
    numbers = {name: number for number, name in enumerate(class_names)}
    top = below(root, ask.images)
    folders = [top, *(top / name for name in ("images", "imgs", "img", *names) if (top / name).is_dir())]
    records: list[Record] = []
    for row in rows:
        if row.split not in names:
            continue
        labels = tuple(sorted({numbers[name] for name in row.said if name in numbers}))
        if len(labels) != 1 and not ask.multi_label:
            what = f"{len(labels)} classes of one image" if labels else "an image without a class"
            stop(UserError(what, where=f"{row.where}: {row.name}", fix="--multi-label, or one class a line"))
        path = _find(row.name, folders)
        if path is None:
            what = UserError("a listed image is not on disk", where=f"{row.where}: {row.name}", fix="--images FOLDER")
            stop(what) if ask.missing == "stop" else report.note(MISSING_IMAGE, f"{row.where}: {row.name}")
            continue
        if not labels:
            report.note(NO_CLASS, f"{row.where}: {row.name}", "kept")
        records.append(Record(id=row.name, images=(path,), image_labels=labels))
    present = {label for record in records for label in record.image_labels or ()}
    for number, name in enumerate(class_names):
        if number in present or name in ask.drop:
            continue
        if name in found and names != [""]:  # a rare class need not be in every split
            report.note(ABSENT, f"{root}: {name}", "kept")
        else:
            fix = f"add some, or {typed('--drop', [name])}"
            stop(UserError("a class without images", where=f"{root}: {name}", fix=fix))
    return Walked(records=records, class_names=class_names, annotations=tuple(tables))


def find_tables(root: Path) -> list[Path]:
    """The table, or those directly in a folder."""
    if root.is_file():
        return [root] if root.suffix.lower() in (".csv", ".tsv") else []
    return sorted(file for file in root.glob("*") if file.suffix.lower() in (".csv", ".tsv")) if root.is_dir() else []


def _table(file: Path) -> list[tuple[int, list[str]]]:
    """Every row with the number of its (last) line, the header first; never empty."""
    text = read_text(file)
    first = text.lstrip().splitlines()[0]
    separator = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
    lines = csv.reader(io.StringIO(text), delimiter=separator)
    return [(lines.line_num, row) for cells in lines if any(row := [cell.strip() for cell in cells])]


def _columns(header: Sequence[str]) -> tuple[int | None, int | None, int | None]:
    """Places of the image, of the classes (None: one column for each) and of the split."""

    def place(pattern: re.Pattern[str]) -> int | None:
        return next((at for at, name in enumerate(header) if pattern.fullmatch(name)), None)

    return place(_IMAGE), place(_LABEL), place(_SPLIT)


def _is_table(file: Path) -> bool:
    try:
        header = _table(file)[0][1]
    except UserError:
        return False
    image, label, _ = _columns(header)
    return image is not None and (label is not None or len(header) > 2)


def _class_columns(file: Path) -> list[str]:
    """Names of the columns of zeros and ones; none where one column names the classes."""
    header = _table(file)[0][1]
    image, label, split = _columns(header)
    return [] if label is not None else [name for at, name in enumerate(header) if at not in (image, split) and name]


def _rows(file: Path, stop: Stop, *, is_several: bool) -> Iterator[TableRow]:
    (_, header), *lines = _table(file)
    image, label, split = _columns(header)
    if image is None or (label is None and len(header) < 3):
        told = ", ".join(header[:6])
        raise UserError(f"columns {told}: which is the image?", where=file, fix="call them image and label")
    of_file = file.stem.lower() if re.fullmatch(r"train|val|valid|test|trainval", file.stem, re.IGNORECASE) else ""
    of_classes = [at for at, name in enumerate(header) if at not in (image, split) and name]
    separator = None
    if label is not None and is_several:
        separator = _separator([cells[label] for _, cells in lines if len(cells) > label], header[label])
    seen: dict[str, int] = {}
    for number, cells in lines:
        where = f"{file}, line {number}"
        if len(cells) != len(header):
            stop(UserError(f"{len(cells)} columns where there are {len(header)}", where=where, fix="quote commas"))
            continue
        name = cells[image].replace("\\", "/")
        if name in seen:
            stop(UserError(f"{name} is listed twice, first in line {seen[name]}", where=where, fix="remove one"))
            continue
        seen[name] = number
        if label is not None:
            parts = cells[label].split(separator) if separator else [cells[label]]
            said = tuple(part.strip() for part in parts if part.strip())
        else:
            said = tuple(header[at] for at in of_classes if cells[at] in ("1", "1.0", "True", "true"))
            strange = {cells[at] for at in of_classes} - {"0", "1", "0.0", "1.0", "True", "False", "true", "false"}
            if strange:
                stop(UserError(f"{sorted(strange)[0]!r} where 0 or 1 is meant", where=where, fix="one column a class"))
        yield TableRow(name=name, said=said, split=cells[split] if split is not None else of_file, where=where)


def _separator(cells: Sequence[str], header: str) -> str | None:
    """Between the classes of one image; None: there is one class a line."""
    for separator in (";", "|"):
        if any(separator in cell for cell in cells):
            return separator
    is_tags = header.lower() in ("tags", "labels", "classes", "categories")
    return " " if is_tags and any(" " in cell for cell in cells) else None


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        path = folder / name
        if os.path.isfile(path):  # a name that is too long is none
            return path
        for ending in sorted(IMAGE_SUFFIXES) if path.suffix.lower() not in IMAGE_SUFFIXES else ():
            if os.path.isfile(with_ending := path.with_name(path.name + ending)):
                return with_ending
    return None


def _ignore(error: UserError) -> None:
    """Errors are told when the table is read for training."""


FORMAT = Format(kind="image_classes", looks_like=looks_like, splits=splits, walk=walk)
