"""Layers with outputs for each class, carried over to a model of other classes: row by row, by the classes' names.

Two names are the same where they differ in case, `-`, `_` and spaces alone: data sets spell their classes in their own
way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vistruct.contracts import ClassLayer

MOST = 60  # names that a line says


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """Which classes of one list are which of another."""

    pairs: tuple[tuple[int, int], ...]  # number here, number there
    num: tuple[int, int]  # classes here, classes there
    new: tuple[str, ...]  # here alone
    unused: tuple[str, ...]  # there alone
    ambiguous: tuple[str, ...]  # here, and there under several names, or several of here there under one
    by_name: bool = True  # False: the names there are not known, and the order is taken to be the same

    def lines(self, names: Sequence[str]) -> list[str]:
        """What there is to be said of classes `names`."""
        if not self.by_name:
            return [f"it does not name its {self.num[1]} classes: taken in the order {_listed(names)}"]
        found = [names[here] for here, _ in self.pairs]
        lines = [f"{len(found)} of {self.num[0]} classes by their names{': ' if found else ''}{_listed(found)}"]
        for what, which in (
            ("new, with random weights", self.new),
            ("with random weights, because their names could mean several there", self.ambiguous),
            ("there, and not here", self.unused),
        ):
            if which:
                lines.append(f"{len(which)} class{'es' if len(which) > 1 else ''} {what}: {_listed(which)}")
        return lines


def match_classes(names: Sequence[str], theirs: Sequence[str]) -> ClassMatch:
    """Find the classes `names` among `theirs`.

    Names that are equal go together; of the others those that are equal without case, `-`, `_` and spaces, unless
    several here or there are then the same.
    """
    exact = {name: number for number, name in enumerate(theirs)}
    pairs = {here: exact[name] for here, name in enumerate(names) if name in exact}
    left = [here for here in range(len(names)) if here not in pairs]
    there = [number for number in range(len(theirs)) if number not in pairs.values()]
    folded = [fold(name) for name in names]
    wanted = Counter(folded)
    ambiguous = []
    for here in left:
        same = [number for number in there if fold(theirs[number]) == folded[here]]
        if len(same) == 1 and wanted[folded[here]] == 1:
            pairs[here] = same[0]
        elif folded[here] in map(fold, theirs):
            ambiguous.append(here)
    found = set(pairs.values())
    return ClassMatch(
        pairs=tuple(sorted(pairs.items())),
        num=(len(names), len(theirs)),
        new=tuple(names[here] for here in left if here not in pairs and here not in ambiguous),
        unused=tuple(name for number, name in enumerate(theirs) if number not in found),
        ambiguous=tuple(names[here] for here in ambiguous),
    )


def in_order(num: int) -> ClassMatch:
    """Of two lists of `num` classes, of which the other one's names are not known."""
    pairs = tuple((i, i) for i in range(num))
    return ClassMatch(pairs=pairs, num=(num, num), new=(), unused=(), ambiguous=(), by_name=False)


def fold(name: str) -> str:
    """Without what data sets spell differently."""
    return re.sub(r"[-_ ]", "", name).casefold()


def carry_rows(layer: ClassLayer, own: Tensor, there: Tensor, match: ClassMatch) -> Tensor | None:
    """A tensor of a layer of classes with the rows of those that are known, and of what is no class.

    Args:
        layer: what the rows are.
        own: float[groups x (K x each + rest), ...], as it is now.
        there: float[groups x (K' x each + rest), ...].

    Returns:
        A tensor like `own`; None: `there` is no such tensor.
    """
    here, other = (layer.groups * (num * layer.each + layer.rest) for num in match.num)
    if (len(own), len(there)) != (here, other) or own.shape[1:] != there.shape[1:]:
        return None
    made = own.clone().view(layer.groups, -1, *own.shape[1:])
    source = there.to(made.dtype).reshape(layer.groups, -1, *there.shape[1:])
    for mine, theirs in match.pairs:
        made[:, mine * layer.each : (mine + 1) * layer.each] = source[
            :, theirs * layer.each : (theirs + 1) * layer.each
        ]
    if layer.rest:
        made[:, -layer.rest :] = source[:, -layer.rest :]
    return made.view_as(own)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")
