"""A study as data: one recipe from several initial weights, on fractions of its labels, with several seeds and modes.

`vistruct study` writes it as study.yaml, which is a valid input again. `plan.py` makes runs and trials of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from vistruct.config import Lora, Part, explain
from vistruct.errors import UserError, closest
from vistruct.read_yaml import read_yaml
from vistruct.recipes.tune import Tuning as Tuning

TUNINGS: dict[str, str] = {
    "head": "frozen backbone",
    "lora": "adapters (LoRA)",
    "full": "fine-tuned whole",
}
SHORT = {"head": "frozen", "lora": "LoRA", "full": "fine\u2011tuned"}  # for tables, where it must not break
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # no dash: names of trials have them between their parts


class Budget(Part):
    """How much a pretraining may take."""

    samples: int | None = Field(None, gt=0)  # seen in training: the steps are as many as fill this
    # Of the processor, or of the accelerator where there is one, in the training steps, data included: they are as many
    # as fill it by `pace.py`. What lies around them (the index of the data, evaluations, pictures) is not in it.
    seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> Budget:
        if (self.samples is None) == (self.seconds is None):
            raise UserError("samples or seconds, one of them", where="budget", fix="budget: {samples: 10000}")
        return self

    def times(self, part: float) -> Budget:
        """A part of it."""
        samples = None if self.samples is None else max(1, round(self.samples * part))
        return Budget(samples=samples, seconds=None if self.seconds is None else self.seconds * part)

    @property
    def line(self) -> str:
        """In words."""
        return f"{self.samples:,} samples" if self.seconds is None else f"{self.seconds:g} seconds of training steps"


class Pretraining(Part):
    """Initial weights that the study makes itself, before its trials."""

    recipe: str  # a name from `vistruct recipes`
    options: dict[str, Any] = Field({})  # of the recipe
    settings: tuple[str, ...] = ()  # a.b=c
    # An earlier pretraining that this one starts from: as a whole where the recipe has an option `start`, else from its
    # backbone. Of a recipe that joins several (visft.joint): one for each task, by its name.
    start: str | dict[str, str] | None = None
    backbone: str | None = None  # an earlier one of which it takes the backbone alone
    is_from_random: bool = False  # those earlier weights are random: a recipe that goes on gently has nothing to keep
    seed: int | None = None  # of its first weights, order and draws; None: as the recipe and `settings` say
    budget: Budget | None = None  # in place of the recipe's steps
    paced_as: str | None = None  # the pretraining whose steps are timed for a budget in seconds; None: its own are
    is_shuffled: bool = False  # a control: every image has the truth of another
    is_begun_only: bool = False  # nothing is learned: the backbone that the recipe would begin with, written down

    @property
    def needs(self) -> tuple[str, ...]:
        """The earlier pretrainings that it starts from."""
        starts = tuple(self.start.values()) if isinstance(self.start, dict) else (self.start,)
        return tuple(one for one in (*starts, self.backbone) if one is not None)


class Teacher(Part):
    """A pretraining that is compared with others: it goes on from each start of the study, with its controls beside."""

    recipe: str  # a name from `vistruct recipes`
    options: dict[str, Any] = Field({})  # of the recipe; steps, backbone and seed are the study's
    settings: tuple[str, ...] = ()  # a.b=c
    after: str | None = None  # another teacher, from whose run it goes on, from the same start
    part: float = Field(1.0, gt=0, le=1)  # of the budget; with those that it comes after, 1
    is_step: bool = False  # only others go on from it: it is not compared itself
    starts: tuple[str, ...] | None = None  # those that it can go on from; None: all
    # The same on answers of other images. shuffled: truth is shuffled by the data; none: there is nothing to shuffle,
    # for it learns of images alone; or the options that are others, such as {data: control/instructions.jsonl}.
    control: Literal["shuffled", "none"] | dict[str, Any] = "none"


class Start(Part):
    """Weights that teachers go on from: those that a recipe would begin with."""

    recipe: str | None = None  # None: that of the study
    options: dict[str, Any] = Field({})  # of the recipe, beside the study's: backbone, timm, ...; without them random
    settings: tuple[str, ...] = ()  # a.b=c

    @property
    def is_random(self) -> bool:
        """Whether nothing was learned: there are no weights to begin with."""
        return not {"backbone", "start"} & set(self.options)


class Probes(Part):
    """Few-label probes of each init's frozen backbone on one annotated scene, before any trial."""

    scene: Path  # boxes of one image: some of them are learned from, the rest is tested on
    elsewhere: Path | None = None  # another scene: a control in which all backbones are standardised by it
    patch: int = Field(64, gt=0)  # pixels, a patch that is an object or ground
    patch_shots: tuple[int, ...] = (5, 20, 50)  # labelled patches of each of the two
    crop: int = Field(96, gt=0)  # pixels, a crop of which each cell is an object or ground
    crop_shots: tuple[int, ...] = (2, 8, 32)  # labelled crops
    turned_shots: tuple[int, ...] = ()  # places of each way, as they lie and half a turn; (): the light has no side
    draws: int = Field(8, ge=1)  # of the labels


