"""Everything that is wrong with a data set, before any training: what `vistruct check PATH` shows.

The same walkers that read for training read here, with errors collected instead of raised, so that this page
and training cannot disagree about what is a mistake.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vistruct.config import Run
from vistruct.contracts import Record
from vistruct.data.check_chat import count_turns, in_numbers, open_all
from vistruct.data.detect import Format, detect_format, find_annotation
from vistruct.data.formats import coco_walk
from vistruct.data.images import decode
from vistruct.data.problem import Problem, counted, stops
from vistruct.data.records import Records
from vistruct.data.report import Report
from vistruct.errors import UserError

MAX_LEFT_OUT: float = Run.model_fields["max_left_out"].default
MANY = 0.2  # part of all boxes clipped or outside above which their layout is doubted


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What is in a data set and what is wrong with it; `str()` is a table for people."""

    annotation: Path
    format: Format
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
        facts = {"file": str(self.annotation), "format": self.format, **self.counts, **self.sizes}
        lines = [f"{name:<22} {value}" for name, value in facts.items()]
        lines += [f"  {name:<20} {count}" for name, count in self.classes.items()]
        for name, numbers in self.data_sets.items():
            lines += [f"  {name:<20} {', '.join(f'{number} {what}' for what, number in numbers.items())}"]
        for problem in self.problems:
            more = "; ..." if problem.count > 3 else ""
            lines += [
                f"{problem.effect}: {problem.count} x {problem.what}",
                f"  {'; '.join(problem.places[:3])}{more}",
            ]
            lines += [f"  try: {problem.fix}"] if problem.fix else []
        verdict = "nothing stops training" if self.ok else "training would stop at this"
        return "\n".join([*lines, f"{'verdict':<22} {verdict}"])


def check(
    path: Path,
    images: Path | None = None,
    *,
    decode_at_most: int | None = None,
    max_left_out: float = MAX_LEFT_OUT,
) -> CheckResult:
    """Look at everything in a data set and raise at nothing in it.

    Args:
        path: a COCO json, conversations as jsonl or json, a mix file, or a folder with one such file in it (or in its
            `annotations` folder).
        images: the folder image paths start from; None: the folder of the annotation file. Of a mix file: the folder
            that all its paths start from.
        decode_at_most: how many images to decode in full, in order; None: all of them.
        max_left_out: part of a data set of conversations that training would do without, in [0, 1].

    Returns:
        Counts, and every problem with what training does about it.

    Raises:
        UserError: nothing there to check, or several annotation files in the folder.
    """
    annotation = find_annotation(Path(path))
    format_ = detect_format(annotation)
    errors: list[UserError] = []
    records: Sequence[Record]
    if format_ == "coco":
        report = Report()
        records, class_names = coco_walk.walk(annotation, images, report, errors.append)
        counts, classes = _count_boxes(records, class_names)
        problems = [*counted(report), *_box_hints(records, classes, report)]
        data_sets: dict[str, dict[str, int]] = {}
    else:
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
        problems.append(Problem(what=what, effect="kept", count=len(tiny), places=tuple(tiny[:3])))
    return CheckResult(
        annotation=annotation,
        format=format_,
        counts={"images": len(paths), **counts, "images decoded": len(paths[:decode_at_most])},
        classes=classes,
        data_sets=data_sets,
        sizes=_sizes_in_words(sizes.values(), sides),
        problems=(*stops(errors), *problems),
    )


def _count_boxes(records: Sequence[Record], class_names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    labels = Counter(int(label) for record in records for label in record.labels)
    counts = {
        "images without objects": sum(len(record.labels) == 0 for record in records),
        "objects": labels.total(),
        "crowds": sum(int(record.is_crowd.sum()) for record in records),
        "classes": len(class_names),
    }
    return counts, {name: labels[number] for number, name in enumerate(class_names)}


def _box_hints(records: Sequence[Record], classes: dict[str, int], report: Report) -> list[Problem]:
    """What training accepts and a person should look at."""
    hints: list[Problem] = []
    num_outside = report.counts[coco_walk.CLIPPED] + report.counts[coco_walk.OUTSIDE]
    num_boxes = sum(classes.values()) + report.counts[coco_walk.OUTSIDE]
    if num_boxes and num_outside > MANY * num_boxes:
        what = f"{num_outside} of {num_boxes} boxes leave their image: corners instead of [x, y, width, height]?"
        hints.append(Problem(what=what, effect="kept", count=1))
    unused = [name for name, count in classes.items() if count == 0]
    if unused:
        hints.append(Problem(what="class without objects", effect="kept", count=len(unused), places=tuple(unused[:3])))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike["".join(name.lower().split())].append(name)
    twins = [" / ".join(repr(name) for name in names) for names in alike.values() if len(names) > 1]
    if twins:
        what = "classes that differ in capitals or spaces only"
        hints.append(Problem(what=what, effect="kept", count=len(twins), places=tuple(twins[:3])))
    if records and not any(classes.values()):
        hints.append(Problem(what="no boxes are left", effect="stops training", count=1, fix="annotate some objects"))
    return hints


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
