"""The files that a json or a list names: whatever machine wrote their paths.

A path from the root of a disk, with a drive letter, with backslashes, up and down, or a URL is of another machine as a
rule. Its end is looked for in the folder of the images; the record is called by what such paths have not in common.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vistruct.data.formats.splits import IMAGE_SUFFIXES
from vistruct.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ROOT = re.compile(r"[A-Za-z]:[\\/]|[\\/]")


def is_foreign(name: str) -> bool:
    """Whether it is no plain path below a folder."""
    return is_rooted(name) or ".." in Path(name).parts


def is_rooted(name: str) -> bool:
    """Whether it begins at the root of a disk or of a network, or is a path as Windows writes it."""
    return bool(_URL.match(name) or _ROOT.match(name)) or "\\" in name


def parts_of(name: str) -> list[str]:
    """The folders and the file of a path or URL, without what leads to the root and up."""
    path = unquote(urlsplit(name).path) if _URL.match(name) else re.sub(r"^[A-Za-z]:", "", name)
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, or to copies of one."""
    return one == other or one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def record_ids(names: Sequence[str]) -> list[str]:
    """What the records of these names are called: the same, but for those of another machine."""
    foreign = [parts_of(name)[:-1] for name in names if is_foreign(name)]
    differs = (at for at, column in enumerate(zip(*foreign, strict=False)) if len(set(column)) > 1)
    common = next(differs, min(map(len, foreign), default=0))
    return ["/".join(parts_of(name)[common:]) or name if is_foreign(name) else name for name in names]


@dataclass
class ImageFolder:
    """Where images are looked for."""

    root: Path
    is_named: bool  # by the user: the file is then somewhere in it, and nowhere else
    is_list: bool = False  # of names that begin with a folder that is not there, as darknet's `data/`
    _index: dict[str, list[Path]] | None = field(default=None, init=False)

    def find(self, name: str) -> Path | None:
        """The file of a name; None: it is not there.

        Raises:
            UserError: several files of its last part.
        """
        if not (self.is_named and is_foreign(name)) and os.path.isfile(self.root / name):
            return self.root / name
        if not self.is_named and not self.is_list and not is_foreign(name):
            return None
        parts = parts_of(name)
        for start in range(len(parts)):
            path = self.root.joinpath(*parts[start:])
            if os.path.isfile(path):  # a name that is too long is none
                return path
        found = self._by_last_part().get(parts[-1], []) if parts and self.is_named else []
        if len(found) > 1:
            where = f"{name}: {', '.join(map(str, found[:3]))}"
            fix = "name the folder that is meant: --images FOLDER; or keep one of them"
            raise UserError("several images could be meant", where=where, fix=fix)
        return found[0] if found else None

    def _by_last_part(self) -> dict[str, list[Path]]:
        if self._index is None:
            self._index = {}
            for folder, _, names in os.walk(self.root):
                for name in names:
                    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                        self._index.setdefault(name, []).append(Path(folder, name))
        return self._index
