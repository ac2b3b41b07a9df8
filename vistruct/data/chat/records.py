"""Conversations as a sequence of records, each parsed from its line when it is asked for.

Data sets lie one behind the other, and a data set that repeats lies there as often: every repeat is an index of its
own, so that it is varied differently. What is held is columns of numbers, no text and no open file, so that it
travels to worker processes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from vistruct.contracts import Record
from vistruct.data.chat.image_facts import ImageFacts
from vistruct.data.chat.index import Index
from vistruct.data.formats.chat.objects import placed
from vistruct.data.formats.chat.turns import Defect
from vistruct.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The usable lines of one annotation file and how they are used."""

    name: str  # of the data set, in front of its records' ids; "" where it stands alone
    index: Index
    facts: ImageFacts
    root: Path  # folder that the image paths start from
    rows: np.ndarray  # int64[n] of the index, in order
    repeats: int = 1
    max_tiles: int | None = None  # see Record
    reencode: bool = False  # images are compressed anew, at random, in training
    identity: str = ""  # digest of all that decides what its records and their images' sizes are

    def __len__(self) -> int:
        return len(self.rows) * self.repeats

    def record(self, row: int, repeat: int = 0) -> Record:
        """What a row says.

        Raises:
            UserError: the annotation file is gone or has changed.
        """
        offsets = self.index.offsets
        try:
            talk = self.index.talk(row).filled(self.sizes_hw(row))
        except Defect as defect:
            fix = "the annotation file changed: start again"
            raise UserError(defect.what, where=offsets.whole_place(row), fix=fix) from defect
        own_id = talk.own_id if talk.own_id is not None and self.index.has_own_id[row] else offsets.place(row)
        sizes = self.sizes_hw(row)
        return Record(
            id=(f"{self.name}/" if self.name else "") + own_id + (f"~{repeat + 1}" if repeat else ""),
            images=tuple(self.root / name for name in talk.images),
            size_hw=sizes[0] if sizes else None,
            objects=placed(talk.objects, lambda depth: str(self.root / depth)),
            turns=talk.turns,
            families=talk.families,
            max_tiles=self.max_tiles,
        )

    def sizes_hw(self, row: int) -> list[tuple[int, int]]:
        """Of the row's images, in pixels."""
        return [self.facts.size_hw(image) for image in self.index.images_of(row)]

    def checksums(self, row: int) -> list[int | None]:
        """crc32 of the files of the row's images, where known."""
        return [self.facts.checksum(image) for image in self.index.images_of(row)]


class Records(Sequence[Record]):
    """The records of several sources, repeats included."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self.starts = [0]  # of each source, and the end
        for source in self.sources:
            self.starts.append(self.starts[-1] + len(source))

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        source, row, repeat = self.at(index)
        return source.record(row, repeat)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def at(self, index: int) -> tuple[Source, int, int]:
        """Where an index points: its source, the row there, and which repeat of it."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} records")
        number = bisect_right(self.starts, index) - 1
        source = self.sources[number]
        repeat, place = divmod(index - self.starts[number], len(source.rows))
        return source, int(source.rows[place]), repeat

    def checksums(self, index: int) -> list[int | None]:
        """See `Source.checksums`."""
        source, row, _ = self.at(index)
        return source.checksums(row)

    def is_reencoded(self, index: int) -> bool:
        """See `Source.reencode`."""
        return self.at(index)[0].reencode

    def keep(self, is_kept: Sequence[np.ndarray]) -> Records:
        """Without some rows.

        Args:
            is_kept: for each source, bool[n] over its rows.
        """
        pairs = zip(self.sources, is_kept, strict=True)
        return Records([replace(source, rows=source.rows[kept]) for source, kept in pairs])
