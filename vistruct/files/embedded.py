"""Images that stand inside of a text file in base64, as chat interfaces write them: read where they lie.

Such an image has a path of its own, `FILE@START+LENGTH`: the bytes of the file that hold the base64 text. Everything
that reads bytes of an image asks here.
"""

from __future__ import annotations

import base64
import binascii
import errno
import io
import os
import re
import stat
from pathlib import Path

_PLACE = re.compile(r"(.+)@(\d+)\+(\d+)", re.DOTALL)
_TEXT = re.compile(rb'"(?:data:image(?:\\?/)[\w.+-]+;base64,)?((?:[A-Za-z0-9+=\-_]|\\?/|\\[nr])*)"')
_ENOUGH = 64  # characters: shorter ones are words


def spans(line: bytes) -> dict[str, str]:
    """`@START+LENGTH` of every text in a json line that may be an image, by the text as json reads it."""
    found: dict[str, str] = {}
    for match in _TEXT.finditer(line):
        if match.end(1) - match.start(1) >= _ENOUGH:
            text = match[0][1:-1].replace(b"\\/", b"/").replace(b"\\n", b"\n").replace(b"\\r", b"\r").decode()
            found[text] = f"@{match.start(1)}+{match.end(1) - match.start(1)}"
    return found


def within(name: str, file: Path, start: int) -> str:
    """The path of an image whose place in a line begins with `@`, where the line starts there in the file."""
    at, _, length = name[1:].partition("+")
    return f"{file.absolute()}@{int(at) + start}+{length}"


def place_of(path: Path) -> tuple[Path, int, int] | None:
    """File, start and length of an image inside of a file; None for one that is a file itself."""
    match = _PLACE.fullmatch(os.fspath(path)) if "@" in path.name else None
    if match is None or path.exists():
        return None
    return Path(match[1]), int(match[2]), int(match[3])


def image_bytes(path: Path) -> bytes:
    """The bytes of an image, wherever it lies.

    Raises:
        OSError: no such file, or one that may not be read; what is no base64.
    """
    place = place_of(path)
    if place is None:
        image_status(path)
        return path.read_bytes()
    file, start, length = place
    with open(file, "rb") as opened:
        opened.seek(start)
        text = opened.read(length)
    text = text.replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise OSError(f"no base64 of an image: {error}") from error


def image_source(path: Path) -> Path | io.BytesIO:
    """What Pillow can open."""
    if place_of(path) is not None:
        return io.BytesIO(image_bytes(path))
    image_status(path)
    return path


def image_status(path: Path) -> os.stat_result:
    """Of the file that an image lies in.

    Raises:
        OSError: no such file, or a pipe, which would be waited for without end.
    """
    place = place_of(path)
    found = os.stat(path if place is None else place[0])
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode) or stat.S_ISCHR(found.st_mode):
        raise OSError(errno.ESPIPE, "a pipe or a device, and not a file", os.fspath(path))
    return found
