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

from vistruct.config import Part, Run
from vistruct.data.at_path import any_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.captions import CaptionDataConfig
from vistruct.data.chat.mix import MixDataConfig
from vistruct.data.checks.parts import Findings, walk_parts
from vistruct.data.checks.problem import Problem, counted, stops
from vistruct.data.dataset import ChatDataConfig
from vistruct.data.formats.detect import Family
from vistruct.data.formats.format import Kind
from vistruct.data.formats.read import format_of
from vistruct.data.formula import FormulaDataConfig
from vistruct.data.image_classes import ClassDataConfig
from vistruct.data.maps import MapDataConfig
from vistruct.data.questions import QuestionsDataConfig
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.data.unlabelled import ImagesDataConfig
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.issues import IssueCounter

_LOOKS: dict[Kind, str] = {  # by family, where its `look(parts, decode_at_most) -> Findings` is
    "boxes": "vistruct.data.checks.boxes",
    "talk": "vistruct.data.checks.chat",
    "maps": "vistruct.data.checks.maps",
    "volumes": "vistruct.data.checks.volumes",
    "image_classes": "vistruct.data.checks.classes",
    "captions": "vistruct.data.checks.captions",
    "questions": "vistruct.data.checks.questions",
    "images": "vistruct.data.checks.unlabelled",
}

PLACES = 3  # of each problem that are shown
MOST_CLASSES = 40
LONGEST = 300  # letters of a line that are shown
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

    def text(self, places: int = PLACES) -> str:
        """The table, with so many places of each problem and as many classes; `to_dict` has all."""
        splits = {"splits": ", ".join(self.splits)} if self.splits else {}
        facts = {"file": str(self.annotation), "format": self.format, **splits, **self.counts, **self.sizes}
        lines = [f"{name:<22} {value}" for name, value in facts.items()]
        lines += _at_most([f"  {name:<20} {count}" for name, count in self.classes.items()], MOST_CLASSES)
        for name, numbers in self.data_sets.items():
            lines += [f"  {name:<20} {', '.join(f'{number} {what}' for what, number in numbers.items())}"]
        for problem in self.problems:
            lines += [f"{problem.effect}: {problem.count} x {problem.what}"]
            lines += _at_most([f"  {place}" for place in problem.places], places, problem.count)
            lines += [f"  try: {problem.fix}"] if problem.fix else []
        verdict = "nothing stops training" if self.ok else "training would stop at this"
        return "\n".join([*lines, f"{'verdict':<22} {verdict}"])


def _at_most(lines: list[str], most: int, total: int = 0) -> list[str]:
    """The first lines, each no longer than a screen or two, and how many more there are."""
    shown = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in lines[:most]]
    left = max(total, len(lines)) - len(shown)
    return shown + [f"  and {left:,} more (--json has all)"] * (left > 0 and bool(shown))


def check(
    path: Path,
    reading: Reading = AS_FOUND,
    values: PixelValues = AS_THEY_ARE,
    *,
    split: str | None = None,
    not_in: tuple[Path, ...] = (),
    decode_at_most: int | None = None,
    max_left_out: float = MAX_LEFT_OUT,
) -> CheckResult:
    """Look at everything in a data set and raise at nothing in it.

    Args:
        path: a data set of any family (see `formats`): boxes, label maps, volumes, classes of images, conversations
            as jsonl or json, a mix file; or a folder with one such file in it (or in its `annotations` folder); images
            without labels.
        reading: which files and classes, and what labels mean, as training is told.
        values: what becomes of pixel values, as training is told.
        split: which part of a folder; None: all of them together.
        not_in: of images without labels: folders or images to measure on, which should not be among them.
        decode_at_most: how many images to decode in full, in order; None: all of them.
        max_left_out: part of a data set of conversations that training would do without, in [0, 1].

    Returns:
        Counts, and every problem with what training does about it.

    Raises:
        UserError: nothing there to check, or several annotation files or formats in the folder.
    """
    part: Any = any_at(Path(path), reading, values, split=split, not_in=not_in)
    if isinstance(part, ClassDataConfig):
        part = part.model_copy(update={"multi_label": True})  # both are looked at
    return check_part(part, split=split, decode_at_most=decode_at_most, max_left_out=max_left_out)


