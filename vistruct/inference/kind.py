"""A kind of prediction is a file: everything that is particular to boxes, maps, volumes, classes or answers.

Who predicts, draws, writes or measures asks the `Kind` and knows none by its name. A task names its own
(`TaskTraits.prediction`): a short name of this room, or `module:NAME` of a `Kind` anywhere else. What takes long to
import, or is not always installed, is imported by the verb that needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from vistruct.contracts import RGB, Prompt, Region, Sample
from vistruct.errors import UserError, closest

if TYPE_CHECKING:
    from PIL import Image

    from vistruct.data.input import Input
    from vistruct.inference.model import Model
    from vistruct.inference.scenes import Case
    from vistruct.inference.view import Frames, View
    from vistruct.windows.views import Views

KINDS = {
    "boxes": "vistruct.inference.boxes:BOXES",
    "maps": "vistruct.inference.maps:MAPS",
    "panoptic": "vistruct.inference.panoptic:PANOPTIC",
    "volumes": "vistruct.inference.volumes:VOLUMES",
    "classes": "vistruct.inference.classes:CLASSES",
    "answers": "vistruct.inference.answers:ANSWERS",
    "grounded": "vistruct.inference.grounded:GROUNDED",
    "captions": "vistruct.inference.captions:CAPTIONS",
    "identified": "vistruct.inference.identified:IDENTIFIED",
    "embeddings": "vistruct.inference.embeddings:EMBEDDINGS",
    "volume_embeddings": "vistruct.inference.volume_embeddings:VOLUME_EMBEDDINGS",
}

Values = Mapping[str, Any]  # plain json
# Always written; where no format is named; only where it is named.
Use = Literal["always", "usual", "asked"]
Picture = Callable[["Model", "Case", Any, "Asked"], "Image.Image"]  # of a prediction on its image
Choice = Literal["min_score", "classes"]
PICTURED = 0.3  # score from which on detections are drawn, where nobody says another


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question that was asked before, and its answer."""

    question: str
    regions: tuple[Region, ...] = ()
    answer: Any  # the prediction that was given to it


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a model is asked."""

    question: str | None = None  # for a model that answers
    regions: tuple[Region, ...] = ()  # what the `<region>` marks of the question show, in order
    history: tuple[Exchange, ...] = ()  # what was asked and answered about the same image before
    command: str | None = None  # a unit, a task or "text", of a model that is told what to answer with
    on_text: Callable[[str], None] | None = None  # told the answer so far as it is written; of one image at a time
    batch: int = 8  # windows, slices, images or questions in one pass
    min_score: float | None = None  # of detections in files and pictures; None: all in files, from PICTURED in pictures
    classes: tuple[str, ...] | None = None  # that are in the results; None: all
    drop: tuple[str, ...] = ()  # of those, that are not
    queue: str | None = None  # measure of uncertainty that the results are put in order by, see queue.py
    probabilities: bool = False  # of pixels and voxels: those of all classes are kept
    quiet: bool = True  # no bar for a single large image
    scratch: Path | None = None  # folder for what is too large for memory; None: it stays there

    @property
    def choice(self) -> dict[str, Any]:
        """What of a prediction is in the results, in words for json; with another the files are written anew."""
        return {"min_score": self.min_score, "classes": self.classes and list(self.classes), "drop": list(self.drop)}

    @property
    def said(self) -> dict[str, Any]:
        """What is asked, in words and numbers for json; with another the same images are looked at anew."""
        regions = [*self.regions, *(region for one in self.history for region in one.regions)]
        shown = [(one.kind, one.xy, None if one.mask is None else crc32(one.mask.tobytes())) for one in regions]
        before = [(one.question, one.answer.answer) for one in self.history]
        more = {"regions": shown, "history": before} if shown or before else {}
        return {"question": self.question, **more, **({} if self.command is None else {"command": self.command})}

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self.min_score is None and self.classes is None and not self.drop

    def wanted(self, class_names: Sequence[str]) -> list[bool]:
        """Of each class, whether it is in the results."""
        return [name not in self.drop and (self.classes is None or name in self.classes) for name in class_names]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A case that has been looked at."""

    case: Case
    values: Values  # as `pack` gave them
    read: Callable[
        [], Any
    ]  # the prediction, of it what was asked for, from disk: together they may not fit into memory
    is_all: bool = True  # whether nothing of it is left out


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """How unsure a model is of what it found in an image."""

    value: float  # in [0, 1]
    objects: int  # that it found


