"""Everything that is wrong with a data set, before any training: what `vistruct check PATH` shows.

The same walkers that read for training read here, with errors collected instead of raised, so that this page
and training cannot disagree about what is a mistake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.config import Run
from vistruct.contracts import Record
from vistruct.data.check_boxes import count_boxes, open_boxes
from vistruct.data.check_chat import count_turns, in_numbers, open_all
from vistruct.data.detect import TALK, detect_format, find_annotation
from vistruct.data.images import decode
from vistruct.data.problem import Problem, stops
from vistruct.data.records import Records
from vistruct.errors import UserError

MAX_LEFT_OUT: float = Run.model_fields["max_left_out"].default


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What is in a data set and what is wrong with it; `str()` is a table for people."""

    annotation: Path
    format: str  # of boxes, see `registry.FORMATS`; chat or mix
    splits: tuple[str, ...] = ()  # of a folder of boxes, those that were looked at; empty: it has none
    counts: dict[str, int] = field(default_factory=dict)  # images, objects, turns, ...
    classes: dict[str, int] = field(default_factory=dict)  # objects by class name
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
        path: a data set of boxes in any format of `registry.FORMATS`, conversations as jsonl or json, a mix file, or a
            folder with one such file in it (or in its `annotations` folder).
        images: the folder image paths start from; None: the folder of the annotation file, or where the format has
            them. Of a mix file: the folder that all its paths start from.
        format: "auto": told by the content.
        split: which part of a folder of boxes; None: all of them together.
        decode_at_most: how many images to decode in full, in order; None: all of them.
        max_left_out: part of a data set of conversations that training would do without, in [0, 1].

    Returns:
        Counts, and every problem with what training does about it.

    Raises:
        UserError: nothing there to check, or several annotation files or formats in the folder.
    """
    annotation = find_annotation(Path(path)) if format in ("auto", *TALK) else Path(path)
    format_ = detect_format(annotation) if format == "auto" else format
    errors: list[UserError] = []
    records: Sequence[Record]
    if format_ not in TALK:
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
    sizes = _decode(paths[:decode_at_most], errors)
    tiny = [str(image) for image, (height, width) in sizes.items() if min(height, width) <= 1]
    if tiny:
        what = "image that is one pixel high or wide"
        problems.append(Problem(what=what, effect="kept", count=len(tiny), places=tuple(tiny)))
    return CheckResult(
        annotation=annotation,
        format=format_,
        splits=splits,
        counts={"images": len(paths), **counts, "images decoded": len(paths[:decode_at_most])},
        classes=classes,
        data_sets=data_sets,
        sizes=_sizes_in_words(sizes.values(), sides),
        problems=(*stops(errors), *problems),
    )


def _decode(paths: Iterable[Path], errors: list[UserError]) -> dict[Path, tuple[int, int]]:
    """(height, width) of every image that decodes; an error for each that does not."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            height, width = decode(path.read_bytes(), path).shape[1:]
            sizes[path] = (height, width)
        except UserError as error:
            errors.append(error)
        except OSError as error:
            errors.append(UserError(f"cannot read the image: {error.strerror}", where=path, fix="check its rights"))
    return sizes


def _sizes_in_words(sizes_hw: Iterable[tuple[int, int]], sides: Sequence[np.ndarray]) -> dict[str, str]:
    """Of images, and of objects: float[N, 2] width and height of an image's."""
    words: dict[str, str] = {}
    by_area = sorted(sizes_hw, key=lambda size: size[0] * size[1])
    if by_area:
        low, high = by_area[0], by_area[-1]
        words["image pixels"] = f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"
    if sides:
        side = np.sqrt(np.prod(np.concatenate(sides), axis=1))
        words["object side, pixels"] = f"{side.min():.1f} to {side.max():.1f}, median {np.median(side):.1f}"
    return words