def check_run(
    parts: Mapping[str, Any], *, decode_at_most: int | None = None, max_left_out: float = MAX_LEFT_OUT
) -> dict[str, CheckResult]:
    """Every data set of a run, as the run reads it; one that is read alike in two places once.

    Args:
        parts: of its streams and its evaluations, by their names.

    Raises:
        UserError: see `check`.
    """
    found: dict[str, CheckResult] = {}
    seen: list[Any] = []
    for name, part in parts.items():
        more = ("split", "mix", "resize") if isinstance(part, ImagesDataConfig) else ()  # all of it is looked at
        unseen = [key for key in ("tiles", "augment", *more) if key in type(part).model_fields]
        bare = part.model_copy(update=dict.fromkeys(unseen))
        if bare in seen or isinstance(part, FormulaDataConfig):  # which has no files to look at
            continue
        seen.append(bare)
        asked = (
            vars(part).get("split") if "random_split" not in vars(part) or vars(part)["random_split"] is None else None
        )
        found[name] = check_part(part, split=asked, decode_at_most=decode_at_most, max_left_out=max_left_out)
    if not found:
        raise UserError("nothing in this run lies in files", where="check", fix="`vistruct show` draws some of it")
    return found


def check_part(
    part: Any, *, split: str | None, decode_at_most: int | None = None, max_left_out: float = MAX_LEFT_OUT
) -> CheckResult:
    """A data set as a part of a run says that it is read; see `check`."""
    family = _family(part)
    look = importlib.import_module(_LOOKS[family.kind]).look
    errors: list[UserError] = []
    splits: tuple[str, ...] = ()
    report = IssueCounter()
    if family.kind == "talk":
        found: Findings = look(family, part.root, max_left_out, decode_at_most, errors)
    elif family.kind == "images":
        report = IssueCounter(keep=10**9)
        found = look(part, decode_at_most, errors, report)
    else:
        parts = walk_parts(family, split, part)
        found = look(parts, decode_at_most)
        errors, splits, report = parts.errors, parts.splits, parts.report
        if part.missing == "drop":
            found = replace(found, stopping={})
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


def _family(part: Any) -> Family:
    """
    Raises:
        UserError: data that nothing here looks at.
    """
    if isinstance(part, MixDataConfig):
        return Family(kind="talk", format="mix", path=part.mix)
    if isinstance(part, ChatDataConfig):
        paths = part.jsonl if isinstance(part.jsonl, tuple) else (part.jsonl,)
        if len(paths) > 1:
            fix = f"vistruct check {paths[0]}"
            raise UserError("several files of conversations: check each", where=paths[0], fix=fix)
        return Family(kind="talk", format="chat", path=paths[0])
    if isinstance(part, ImagesDataConfig):
        return Family(kind="images", format="images", path=part.paths[0])
    kinds: tuple[tuple[type[Part], Kind], ...] = (
        (BoxDataConfig, "boxes"),
        (MapDataConfig, "maps"),
        (VolumeDataConfig, "volumes"),
        (ClassDataConfig, "image_classes"),
        (CaptionDataConfig, "captions"),
        (QuestionsDataConfig, "questions"),
    )
    for config, kind in kinds:
        if isinstance(part, config):
            path = part.annotation if "annotation" in vars(part) else part.root
            return Family(kind=kind, format=format_of(path, kind, part.format, part.ask()), path=path)
    what = f"data of kind {part.kind!r} cannot be checked"
    raise UserError(what, where="check", fix="vistruct check PATH --format NAME, where a format reads them")


def _counted(report: IssueCounter, stopping: Mapping[str, tuple[str, str]]) -> list[Problem]:
    """What the walkers left out or repaired; some of it is left out here alone, and stops training."""
    return [
        problem
        if problem.what not in stopping
        else replace(problem, what=stopping[problem.what][0], effect="stops training", fix=stopping[problem.what][1])
        for problem in counted(report)
    ]