def _fits(cases: Sequence[Case], class_names: Sequence[str]) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class EachFile:
    """A format that has a file for each case."""

    name: str  # for `--format`, and in what is said of results
    folder: str  # below that of the results
    files: Callable[[Sequence[Case], bool], Mapping[str, Path]]  # in `folder`, by case; whether it is asked for by name
    write: Callable[[Model, Case, Any, Path, Asked], None]  # of a prediction to its file, whose folder is there
    use: Use = "asked"
    is_kept: bool = False  # holds the prediction, so that a case whose file is gone is looked at again
    check: Callable[[Sequence[Case], Sequence[str]], None] = _fits  # UserError where names or classes do not fit
    settings: Callable[[Asked], Values] = lambda asked: {}  # with others its files are written anew


@dataclass(frozen=True, kw_only=True)
class OneFile:
    """A format that has one file (or zip) about all cases."""

    name: str
    file: str  # below the folder of the results
    write: Callable[[Model, Sequence[Done], Path], Path]  # to `file`; what was written
    use: Use = "asked"
    check: Callable[[Sequence[Case], Sequence[str]], None] = _fits


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is said of results."""

    values: dict[str, Any]  # to a program
    lines: list[str]  # to a person


def _images(model: Model, sources: Sequence[Path]) -> list[Case]:
    from vistruct.inference.sources import cases_at

    return cases_at(sources, model.input.images)


SEEN = 2048  # pixels: the longest side of an image on a page


def _frames(model: Model, case: Case) -> Frames:
    from vistruct.inference.scenes import small
    from vistruct.inference.view import Frames

    scene = model.scene(case)
    return Frames(size_hw=scene.size_hw, count=1, read=lambda _: small(scene, SEEN))


def _ready(model: Model, cases: Sequence[Case], asked: Asked) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of prediction: how a model is asked for it, and what can be done with it."""

    name: str
    prediction: type  # what `look` and the task's `predict` give
    look: Callable[[Model, Sequence[Case], Asked], list[Any]]  # one for each case; windows and views are joined
    pack: Callable[[Case, Any], dict[str, Any]]  # prediction -> json; an `is_kept` format may hold the rest
    unpack: Callable[[Model, Case, Values, Mapping[str, Path]], Any]  # back, from that and the case's files by format
    tell: Callable[[Model, Sequence[Done]], Told]  # in sum
    formats: tuple[EachFile | OneFile, ...] = ()
    choices: frozenset[Choice] = frozenset()  # by what a part of a prediction can be asked for
    chosen: Callable[[Any, Asked], Any] | None = None  # that part; None: `look` gives it, and with another looks again
    probabilities: Callable[[Sequence[str]], list[EachFile]] | None = None  # formats of theirs, by class; None: none
    draw: Callable[[Sequence[Any], Sample, Sequence[RGB] | None], Image.Image] | None = None  # with a sample's truth
    doubt: Callable[[Any, str], Doubt] | None = (
        None  # of a prediction, by a measure of queue.py; None: it has no scores
    )
    picture: Picture | None = None  # without a truth, of any size; None: none
    supervision: Callable[[Case, Any], Any] | None = None  # as `supervision` has it; None: it has no such thing
    frames: Callable[[Model, Case], Frames] = _frames  # of a case, to look at
    view: Callable[[Model, Done], View] | None = None  # to look at on a page; None: its pictures and what is told
    cases: Callable[[Model, Sequence[Path]], list[Case]] = _images  # what there is to look at in files and folders
    check: Callable[[Model, Sequence[Case], Asked], None] = _ready  # UserError before any work
    what: str = "images"  # the word for several cases
    at_once: bool = False  # several cases go into one pass
    has_questions: bool = False
    prompts: tuple[Prompt, ...] = ()  # how a region can be shown to it
    windows: Literal["file", "shown"] | None = None  # what pixels their size is in (see `Windows`); None: it has none
    seen_in: Callable[[Any, Views], Any] | None = None  # a task's config that looks in these views too; None: no way
    metrics: Callable[[Any], tuple[str, ...]] = lambda task: ()  # kinds of the metrics that are usual for a task
    of_slices: str = ""  # the kind instead, where a model is shown the slices of volumes


