"""Everything that is wrong with a data set, before any training: what `vistruct check PATH` shows.

The same walkers that read for training read here, with errors collected instead of raised, so that this page
and training cannot disagree about what is a mistake.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vistruct.contracts import Record
from vistruct.data.formats import chat, coco_walk
from vistruct.data.formats.text import read_text
from vistruct.data.images import decode
from vistruct.data.report import Report
from vistruct.errors import UserError

Format = Literal["coco", "chat"]
Effect = Literal["stops training", "left out", "repaired", "kept"]

MANY = 0.2  # part of all boxes clipped or outside above which their layout is doubted


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of trouble, where it occurs, and what training does about it."""

    what: str
    effect: Effect
    count: int
    places: tuple[str, ...] = ()  # all of those that stop training; of the others the first three
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What is in a data set and what is wrong with it; `str()` is a table for people."""

    annotation: Path
    format: Format
    counts: dict[str, int] = field(default_factory=dict)  # images, objects, turns, ...
    classes: dict[str, int] = field(default_factory=dict)  # objects by class name
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
        for problem in self.problems:
            more = "; ..." if problem.count > 3 else ""
            lines += [
                f"{problem.effect}: {problem.count} x {problem.what}",
                f"  {'; '.join(problem.places[:3])}{more}",
            ]
            lines += [f"  try: {problem.fix}"] if problem.fix else []
        verdict = "nothing stops training" if self.ok else "training would stop at this"
        return "\n".join([*lines, f"{'verdict':<22} {verdict}"])


def check(path: Path, images: Path | None = None, *, decode_at_most: int | None = None) -> CheckResult:
    """Look at everything in a data set and raise at nothing in it.

    Args:
        path: a COCO json, a chat jsonl, or a folder with one such file in it (or in its `annotations`
            folder).
        images: the folder image paths start from; None: the folder of the annotation file.
        decode_at_most: how many images to decode in full, in order; None: all of them.

    Returns:
        Counts, and every problem with what training does about it.

    Raises:
        UserError: nothing there to check, or several annotation files in the folder.
    """
    annotation = find_annotation(Path(path))
    report = Report()
    errors: list[UserError] = []
    if detect_format(annotation) == "coco":
        records, class_names = coco_walk.walk(annotation, images, report, errors.append)
        format_: Format = "coco"
        counts, classes = _count_boxes(records, class_names)
        hints = _box_hints(records, classes, report)
    else:
        records = chat.walk(annotation, images, report, errors.append)
        format_ = "chat"
        counts, classes = _count_turns(records), {}
        hints = []
    paths = list(dict.fromkeys(image for record in records for image in record.images))
    sizes = _decode(paths[:decode_at_most], errors)
    counts = {"images": len(paths), **counts, "images decoded": len(paths[:decode_at_most])}
    tiny = [str(image) for image, (height, width) in sizes.items() if min(height, width) <= 1]
    if tiny:
        what = "image that is one pixel high or wide"
        hints.append(Problem(what=what, effect="kept", count=len(tiny), places=tuple(tiny[:3])))
    return CheckResult(
        annotation=annotation,
        format=format_,
        counts=counts,
        classes=classes,
        sizes=_sizes_in_words(sizes.values(), records),
        problems=(*_stops(errors), *_counted(report), *hints),
    )


def find_annotation(path: Path) -> Path:
    """The annotation file that a path means: itself, or the only json or jsonl file of a folder.

    Raises:
        UserError: no such path, no candidate, or more than one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError("no such file or folder", where=path, fix="check the path")
    for folder in (path, path / "annotations"):
        found = sorted(file for file in folder.glob("*.json*") if file.suffix in (".json", ".jsonl"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5]) + (", ..." if len(found) > 5 else "")
            raise UserError(f"{len(found)} annotation files: {names}", where=folder, fix=f"name one: {found[0]}")
    raise UserError("no .json or .jsonl file here", where=path, fix="give a COCO json or a conversation jsonl")


def detect_format(annotation: Path) -> Format:
    """What an annotation file is, by its content; by its name where the content says nothing.

    Raises:
        UserError: it cannot be read as text.
    """
    try:
        first = json.loads(read_text(annotation).lstrip().split("\n", 1)[0])
    except (
        json.JSONDecodeError,
        UserError,
    ):  # one value over many lines, malformed, or not text: the walker says it
        return "chat" if annotation.suffix == ".jsonl" else "coco"
    if isinstance(first, dict) and not {"images", "annotations", "categories"} & set(first):
        return "chat" if "conversations" in first or annotation.suffix == ".jsonl" else "coco"
    return "coco"


def _count_boxes(records: Sequence[Record], class_names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    labels = Counter(int(label) for record in records for label in record.labels)
    counts = {
        "images without objects": sum(len(record.labels) == 0 for record in records),
        "objects": labels.total(),
        "crowds": sum(int(record.is_crowd.sum()) for record in records),
        "classes": len(class_names),
    }
    return counts, {name: labels[number] for number, name in enumerate(class_names)}


def _count_turns(records: Sequence[Record]) -> dict[str, int]:
    answers = [turn.text for record in records for turn in record.turns if turn.role == "assistant"]
    return {
        "conversations": len(records),
        "turns": sum(len(record.turns) for record in records),
        "answers": len(answers),
        "different answers": len(set(answers)),
        "without an image": sum(not record.images for record in records),
        "with several images": sum(len(record.images) > 1 for record in records),
    }


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


def _sizes_in_words(sizes_hw: Iterable[tuple[int, int]], records: Sequence[Record]) -> dict[str, str]:
    words: dict[str, str] = {}
    by_area = sorted(sizes_hw, key=lambda size: size[0] * size[1])
    if by_area:
        low, high = by_area[0], by_area[-1]
        words["image pixels"] = f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"
    boxes = np.concatenate([record.boxes_xyxy for record in records]) if records else np.zeros((0, 4))
    if len(boxes):
        side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        words["object side, pixels"] = f"{side.min():.1f} to {side.max():.1f}, median {np.median(side):.1f}"
    return words


def _stops(errors: Sequence[UserError]) -> list[Problem]:
    """Errors with the same words together, with every place."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for error in errors:
        groups[error.what, error.fix].append(error.where)
    return [
        Problem(what=what, effect="stops training", count=len(places), places=tuple(places), fix=fix)
        for (what, fix), places in groups.items()
    ]


def _counted(report: Report) -> list[Problem]:
    def effect(reason: str) -> Effect:
        return "left out" if "left out" in reason else "repaired"

    return [
        Problem(what=reason, effect=effect(reason), count=count, places=tuple(report.examples[reason]))
        for reason, count in sorted(report.counts.items())
        if count
    ]
