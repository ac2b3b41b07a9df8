"""YOLO for Keras, as Roboflow writes it: `_annotations.txt` with an image a line, and `_classes.txt`, in each split.

a0.jpg 10,8,34,30,0 40,20,70,44,0         x0, y0, x1, y1 in pixels, and the number of the class from 0
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.boxes.drawn import Export, Picture, Shape, head_of, tails
from vistruct.data.formats.boxes.exports import drawn_format
from vistruct.data.formats.format import Ask, Stop
from vistruct.errors import UserError
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

_NUMBER = r"-?\d+(?:\.\d+)?"
_LINE = re.compile(rf"(.+?\.(?:jpe?g|png|bmp|tiff?|webp))((?:\s+{_NUMBER}(?:,{_NUMBER}){{3}},\d+)*)\s*", re.IGNORECASE)


def is_one(file: Path) -> bool:
    """Whether the first lines are images with boxes."""
    lines = [line for line in head_of(file, 8192).splitlines()[:20] if line.strip()]
    found = [_LINE.fullmatch(line) for line in lines[: max(1, len(lines) - 1)]]
    return bool(found) and all(found) and any(one[2] for one in found if one is not None)


def read(file: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Export:
    """What a list says.

    Raises:
        UserError: it cannot be read, or no names of classes are beside it.
    """
    table = next((one for name in ("_classes.txt", "classes.txt") if (one := file.parent / name).is_file()), None)
    if table is None:
        raise UserError("no _classes.txt beside it", where=file, fix="write one: a name of a class on each line")
    classes = [line.strip() for line in read_text(table).splitlines() if line.strip()]
    pictures = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        where = f"{file}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None and line.strip():
            what = "a line is an image and x0,y0,x1,y1,class of each box"
            stop(UserError(what, where=where, fix="correct this line"))
        if found is None:
            continue
        shapes = []
        for text in found[2].split():
            x0, y0, x1, y1, label = text.split(",")
            if int(label) >= len(classes):
                what = f"no class has this number; {table.name} has {len(classes)}"
                stop(UserError(what, where=f"{where}: {label}", fix=f"add its name to {table}"))
                continue
            edges = float(x0), float(y0), float(x1), float(y1)
            shapes.append(Shape(name=classes[int(label)], where=where, edges=edges))
        pictures.append(Picture(names=tails(found[1]), beside=file, where=where, shapes=shapes))
    return Export(pictures=pictures, class_names=tuple(classes))


FORMAT = drawn_format(is_one=is_one, read=read, suffixes=(".txt",))
