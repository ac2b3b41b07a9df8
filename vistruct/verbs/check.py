"""A data set read as training would read it, and everything that is wrong with it: `vistruct.check("fields")`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError
from vistruct.recipes.options import called, taken

if TYPE_CHECKING:
    from vistruct.data.checks.check import CheckResult
    from vistruct.data.checks.problem import Problem

WORDS = ("split", "not_in", "decode", "max_left_out")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What is in one data set, or in those of a run, and what is wrong with it; `print` shows it."""

    parts: Mapping[str, CheckResult]  # of a run by its streams and evaluations; of a data set "" alone

    @property
    def ok(self) -> bool:
        """Whether training on this would start and get through."""
        return all(part.ok for part in self.parts.values())

    @property
    def issues(self) -> tuple[Problem, ...]:
        """Each kind of fault: what, how often, where, what training does about it, what to try."""
        return tuple(problem for part in self.parts.values() for problem in part.problems)

    @property
    def counts(self) -> dict[str, int]:
        """Images, objects, turns, ...; of a run those of all its data together."""
        return dict(sum((Counter(part.counts) for part in self.parts.values()), Counter()))

    @property
    def classes(self) -> dict[str, int]:
        """Objects, pixels, voxels or images by class, likewise."""
        return dict(sum((Counter(part.classes) for part in self.parts.values()), Counter()))

    def __str__(self) -> str:
        return self.text()

    def text(self, places: int | None = None) -> str:
        """A table of each, with so many places of each problem; None: the first few."""
        lines: list[str] = []
        for name, part in self.parts.items():
            lines += [f"[{name}]"] if name else []
            lines.append(str(part) if places is None else part.text(places))
        return "\n".join(lines)


def check(
    path: str | Path,
    *,
    split: str | None = None,
    not_in: Sequence[str | Path] = (),
    decode: int | None = None,
    max_left_out: float | None = None,
    **words: Any,
) -> Checked:
    """Count everything in a data set; find broken, empty, duplicate and misplaced annotations. Raises at none of them.

    Args:
        path: a data set of any kind: a folder, an annotation file, a mix file; or a run.yaml.
        split: only this part of a folder.
        not_in: of images without labels: those to measure on, which should not be among them.
        decode: decode only so many images; None: all.
        max_left_out: part of a data set that may be unusable, in [0, 1]; None: as the run has it.
        words: how the data are read, as training is told: `format`, `classes`, `join`, `drop`, `values`, `bands`, ...
            (`vistruct check --help`).

    Raises:
        UserError: nothing there to check, or no such word (with the nearest).
    """
    reading, values = called(_groups, taken(_groups, words, WORDS, f"vistruct.check({str(path)!r})"))
    others = tuple(map(Path, not_in))
    return checked(Path(path), reading, values, split=split, not_in=others, decode=decode, max_left_out=max_left_out)


def _groups(*, reading: Reading = AS_FOUND, values: PixelValues = AS_THEY_ARE) -> tuple[Reading, PixelValues]:
    return reading, values


def checked(
    path: Path,
    reading: Reading = AS_FOUND,
    values: PixelValues = AS_THEY_ARE,
    *,
    split: str | None = None,
    not_in: tuple[Path, ...] = (),
    decode: int | None = None,
    max_left_out: float | None = None,
) -> Checked:
    """As `check`, with the words in their groups.

    Raises:
        UserError: as `check`; words about a run.yaml, which has said them itself.
    """
    from vistruct.config import data_from_dict
    from vistruct.data.checks.check import MAX_LEFT_OUT, check_run
    from vistruct.data.checks.check import check as check_data
    from vistruct.read_yaml import read_yaml, run_file_at

    run_file = run_file_at(path)
    if run_file is None:
        limit = MAX_LEFT_OUT if max_left_out is None else max_left_out
        found = check_data(path, reading, values, split=split, not_in=not_in, decode_at_most=decode, max_left_out=limit)
        return Checked(parts={"": found})
    if reading != AS_FOUND or values != AS_THEY_ARE or split is not None or not_in:
        raise UserError("a run.yaml says itself how its data are read", where=path, fix=f"vistruct check {path}")
    told = read_yaml(run_file)
    limit = told.get("max_left_out", MAX_LEFT_OUT) if max_left_out is None else max_left_out
    return Checked(parts=check_run(data_from_dict(told, run_file), decode_at_most=decode, max_left_out=limit))
