"""A folder with all that lies below it, links followed: each folder once, so that links in a circle come to an end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vistruct.errors import UserError
from vistruct.issues import IssueCounter

SEEN = "folder left out: a link to one that was looked through before"


def folders_below(top: Path, report: IssueCounter | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Every folder at and below one, with the names of its files; all in the order of names, hidden ones left out.

    Raises:
        UserError: a folder that may not be looked into.
    """
    seen: set[tuple[int, int]] = set()
    for place, children, files in os.walk(top, followlinks=True, onerror=_stop):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            children.clear()
            if report is not None:
                report.note(SEEN, place)
            continue
        seen.add((status.st_dev, status.st_ino))
        children[:] = sorted(child for child in children if not child.startswith("."))
        yield Path(place), sorted(name for name in files if not name.startswith("."))


def _stop(error: OSError) -> None:
    what = f"cannot look into this folder: {error.strerror}"
    raise UserError(what, where=error.filename, fix=f"chmod u+rx {error.filename}") from error
