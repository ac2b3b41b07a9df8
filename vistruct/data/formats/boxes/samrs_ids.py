"""What SAMRS's label ids stand for, by everything that says a number and a name; and whether the label maps agree.

Label maps have numbers alone, instances a number and a name, jsons categories with both, lines of text both (their
tenth column, which elsewhere is a difficult flag), xml names alone. Whoever takes the position in one list for the
label of another confuses classes in silence: here two that differ are an error that names both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats.boxes.published import FAST, SIOR, SOTA
from vistruct.data.formats.format import Stop
from vistruct.errors import UserError, typed
from vistruct.files.masks import rasterise
from vistruct.files.rasters import read_raster

BACKGROUND_VALUE = 255  # in label maps
SETS = {"SOTA": SOTA, "SIOR": SIOR, "FAST": FAST}

_LOOKED_AT = 40  # label maps that are compared with their instances
_ENOUGH = 3  # instances of a class that say whether the label maps have its number


@dataclass
class LabelIds:
    """Numbers with names as they are found, in the order of how far they are believed: instances, texts, jsons."""

    names: dict[int, str] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)  # where each was said first
    numbers: dict[str, int] = field(default_factory=dict)
    highest: int = -1
    told: set[tuple[int, str]] = field(default_factory=set)  # contradictions
    is_evident: bool = False  # whether anything but the categories of a json has said one

    def add(self, number: int, name: str | None, where: str, stop: Stop, *, is_json: bool = False) -> None:
        """Take what a place says; `stop` is told where it contradicts another."""
        self.highest = max(self.highest, number)
        if name is None:
            return
        known = self.names.get(number)
        other = self.numbers.get(name)
        if known == name:
            self.is_evident |= not is_json
            return
        if known is None and other is None:
            self.names[number], self.places[number], self.numbers[name] = name, where, number
            self.is_evident |= not is_json
            return
        if (number, name) in self.told:
            return
        self.told.add((number, name))
        first = self.places[number] if other is None else self.places[other]
        said = f"{number} is {known!r}" if other is None else f"{name!r} is {other}"
        what = f"numbers and names of classes contradict each other: {name!r} is {number} here, and {said} in {first}"
        stop(
            UserError(
                what,
                where=where,
                fix="write all in the order of the label ids, as the label maps have them, and no difficult flag",
            )
        )

    def class_names(self, asked: Sequence[str] | None, where: object, stop: Stop) -> tuple[str, ...]:
        """All classes in the order of their numbers.

        Args:
            asked: the order that a user names, which is believed where nothing else says any name.

        Raises:
            UserError: nothing says what the numbers stand for.
        """
        if self.highest < 0:
            return tuple(asked or ())  # no objects
        own = set(self.names.items())
        fitting = [known for known in SETS.values() if self.highest < len(known) and own <= set(enumerate(known))]
        if own and fitting:
            return fitting[0]
        if own:
            self._doubted(where, stop)
            return tuple(self.names.get(number, f"label {number}") for number in range(self.highest + 1))
        if asked is not None and len(asked) > self.highest:
            return tuple(asked)
        may_be = {name: known for name, known in SETS.items() if self.highest < len(known)}
        fix = "; or ".join(f"{typed('--classes', known)} ({name})" for name, known in may_be.items())
        what = "nothing says what the label ids stand for: the instances have numbers alone"
        raise UserError(what, where=where, fix=fix or "--classes NAMES, in the order of the label ids")

    def _doubted(self, where: object, stop: Stop) -> None:
        """The classes of a published set in another order, which nothing but a json says, may be a mistake."""
        for title, known in SETS.items():
            differing = [(number, name) for number, name in self.names.items() if known[number : number + 1] != (name,)]
            if differing and not self.is_evident and set(self.names.values()) <= set(known):
                number, name = differing[0]
                what = f"categories in another order than the label ids of {title}: {name!r} is {number} in the json"
                what += f" and {known.index(name)} in {title}, and no instance or line of text says which is right"
                stop(UserError(what, where=where, fix="--format coco, if the json is right as it is"))


def check_maps(records: Iterable[Record], names: Sequence[str], stop: Stop) -> None:
    """Compare instances with what lies under them in the label maps, in a few of the images.

    A class is doubted where several of its instances have none of their pixels with its number; that a smaller object
    covers a larger one is nothing to doubt.
    """
    with_both = [one for one in records if one.label_map is not None and one.objects.masks and len(one.objects)]
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    times: Counter[int] = Counter()
    first: dict[int, Path] = {}
    for record in with_both[:: max(1, len(with_both) // _LOOKED_AT)][:_LOOKED_AT]:
        assert record.label_map is not None
        assert record.size_hw is not None
        try:
            values = read_raster(record.label_map)
        except UserError as error:
            stop(error)
            continue
        for label, mask in zip(record.objects.labels.tolist(), record.objects.masks, strict=True):
            if mask and values.shape == record.size_hw:
                under = values[rasterise(mask, (0, 0, record.size_hw[1], record.size_hw[0]))]
                found, counts = np.unique(under[under != BACKGROUND_VALUE], return_counts=True)
                seen[label].update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
                times[label] += 1
                first.setdefault(label, record.label_map)
    for label, pixels in sorted(seen.items()):
        if times[label] >= _ENOUGH and pixels and pixels[label] < 0.01 * pixels.total():
            value = pixels.most_common(1)[0][0]
            what = (
                f"label maps number classes otherwise than the instances: where {names[label]!r} is, which is {label},"
            )
            fix = (
                "bring both into one order; boxes alone can be learned from the json or the texts: --format coco, dota"
            )
            stop(UserError(f"{what} they have {value}", where=first[label], fix=fix))
