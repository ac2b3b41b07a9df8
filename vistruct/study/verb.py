"""What initial weights are worth: `vistruct.study("segment", data="fields", init={"random": "random", "b": "w"})`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistruct.errors import UserError
from vistruct.recipes import find
from vistruct.recipes.options import named_words, taken
from vistruct.settings import settings_of
from vistruct.study.asked import study_of, told

USUAL_OUT = Path("runs/study")
WORDS = (
    *("config", "init", "teacher", "teacher_option", "from_", "budget", "pretrain_seeds", "pretrained_by", "lora"),
    *("fraction", "seeds", "tune", "lr", "metric", "against", "set", "robust", "out", "workers", "threads"),
)
Named = Mapping[str, Any] | str | Sequence[str]  # by name, or as it is typed: "NAME=VALUE"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one init is worth beside another, over all seeds."""

    init: str
    against: str
    fraction: float  # of the labels
    tuning: str  # head, lora or full
    before: float | None  # mean of the metric with `against`
    after: float | None  # with `init`
    mean: float  # better by so much; what is better is above 0
    interval: tuple[float, float] | None  # by bootstrap over seeds; None: too few
    wins: int  # of the pairs
    pairs: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of the study."""

    name: str
    init: str
    fraction: float
    seed: int
    tuning: str
    value: float | None  # of the metric; None: not finite


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study that has ended; all that is known of it is in `path / "study.json"`."""

    path: Path
    metric: str  # EVALUATION/NUMBER
    gains: tuple[Gain, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]  # what is not the same for all inits, and what could not be said

    @property
    def report(self) -> Path:
        """A page with curves, intervals and verdicts."""
        return self.path / "report.html"


def study(
    recipe: str | None = None,
    *,
    config: str | Path | None = None,
    init: Named = (),
    teacher: Named = (),
    teacher_option: Named = (),
    from_: Named = (),
    budget: str | None = None,
    pretrain_seeds: int | None = None,
    pretrained_by: str | Path | None = None,
    lora: Named = (),
    fraction: float | Sequence[float] = (),
    seeds: int | None = None,
    tune: str | Sequence[str] = (),
    lr: float | Named = (),
    metric: str | None = None,
    against: str | Sequence[str] = (),
    set: Named = (),
    robust: bool = False,
    out: str | Path = USUAL_OUT,
    workers: int | None = None,
    threads: int = 1,
    **options: Any,
) -> StudyResult:
    """One recipe from several initial weights, paired by seed: what are they worth? Or which way to make them pays.

    What the directory has is not run again. The words are those of `vistruct study`, which repeats some of them: here
    they are lists, or mappings by name.

    Args:
        recipe: a name of `vistruct recipes`.
        config: a saved study.yaml, in place of a recipe.
        init: initial weights by name: a run, a file, a name of `vistruct weights`, or "random".
        teacher: recipes that pretrain, by name; in place of `init`.
        teacher_option: {"NAME.OPTION": value} of their recipes.
        from_: weights that teachers start from, by name; the command line's `--from`.
        budget: "samples=N" or "seconds=N" of each teacher.
        pretrain_seeds: repetitions of each teacher's pretraining.
        pretrained_by: directory of a study that has ended, whose pretrainings are measured on this recipe.
        lora: adapters by the name of their init.
        fraction: of the labels, in (0, 1]; several are compared.
        seeds: repetitions of everything; None: 3.
        tune: "head", "lora" or "full", or several.
        lr: learning rate of all tuning modes, or of each by its name.
        metric: what is compared; None: the usual one of the task.
        against: inits to compare with; none: the random one.
        set: values that are changed in every run: {"optim.weight_decay": 0}.
        robust: also measure under twelve corruptions.
        out: directory of the study.
        workers: runs at a time; None: one for each device.
        threads: of each run, on a CPU.
        options: those of the recipe, with underscores.

    Raises:
        UserError: no such recipe or option (with the nearest), words that do not fit, a run that failed.
    """
    from vistruct.study.runner import run_study

    asked = f"vistruct.study({recipe!r})"
    if config is not None and (recipe is not None or options):
        raise UserError("a saved study and a recipe at once", where=asked, fix="leave one of them out")
    values = {} if recipe is None else taken(find(recipe).recipe, options, WORDS, asked)
    given = told(
        init=named_words(init),
        teacher=named_words(teacher),
        teacher_option=named_words(teacher_option),
        origin=named_words(from_),
        budget=budget,
        pretrain_seeds=pretrain_seeds,
        pretrained_by=None if pretrained_by is None else Path(pretrained_by),
        lora=named_words(lora),
        fraction=[fraction] if isinstance(fraction, int | float) else fraction,
        seeds=seeds,
        tune=[tune] if isinstance(tune, str) else tune,
        lr=[str(lr)] if isinstance(lr, int | float) else named_words(lr),
        metric=metric,
        against=[against] if isinstance(against, str) else against,
        settings=settings_of(set),
        robust=robust,
    )
    place = Path(out)
    saved = None if config is None else Path(config)
    return result_of(run_study(study_of(recipe, saved, values, given), place, workers=workers, threads=threads), place)


def result_of(found: Mapping[str, Any], out: Path) -> StudyResult:
    """What study.json says, typed."""
    gains = [
        Gain(
            **{name: row[name] for name in ("init", "against", "fraction", "tuning", "before", "after", "mean")},
            interval=None if row["bootstrap"] is None else (row["bootstrap"][0], row["bootstrap"][1]),
            wins=row["wins"],
            pairs=row["pairs"],
            verdict=row["verdict"],
        )
        for row in found["gains"]
    ]
    names = ("name", "init", "fraction", "seed", "tuning", "value")
    trials = [Trial(**{name: row[name] for name in names}) for row in found["trials"]]
    return StudyResult(
        path=out, metric=found["metric"], gains=tuple(gains), trials=tuple(trials), notes=tuple(found["notes"])
    )
