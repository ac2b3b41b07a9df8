"""Text files of annotations: read whole with clear errors, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vistruct.errors import UserError


def read_text(path: Path) -> str:
    """The text of an annotation file, UTF-8 with or without a byte order mark.

    Raises:
        UserError: no such file, a folder, not text, or nothing in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such annotation file", where=path, fix="check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text: {error}", where=path, fix="save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read") from error
    if not text.strip():
        raise UserError("the annotation file is empty", where=path, fix="write it again, or leave it out")
    return text


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write a file that is there complete or not at all, whatever happens meanwhile.

    Raises:
        OSError: the folder cannot be made or the disk is full; a file that was there before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # also an interrupt: leave no half file behind
        temporary.unlink(missing_ok=True)
        raise
