"""Files that are there complete or not at all, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, ending: str | None = None) -> Generator[Path]:
    """Where to write for now: a file beside `path` that takes its place at the end of the block.

    Args:
        ending: of its name; None: one for each process. One that is the same each time is written over after a kill.

    Raises:
        OSError: the folder cannot be made; a file that was there before is untouched, as it is by errors in the block.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = ending or f"{os.getpid()}.tmp"
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    temporary = path.with_name(f".{name}.{ending}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:  # also an interrupt: leave no half file behind
        temporary.unlink(missing_ok=True)
        raise
