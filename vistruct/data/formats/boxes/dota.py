"""DOTA text files: four corners, a class and a difficult flag on a line, one file an image.

    imagesource:GoogleEarth
    gsd:0.146343590
    1126.0 971.0 1141.0 971.0 1141.0 994.0 1126.0 994.0 small-vehicle 0

The header lines are there in DOTA, not in sets made like it; they become the record's notes. Corners are pixels from
the top left corner of the image. No difficult flag means 0; DOTA also has 2. An empty file is an image without objects.
Objects reach over the border where the border cuts them: they are kept as annotated (see `objects`).

Folders: see `places`; of annotations `labelTxt`, `labelTxt-v1.5`, ..., `annfiles` (RSAR, MMRotate), `labels`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.per_image import Page, ToldShape, per_image
from vistruct.data.formats.boxes.places import Layout, first_files
from vistruct.data.formats.boxes.published import DOTA_1_0, DOTA_1_5, DOTA_2_0, RSAR
from vistruct.data.formats.format import Stop, Writer
from vistruct.errors import UserError
from vistruct.files.text import decimal, plain_number, read_text, write_text
from vistruct.issues import IssueCounter

LAYOUT = Layout(
    suffix=".txt",
    annotations=re.compile(r"labeltxt.*|(train|val)set_reclabeltxt|annfiles?|labels?|annotations?", re.IGNORECASE),
    images=re.compile(r"images?|imgs?|jpegimages|pngimages", re.IGNORECASE),
)
PUBLISHED = (DOTA_1_0, DOTA_1_5, DOTA_2_0, RSAR)

RENAMED = "class name written with hyphens: DOTA has no spaces in names"

_HEADER = re.compile(r"([A-Za-z][\w \-]*):(.*)")


def looks_like(path: Path) -> bool:
    """Whether the files lie in a folder that only DOTA's are called after, or one of the first has a line of DOTA's."""
    try:
        files = list(first_files(Path(path), LAYOUT))
        is_named = any(file.parent.name.lower().startswith(("labeltxt", "annfile")) for file in files)
        return is_named or any(map(_is_object, (line for file in files for line in _lines(file))))
    except UserError:
        return False


def write(out: Path, records: Sequence[Record], class_names: Sequence[str]) -> IssueCounter:
    """Write `out/labelTxt/<image>.txt`, one a record; reading gives the same float32 corners back.

    Horizontal boxes are written by their corners, class names with hyphens for white space.

    Returns:
        What was changed on the way.

    Raises:
        ValueError: a record that is a window.
        UserError: two records whose files would have the same name, or two classes; a class without a name.
    """
    report = IssueCounter()
    names = ["-".join(name.split()) for name in class_names]
    for name, written in zip(class_names, names, strict=True):
        if not written:
            raise UserError("a class without a name cannot be written", where=out, fix="name it")
        if name != written:
            report.note(RENAMED, name, "repaired")
    refuse_twins(names, class_names, "classes", out)
    stems = [Path(record.id).stem for record in records]
    refuse_twins(stems, [record.id for record in records], "images", out)
    folder = Path(out) / "labelTxt"
    folder.mkdir(parents=True, exist_ok=True)
    for stem, record in zip(stems, records, strict=True):
        if record.window_xyxy is not None:
            raise ValueError(f"{record.id}: DOTA files are of whole images")
        lines = [f"{key}:{value}\n" for key, value in record.notes.items()]
        objects = record.objects
        for quad, label, is_difficult in zip(objects.outlines, objects.labels, objects.is_difficult, strict=True):
            corners = " ".join(shortest(value) for value in quad.reshape(8))
            lines.append(f"{corners} {names[label]} {int(is_difficult)}\n")
        write_text(folder / f"{stem}.txt", lines, wait_for_disk=False)
    return report


def shortest(value: np.float32) -> str:
    """The shortest decimal that reads back as the same float32, with at least one digit after the point."""
    return np.format_float_positional(value, unique=True, trim="0")


def _read(path: Path, report: IssueCounter, stop: Stop) -> Page:
    notes: dict[str, str] = {}
    shapes: list[ToldShape] = []
    for number, line in enumerate(_lines(path), start=1):
        header = None if shapes else _HEADER.fullmatch(line.strip())
        if header:
            notes[header[1]] = header[2]
        elif line.strip():
            try:
                shapes.append(_shape(line.split(), f"{path}, line {number}", number))
            except UserError as error:
                stop(error)
    return Page(shapes=shapes, notes=notes)


def _shape(fields: Sequence[str], where: str, number: int) -> ToldShape:
    if len(fields) not in (9, 10):
        what = f"a line is x1 y1 x2 y2 x3 y3 x4 y4 class difficult, this has {len(fields)} fields"
        is_spaced = len(fields) > 10 and not any(map(_is_number, fields[8:10]))
        fix = "write class names with hyphens instead of spaces" if is_spaced else "correct or remove this line"
        raise UserError(what, where=where, fix=fix)
    try:
        values = [plain_number(field) for field in fields[:8]]
    except ValueError:  # say which
        values = [decimal(field, where, "a corner's coordinate") for field in fields[:8]]
    if len(fields) == 9 and _is_number(fields[8]):
        what = f"the ninth field is the name of a class, this is {fields[8]!r}"
        raise UserError(what, where=where, fix="YOLO files begin with the class: read them as that format")
    flag = fields[9] if len(fields) == 10 else "0"
    if flag not in ("0", "1", "2"):
        fix = "a class number here would make objects difficult: write 0 or 1, or nothing"
        raise UserError(f"difficult is 0, 1 or 2, this is {flag!r}", where=where, fix=fix)
    corners = tuple(zip(values[0::2], values[1::2], strict=True))
    return ToldShape(name=fields[8], line=number, corners=corners, is_difficult=flag != "0")


def _lines(path: Path) -> list[str]:
    return read_text(path, may_be_empty=True).split("\n")


def _is_object(line: str) -> bool:
    fields = line.split()
    if len(fields) not in (9, 10) or not all(map(_is_number, fields[:8])):
        return False
    return len(fields) == 10 or not _is_number(fields[8])  # nine numbers are YOLO's


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def refuse_twins(written: Sequence[str], names: Sequence[str], kind: str, out: Path) -> None:
    first: dict[str, str] = {}
    for new, name in zip(written, names, strict=True):
        if new in first:
            what = f"two {kind} would be written as {new!r}: {first[new]!r} and {name!r}"
            raise UserError(what, where=out, fix="rename one of them")
        first[new] = name


FORMAT = per_image(
    layout=LAYOUT,
    looks_like=looks_like,
    read=_read,
    published=PUBLISHED,
    oriented=True,
    writer=Writer(write=write, quads=True, is_difficult=True, notes=True, empty_classes=False),
)
