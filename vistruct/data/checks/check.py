"""Everything that is wrong with a data set, before any training: what `vistruct check PATH` shows.

The same walkers that read for training read here, with errors collected instead of raised, so that this page
and training cannot disagree about what is a mistake.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.config import Run
from vistruct.contracts import Record
from vistruct.data.chat.records import Records
from vistruct.data.checks.boxes import count_boxes, open_boxes
from vistruct.data.checks.chat import count_turns, in_numbers, open_all
from vistruct.data.checks.images import decoded, sizes_in_words, tiny_images
from vistruct.data.checks.problem import Problem, stops
from vistruct.data.formats.detect import Family, family_of, splits_of
from vistruct.errors import UserError

# By family, where its check is: `look(path, format, split, decode_at_most) -> (counts, classes, problems, sizes)`.
_LOOKS = {
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
    if family.kind in _LOOKS:
        return _looked_at(family, split, decode_at_most)
    annotation, format_ = family.path, family.format
    errors: list[UserError] = []
    records: Sequence[Record]
    if family.kind == "boxes":
        boxes = open_boxes(annotation, images, format_, split, errors)
        records, problems, splits = boxes.records, boxes.problems, boxes.splits
        counts, classes = count_boxes(records, boxes.class_names)
        data_sets: dict[str, dict[str, int]] = {}
    else:
        splits = ()
        opened, problems = open_all(annotation, images, format_, max_left_out, errors)
        records = Records([replace(one.source, repeats=1) for one in opened])
        counts, classes = count_turns(records), {}
        data_sets = {one.account.name: in_numbers(one.account) for one in opened if one.account.name}
    seen: dict[Path, None] = {}
    sides = [record.boxes_xyxy[:, 2:] - record.boxes_xyxy[:, :2] for record in records if len(record.boxes_xyxy)]
    for record in records:
        seen |= dict.fromkeys(record.images)
    paths = list(seen)
    sizes = decoded(paths[:decode_at_most], errors)
    return CheckResult(
        annotation=annotation,
        format=format_,
        splits=splits,
        counts={"images": len(paths), **counts, "images decoded": len(paths[:decode_at_most])},
        classes=classes,
        data_sets=data_sets,
        sizes=sizes_in_words(sizes.values()) | _object_sizes(sides),
        problems=(*stops(errors), *problems, *tiny_images(sizes)),
    )


def _looked_at(family: Family, split: str | None, decode_at_most: int | None) -> CheckResult:
    """Of a family whose module counts and judges for itself."""
    look = importlib.import_module(_LOOKS[family.kind]).look
    counts, classes, problems, sizes = look(family.path, family.format, split, decode_at_most)
    return CheckResult(
        annotation=family.path,
        format=family.format,
        splits=(split,) if split is not None else _splits(family),
        counts=counts,
        classes=classes,
        sizes=sizes,
        problems=tuple(problems),
    )


def _splits(family: Family) -> tuple[str, ...]:
    """Those that were looked at; none where what would name them is broken, which is among the problems."""
    try:
        return splits_of(family.path, family.format)
    except UserError:
        return ()


def _object_sizes(sides: Sequence[np.ndarray]) -> dict[str, str]:
    """Of float[N, 2], the widths and heights of an image's objects."""
    if not sides:
        return {}
    side = np.sqrt(np.prod(np.concatenate(sides), axis=1))
    return {"object side, pixels": f"{side.min():.1f} to {side.max():.1f}, median {np.median(side):.1f}"}
