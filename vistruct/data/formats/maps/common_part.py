"""The common part of names in folders that belong together, where no usual end (`_mask`, `_sat`) tells it.

    A/0_2018_pre.jpg   B/0_2019_post.jpg   label/0_change.png       the part is 0

Taken is the first rule by which all folders have the same names, each once (one of three may lack some): without the
words that all names of a folder end in, or begin with; else the first words of each name, as few as it takes, or the
last ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_Files = Sequence[tuple[str, Path]]
Keys = list[dict[str, list[Path]]]

_MOST_WORDS = 6  # of a name


def by_common_part(folders: Sequence[_Files]) -> Keys | None:
    """The files of each folder by the common part of their names; None: there is none.

    Args:
        folders: files with their names below each folder, in small letters.
    """
    if not all(folders):
        return None
    words = [[re.split(r"[_\-. ]", os.path.splitext(name.rpartition("/")[2])[0]) for name, _ in one] for one in folders]
    for rule in _rules(words):
        keys = [["_".join(part) for part in rule(one)] for one in words]
        full = set(max(keys, key=len))
        whole = sum(set(one) == full for one in keys)
        if whole < max(2, len(keys) - 1) or not all(set(one) <= full for one in keys):  # one of three may lack some
            continue
        if all(all(one) and len(set(one)) == len(one) for one in keys):
            return [
                {key: [path] for key, (_, path) in zip(one, files, strict=True)}
                for one, files in zip(keys, folders, strict=True)
            ]
    return None


def _rules(words: Sequence[Sequence[list[str]]]) -> Iterator[Callable[[Sequence[list[str]]], list[list[str]]]]:
    yield _without_shared
    for number in range(1, _MOST_WORDS):
        yield lambda names, number=number: [name[:number] for name in names]
    for number in range(1, _MOST_WORDS):
        yield lambda names, number=number: [name[-number:] for name in names]


def _without_shared(names: Sequence[list[str]]) -> list[list[str]]:
    """Without the words that all names begin with, and those that all end in."""
    if len(names) < 2:
        return [list(name) for name in names]
    shortest = min(map(len, names))
    first = next((at for at in range(shortest) if len({name[at] for name in names}) > 1), shortest)
    left = [name[first:] for name in names]
    shortest = min(map(len, left))
    last = next((at for at in range(shortest) if len({name[-1 - at] for name in left}) > 1), shortest)
    return [name[: len(name) - last] for name in left]
