"""Text files of annotations: read whole with clear errors, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vistruct.errors import UserError
from vistruct.files.whole import whole_file


def read_text(path: Path, *, may_be_empty: bool = False) -> str:
    """The text of an annotation file, UTF-8 with or without a byte order mark; its lines end in "\\n".

    Raises:
        UserError: no such file, a folder, not text, or nothing in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such annotation file", where=path, fix="check the path") from None
    except UnicodeDecodeError as error:
        where = f"{path}, line {error.object[: error.start].count(10) + 1}"
        raise UserError(f"not UTF-8 text: {error}", where=where, fix="save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read") from error
    if not may_be_empty and not text.strip():
        raise UserError("the annotation file is empty", where=path, fix="write it again, or leave it out")
    return text


def plain_number(text: str) -> float:
    """As `float`, but for underscores: Python reads 1_000, no other program does.

    Raises:
        ValueError: no number.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)


def decimal(text: str, where: str, what: str) -> float:
    """The number that a text says; it may be NaN or infinite.

    Raises:
        UserError: it says none.
    """
    try:
        return plain_number(text)
    except ValueError:
        pass
    fix = "write it with a point: 12.5" if "," in text else "correct this line"
    raise UserError(f"{what} is a number, this is {text[:40]!r}", where=where, fix=fix)


def write_text(path: Path, pieces: Iterable[str], *, wait_for_disk: bool = True) -> None:
    """Write a file that is there complete or not at all, whatever happens meanwhile.

    Args:
        wait_for_disk: also after a power cut. Thousands of small files that can be written again need not take
            minutes for that.

    Raises:
        OSError: the folder cannot be made or the disk is full; a file that was there before is untouched.
    """
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(pieces)
        if wait_for_disk:
            file.flush()
            os.fsync(file.fileno())


def printable(text: str) -> str:
    """A name of a file as text: bytes in it that are not UTF-8 are written as `%FF`."""
    return "".join(f"%{ord(sign) - 0xDC00:02X}" if "\udc80" <= sign <= "\udcff" else sign for sign in text)