def kind_named(name: str) -> Kind:
    """A kind by its short name, or by `module:NAME`.

    Raises:
        UserError: no such kind.
    """
    if name not in KINDS and ":" not in name:
        fix = f"{closest(name, KINDS)} (a kind of your own: module:NAME)"
        raise UserError(f"no kind of prediction {name!r}", where="TaskTraits.prediction", fix=fix)
    module, _, place = KINDS.get(name, name).partition(":")
    found = vars(importlib.import_module(module)).get(place)
    if not isinstance(found, Kind):
        raise UserError(f"{name} is no Kind", where="TaskTraits.prediction", fix=f"{place} = Kind(...) in {module}")
    return found


def kind_of(task: Any, shown: Input | None = None) -> Kind:
    """What a task predicts, where images are put before it like this."""
    kind = kind_named(task.traits.prediction)
    return kind_named(kind.of_slices) if kind.of_slices and shown is not None and shown.slices is not None else kind


def check_asked(kind: Kind, model: Model, cases: Sequence[Case], asked: Asked) -> None:
    """
    Raises:
        UserError: a question to a model without language, none to one with it; or as the kind's own `check`.
    """
    if kind.has_questions and asked.question is None:
        fix = 'give one: ask="How many trees are there?", on the command line --ask "..."'
        raise UserError("this model answers questions, and there is none", where=model.card.path, fix=fix)
    if asked.question is not None and not kind.has_questions:
        fix = f"ask a model trained with vitp.pretrain, or leave the question out for {kind.name}"
        raise UserError("this model has no language to answer with", where=model.card.path, fix=fix)
    if asked.probabilities and kind.probabilities is None:
        what = f"a model of {kind.name} gives no probability maps"
        raise UserError(what, where="--probabilities", fix="leave it out; scores are in the usual files")
    _check_choice(kind, model.class_names, asked)
    kind.check(model, cases, asked)


def _check_choice(kind: Kind, class_names: Sequence[str], asked: Asked) -> None:
    """
    Raises:
        UserError: this kind has no scores or classes to choose by, no such class, or none is left.
    """
    if asked.min_score is not None and "min_score" not in kind.choices:
        what = f"a model of {kind.name} finds no objects with scores"
        raise UserError(what, where="--min-score", fix="leave --min-score out")
    if asked.classes is None and not asked.drop:
        return
    if "classes" not in kind.choices:
        what = f"the results of a model of {kind.name} are not by class"
        raise UserError(what, where="--classes, --drop", fix="leave --classes and --drop out")
    for flag, names in (("--classes", asked.classes or ()), ("--drop", asked.drop)):
        for name in names:
            if name not in class_names:
                raise UserError(f"no class {name!r} in this model", where=flag, fix=closest(name, class_names))
    if not any(asked.wanted(class_names)):
        raise UserError("no class is left", where="--classes, --drop", fix="leave --drop out")


def with_longest(config: Any, most: int) -> Any:
    """A task's configuration with answers of at most so many tokens.

    Raises:
        UserError: it gives no answers.
    """
    if "max_new_tokens" not in vars(config):
        raise UserError("this model gives no answers", where="--max-new-tokens", fix="leave it out")
    return config.model_copy(update={"max_new_tokens": most})


def config_seen_in(kind: Kind, config: Any, views: Views) -> Any:
    """The configuration of a task that looks in several ways.

    Raises:
        UserError: a kind of prediction that has no way to, or not for these views.
    """
    if kind.seen_in is None:
        what = f"a model of {kind.name} looks once"
        raise UserError(what, where="--flip, --scale", fix="leave test-time augmentation (the views) out")
    return kind.seen_in(config, views)
