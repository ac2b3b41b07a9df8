"""Names of splits, and lists of names that choose one: the same for every format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vistruct.errors import UserError, closest
from vistruct.files.text import read_text

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_ALSO = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}


def chosen(split: str | None, known: Iterable[str], where: object) -> list[str]:
    """The names of the splits that are meant, capitals aside; val may be called valid or validation, and so on.

    Raises:
        UserError: one is unknown; or none is asked for and there are several.
    """
    known = list(known)
    if split is None:
        if len(known) == 1:
            return known
        known.sort(key=lambda name: (not name.startswith("train"), not name.startswith("val")))  # as one would ask
        names = ", ".join(name or "(no name)" for name in known)
        fix = f"say which: --split {known[0]}; or several: --split {'+'.join(known[:2])}"
        raise UserError(f"several splits are here: {names}", where=where, fix=fix)
    by_name = {name.lower(): name for name in known}
    by_word = {_word(name): name for name in known}
    names = []
    for part in split.split("+"):
        found = by_name.get(part.lower()) or by_word.get(_word(part))
        if found is None:
            told = [name for name in known if name]
            fix = closest(part, told) if told else "leave the split out, or name the folder of the split"
            raise UserError(f"no split {part!r} here", where=where, fix=fix)
        names.append(found)
    return names


def read_list(path: Path) -> list[str]:
    """The names of a list without folders and image endings; what follows a name on its line is read over.

    Raises:
        UserError: it cannot be read, or nothing is in it.
    """
    names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    plain = [name.replace("\\", "/").rpartition("/")[2] for name in names]
    return [name[: -len(end)] if (end := Path(name).suffix).lower() in IMAGE_SUFFIXES else name for name in plain]


def _word(name: str) -> str:
    return _ALSO.get(name.lower(), name.lower())
