"""Everything that is wrong with a data set, before any training: what `vistruct check PATH` shows.

The same walkers that read for training read here, with errors collected instead of raised, so that this page
and training cannot disagree about what is a mistake.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistruct.config import Run
from vistruct.data.checks.parts import Findings, walk_parts
from vistruct.data.checks.problem import Problem, counted, stops
from vistruct.data.formats.detect import family_of
from vistruct.data.formats.format import Ask, Kind
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

_LOOKS: dict[Kind, str] = {  # by family, where its `look(parts, decode_at_most) -> Findings` is
    "boxes": "vistruct.data.checks.boxes",
    "talk": "vistruct.data.checks.chat",
    "maps": "vistruct.data.checks.maps",
    "volumes": "vistruct.data.checks.volumes",
    "image_classes": "vistruct.data.checks.classes",
}

MAX_LEFT_OUT: float = Run.model_fields["max_left_out"].default


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What is in a data set and what is wrong with it; `str()` is a table for people."""

    annotation: Path
    format: str  # of any family, see `formats`
    splits: tuple[str, ...] = ()  # of a folder, those that were looked at; empty: it has none
    counts: dict[str, int] = field(default_factory=dict)  # images, objects, turns, ...
    classes: dict[str, int] = field(default_factory=dict)  # objects, pixels, voxels or images by class name
    data_sets: dict[str, dict[str, int]] = field(default_factory=dict)  # of a mix, by name: lines, used, ...
    sizes: dict[str, str] = field(default_factory=dict)  # smallest, median and largest, in words
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether training on this would start and get through."""
        return not any(problem.effect == "stops training" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return {**dataclasses.asdict(self), "annotation": str(self.annotation), "ok": self.ok}

    def __str__(self) -> str:
        return self.text()

    def text(self, places: int | None = 3) -> str:
        """The table, with so many places of each problem; None: all of them."""
        splits = {"splits": ", ".join(self.splits)} if self.splits else {}
        facts = {"file": str(self.annotation), "format": self.format, **splits, **self.counts, **self.sizes}
        lines = [f"{name:<22} {value}" for name, value in facts.items()]
        lines += [f"  {name:<20} {count}" for name, count in self.classes.items()]
        for name, numbers in self.data_sets.items():
            lines += [f"  {name:<20} {', '.join(f'{number} {what}' for what, number in numbers.items())}"]
        for problem in self.problems:
            shown = problem.places[:places]
            lines += [f"{problem.effect}: {problem.count} x {problem.what}"]
            lines += [f"  {place}" for place in shown] if places is None else []
            more = "; ..." if problem.count > len(shown) and shown else ""
            lines += [f"  {'; '.join(shown)}{more}"] if places is not None and shown else []
            lines += [f"  try: {problem.fix}"] if problem.fix else []
        verdict = "nothing stops training" if self.ok else "training would stop at this"
        return "\n".join([*lines, f"{'verdict':<22} {verdict}"])


def check(
    path: Path,
    images: Path | None = None,
    *,
    format: str = "auto",
    split: str | None = None,
    decode_at_most: int | None = None,
    max_left_out: float = MAX_LEFT_OUT,
) -> CheckResult:
    """Look at everything in a data set and raise at nothing in it.

    Args:
        path: a data set of any family (see `formats`): boxes, label maps, volumes, classes of images, conversations
            as jsonl or json, a mix file; or a folder with one such file in it (or in its `annotations` folder).
        images: the folder image paths start from; None: the folder of the annotation file, or where the format has
            them. Of a mix file: the folder that all its paths start from.
        format: "auto": told by the content.
        split: which part of a folder; None: all of them together.
        decode_at_most: how many images to decode in full, in order; None: all of them.
        max_left_out: part of a data set of conversations that training would do without, in [0, 1].

    Returns:
        Counts, and every problem with what training does about it.

    Raises:
        UserError: nothing there to check, or several annotation files or formats in the folder.
    """
    family = family_of(Path(path), format)
    look = importlib.import_module(_LOOKS[family.kind]).look
    errors: list[UserError] = []
    splits: tuple[str, ...] = ()
    report = IssueCounter()
    if family.kind == "talk":
        found: Findings = look(family, images, max_left_out, decode_at_most, errors)
    else:
        # An image without labels is no reason to leave out the others: all places are wanted.
        own = images if family.kind == "boxes" else None
        asked = Ask(images=own, missing="drop" if family.kind == "maps" else "stop", multi_label=True)
        parts = walk_parts(family, split, asked)
        found = look(parts, decode_at_most)
        errors, splits, report = parts.errors, parts.splits, parts.report
    return CheckResult(
        annotation=family.path,
        format=family.format,
        splits=splits,
        counts=found.counts,
        classes=found.classes,
        data_sets=found.data_sets,
        sizes=found.sizes,
        problems=(*stops(errors), *_counted(report, found.stopping), *found.problems),
    )


def _counted(report: IssueCounter, stopping: Mapping[str, tuple[str, str]]) -> list[Problem]:
    """What the walkers left out or repaired; some of it is left out here alone, and stops training."""
    return [
        problem
        if problem.what not in stopping
        else replace(problem, what=stopping[problem.what][0], effect="stops training", fix=stopping[problem.what][1])
        for problem in counted(report)
    ]