class Study(Part):
    """What is compared, and how often."""

    recipe: str  # a name from `vistruct recipes`
    options: dict[str, Any] = Field({})  # of the recipe, but for what the study varies: backbone, fraction, seed, lr
    settings: tuple[str, ...] = ()  # a.b=c, applied to every run
    pretrain: dict[str, Pretraining] = Field({})  # by name; those that start from another after it
    # A study that has ended, in place of all that is said of pretrainings and inits here: what it has pretrained is
    # measured on this one's recipe.
    pretrained_by: Path | None = None
    # Several ways to pretrain, each from each start, at equal compute: `ring.py` makes `pretrain`, `inits` and
    # `compare` of them.
    teachers: dict[str, Teacher] = Field({})  # by name; those that come after another below it
    # What they go on from, by name; `random` and a path of weights are short for a Start. None: random weights.
    starts: dict[str, Start] = Field({})
    budget: Budget | None = None  # of each teacher; None: the steps of its recipe, whatever they take
    pretrain_seeds: int = Field(1, ge=1)  # repetitions of each teacher; the trials of seed s begin with s % these
    # Initial weights by name: `random`, `random:NAME` (the architecture of that init without its weights), a name of
    # `pretrain`, or the path of a run, a backbone directory or a file of weights. Several of them: seed s of the trials
    # begins with number s modulo how many there are.
    inits: dict[str, str | tuple[str, ...]] = Field({})
    # Adapters (LoRA) that some of the inits begin with too, by the init's name: a run, a folder of peft's, a file of
    # ViSFT, or a name of `pretrain`.
    adapters: dict[str, str] = Field({})
    # Inits that the others are compared with, such as random weights and a control that learned nothing of the kind;
    # the first is the baseline. None: a random one, else the first.
    against: tuple[str, ...] = ()
    compare: tuple[tuple[str, str], ...] = ()  # [init, other] in place of all of them with each of `against`
    fractions: tuple[float, ...] = (1.0,)  # of the training data
    seeds: int = Field(3, ge=1)  # repetitions: 0, 1, ...; a seed decides the head's weights, the order and the fraction
    tune: tuple[Tuning, ...] = ("full",)  # head: frozen backbone; lora: adapters in it; full: everything trains
    lr: dict[Tuning, float] = Field({})  # peak learning rate of a tuning mode; one that is not named has the recipe's
    backbone_lr: float = Field(1.0, gt=0)  # of the tuning mode `full`: the backbone's rate as a part of the head's
    lora: Lora = Lora()
    # Layer-wise rates are made for weights worth keeping; None: a random init has them like the others.
    scratch_layer_decay: float | None = Field(1.0, gt=0, le=1)
    metric: str | None = None  # of an evaluation, `val/mIoU` or `mIoU`; None: the usual one of the task
    higher_is_better: bool | None = None  # None: as the metric says
    level: float = Field(0.95, gt=0, lt=1)  # of the intervals
    draws: int = Field(10_000, ge=100)  # of the bootstrap
    probes: Probes | None = None
    questions: dict[str, Path] = Field({})  # jsonl by what it is about: inits that are models that answer are asked
    robust: bool = False  # also measure the first seed's models on the largest fraction under corruptions

    @field_validator("starts", mode="before")
    @classmethod
    def _in_short(cls, starts: Any) -> Any:
        if not isinstance(starts, dict):
            return starts
        short = {name: one for name, one in starts.items() if isinstance(one, str)}
        return starts | {n: {} if one == "random" else {"options": {"backbone": one}} for n, one in short.items()}

    @field_validator("inits", "starts", "teachers")
    @classmethod
    def _named(cls, inits: dict[str, Any]) -> dict[str, Any]:
        for name, source in inits.items():
            if not _NAME.fullmatch(name):
                raise UserError(f"{name!r} cannot name an init", where="inits", fix="letters, digits, '_' and '.'")
            if source in ("", ()):
                raise UserError(f"the init {name!r} has no weights", where="inits", fix=f"{name}: random, or a path")
        return inits

    @field_validator("fractions", "tune")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) < len(values):
            raise UserError(f"none, or one of them twice: {list(values)}", where="study", fix="name each once")
        for value in values:
            if isinstance(value, float) and not 0 < value <= 1:
                raise UserError(f"a fraction of {value:g}", where="fractions", fix="fractions lie above 0 and up to 1")
        return values

    @model_validator(mode="after")
    def _known(self) -> Study:
        if not self.inits and not self.teachers and self.pretrained_by is None:
            raise UserError("nothing to begin with", where="study", fix="inits: {random: random}, or teachers")
        if self.pretrain_seeds > self.seeds:
            what = (
                f"{self.pretrain_seeds} pretrainings of each kind, and trials of {self.seeds} seeds to begin with them"
            )
            raise UserError(what, where="pretrain_seeds", fix=f"seeds: {self.pretrain_seeds} (--seeds)")
        names = [*self.against, *(name for pair in self.compare for name in pair)]
        for name in self.inits:
            kind, _, of = self.sources(name)[0].partition(":")
            if kind == "random" and of:
                names.append(of)
                if of not in self.inits or self.is_random(of):
                    fix = "random:NAME wants the name of an init that has weights"
                    raise UserError(f"the init {name!r} takes the architecture of {of!r}", where="inits", fix=fix)
        if any(name.partition(":")[0] == "random" for name in self.pretrain):
            raise UserError("a pretraining called random", where="pretrain", fix="`random` means no weights: rename it")
        for at, (name, one) in enumerate(self.pretrain.items()):
            earlier = list(self.pretrain)[:at]
            for start in one.needs:
                if start not in earlier:
                    fix = closest(start, earlier) if earlier else "name one that stands before it"
                    raise UserError(f"{name!r} starts from {start!r}, which is no earlier pretraining", fix=fix)
        for name in self.adapters:
            if name in self.inits and self.is_random(name):
                fix = f"--init {name}=PATH, with the weights that they were trained beside"
                raise UserError(f"adapters for {name!r}, whose weights are random", where="adapters", fix=fix)
        for name in () if self.teachers else (*names, *self.adapters):
            if name not in self.inits:
                raise UserError(f"no init {name!r}", where="study", fix=closest(name, self.inits))
        return self

    @property
    def baseline(self) -> str:
        """The init that the others are compared with."""
        scratch = (name for name in self.inits if self.is_untaught(name))
        return next(iter(self.against), None) or next(scratch, next(iter(self.inits)))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who is compared with whom: every other init with each of `against`."""
        if self.compare:
            return list(self.compare)
        fixed = self.against or (self.baseline,)
        return [(init, other) for other in fixed for init in self.inits if init not in fixed]

    def sources(self, init: str) -> tuple[str, ...]:
        """Where an init's weights come from: one place, or one for each repetition of its pretraining."""
        source = self.inits[init]
        return (source,) if isinstance(source, str) else source

    def source(self, init: str, seed: int) -> str:
        """Where they come from in the trials of a seed."""
        own = self.sources(init)
        return own[seed % len(own)]

    def repetitions(self, *inits: str) -> int:
        """How many pretrainings the trials of these inits tell of; 1: the same weights in all of them."""
        return max(len(self.sources(init)) for init in inits)

    def with_weights(self, places: Mapping[str, Path | str]) -> Study:
        """The same with the runs of its pretrainings, by name, in place of their names."""
        inits: dict[str, str | tuple[str, ...]] = {}
        for init, source in self.inits.items():
            found = tuple(str(places.get(one, one)) for one in self.sources(init))
            inits[init] = found[0] if isinstance(source, str) else found
        adapters = {init: str(places.get(source, source)) for init, source in self.adapters.items()}
        return self.model_copy(update={"inits": inits, "adapters": adapters})

    @property
    def unpretrained(self) -> Study:
        """The same with random weights where its pretrainings' are to be: for what is known before they are there."""
        known = {name: source for name, source in self.adapters.items() if source not in self.pretrain}
        without = self.model_copy(update={"adapters": known}).with_weights(dict.fromkeys(self.pretrain, "random"))
        left = {name: source for name, source in known.items() if not without.is_random(name)}
        return without.model_copy(update={"adapters": left})

    def is_random(self, init: str) -> bool:
        """Whether an init has no weights but those that a trial draws."""
        return self.sources(init)[0].partition(":")[0] == "random"

    def is_untaught(self, init: str) -> bool:
        """Whether an init has learned nothing: its weights are random, drawn by a trial or before."""
        return self.is_random(init) or (init in self.starts and self.starts[init].is_random)


def read_study(path: Path) -> Study:
    """Read a study.yaml.

    Raises:
        UserError: not there, no YAML, an unknown key, a value that does not fit.
    """
    values = read_yaml(path)
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise explain(error, Study, path) from error


def study_to_yaml(study: Study) -> str:
    """The YAML that `read_study` reads back to an equal study."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def percent(fraction: float) -> str:
    """0.1 -> 10%, 0.001 -> 0.1%."""
    return f"{100 * fraction:.4g}%"
