r"""Text in images, mostly of one word each: a list of images, each on a line with its text.

    word_1.png, "Tiredness"                ICDAR 2013 and 2015; \" and \\ inside the text            text-list
    ./2425/1/115_Lube_45484.jpg 45484      MJSynth: the word is in the name, the number a lexicon's    text-list
    img/word_1.png Tiredness               a name and its text, a blank or a tab between them          text-pairs

Pairs look like lists of images and their classes, so that they are read as text only where text is asked for. The first
line says which of the three a file has. A text of ### is one that nobody can read.
"""

from __future__ import annotations

import re
from pathlib import Path

from vistruct.data.formats.captions.said import Said, merged, records_of
from vistruct.data.formats.format import Ask, Format, Stop, Walked
from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError
from vistruct.files.text import read_text
from vistruct.issues import IssueCounter

UNREADABLE = "image left out: its text is ###, which nobody can read"

_ENDING = "|".join(ending[1:] for ending in sorted(IMAGE_SUFFIXES))
_NAME = rf"\s*(?P<name>\S.*?\.(?:{_ENDING}))"
_QUOTED = re.compile(rf'{_NAME}\s*,\s*"(?P<text>.*)"\s*', re.IGNORECASE)
_IN_NAME = re.compile(r"\s*(?P<name>(?:\S*/)?\d+_(?P<text>[^/_\s]+)_(?P<number>\d+)\.jpg)\s+(?P=number)\s*")
_PAIR = re.compile(rf"{_NAME}(?:\s*,\s*|\s+)(?P<text>\S.*?)\s*", re.IGNORECASE)
_ESCAPED = re.compile(r'\\(["\\])')
_SPLIT = re.compile(r"(?:.*[^a-z])?(?P<split>train|val|test)(?:ing|idation)?(?:[^a-z].*)?", re.IGNORECASE)


def looks_like(path: Path) -> bool:
    """Whether it is a list that nothing else looks like, or a folder with some."""
    return bool(_lists(path, is_pairs=False))


def looks_like_pairs(path: Path) -> bool:
    """Whether it is a list of any of the three, or a folder with some."""
    return bool(_lists(path, is_pairs=True))


def splits(path: Path) -> tuple[str, ...]:
    """Those that the names of the lists say."""
    return tuple(dict.fromkeys(name for file in _lists(path, is_pairs=False) if (name := _split_of(file))))


def _splits_of_pairs(path: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for file in _lists(path, is_pairs=True) if (name := _split_of(file))))


def _walk(path: Path, ask: Ask, report: IssueCounter, stop: Stop) -> Walked:
    """One record an image."""
    files = _lists(path, is_pairs=True)
    if not files:
        fix = 'a line for each image: word_1.png, "its text"'
        raise UserError("no list of images and their text here", where=path, fix=fix)
    rows = [row for file in files for row in _rows(file, report, stop)]
    return Walked(records=records_of(merged(rows), files[0], ask, report, stop), annotations=tuple(files))


def _lists(path: Path, *, is_pairs: bool) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.txt")) if path.is_dir() else []
    return [file for file in files if (pattern := _pattern(file)) is not None and (is_pairs or pattern is not _PAIR)]


def _pattern(file: Path) -> re.Pattern[str] | None:
    """What the lines of a file look like, by its first; None: no such list."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            first = opened.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return None
    return next((pattern for pattern in (_QUOTED, _IN_NAME, _PAIR) if pattern.fullmatch(first)), None)


def _split_of(file: Path) -> str:
    """`train` of annotation_train.txt and of Challenge4_Training_GT.txt; "": none."""
    match = _SPLIT.fullmatch(file.stem)
    return "" if match is None else match["split"].lower()


def _rows(file: Path, report: IssueCounter, stop: Stop) -> list[Said]:
    pattern, split = _pattern(file), _split_of(file)
    assert pattern is not None
    found: list[Said] = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        here, match = f"{file}, line {number}", pattern.fullmatch(line)
        if match is None:
            stop(UserError(f"a line unlike the first: {line[:60]!r}", where=here, fix="correct or remove this line"))
            continue
        text = _ESCAPED.sub(r"\1", match["text"]) if pattern is _QUOTED else match["text"]
        if text.strip() == "###":
            report.note(UNREADABLE, here)
            continue
        name = match["name"].replace("\\", "/").removeprefix("./")
        found.append(Said(name=name, where=here, captions=[text], split=split))
    return found


FORMAT = Format(kind="captions", looks_like=looks_like, splits=splits, walk=_walk)
PAIRS = Format(kind="captions", splits=_splits_of_pairs, walk=_walk)
