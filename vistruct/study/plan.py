"""From a plan to the runs that it asks for, and to the trials that train and measure them.

Every trial of a study differs from the next in one thing alone: an init, a fraction, a seed or a tuning mode. A random
init has the architecture of the others, so that the same seed gives every init the same head; what cannot be the same
is noted, and the report says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vistruct.checkpoint.adapters import read_adapters
from vistruct.checkpoint.catalogue.find import near
from vistruct.checkpoint.catalogue.here import located
from vistruct.checkpoint.tensors import sha256
from vistruct.checkpoint.weights import backbone_dir, read_backbone_card
from vistruct.config import Run, Trainable, explain, with_values
from vistruct.errors import UserError, closest
from vistruct.recipes import find
from vistruct.recipes.options import called, options_of
from vistruct.recipes.tune import kept_part, tuned
from vistruct.settings import with_settings
from vistruct.study.jobs import Job
from vistruct.study.study import Study, Tuning

TRAIN = "vistruct.study.trial:train_and_measure"
ROBUST = "vistruct.study.trial:corrupted"
VARIED = {  # options of recipes that the study sets itself, and where it is told them
    "backbone": "inits (--init NAME=PATH)",
    "fraction": "fractions (--fraction)",
    "seed": "seeds (--seeds)",
    "lr": "lr (--lr MODE=RATE)",
    "tune": "tune (--tune)",
}


STEPS = 5000  # of a run whose recipe would count them from its data: what differs between trials is never their length


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a study."""

    init: str
    fraction: float
    seed: int
    tuning: Tuning
    run: Run

    @property
    def name(self) -> str:
        """Of its trial: `full-random-0.1-0`."""
        return f"{self.tuning}-{self.init}-{self.fraction:g}-{self.seed}"


@dataclass
class Plan:
    """All runs of a study, and what is not the same for all of them."""

    trials: list[Trial]
    notes: list[str] = field(default_factory=list)


def plan_trials(study: Study, make: Callable[..., Run] | None = None) -> Plan:
    """Resolve every run of a study.

    Args:
        make: the recipe's function; None: found by the study's `recipe`.

    Raises:
        UserError: an unknown recipe or option, an option that the study varies, an init that is not there, a recipe
            without a fraction or with several tasks, a run without an evaluation.
    """
    function = find(study.recipe).recipe if make is None else make
    options = checked_options(function, study.options, VARIED)
    plan = Plan(trials=[])
    made: dict[str, set[str]] = {}  # inits by the architecture of their backbone
    for tuning in study.tune:
        for init in study.inits:
            for fraction in study.fractions:
                for seed in range(study.seeds):
                    run = _one(study, function, options, init, fraction, seed, tuning)
                    plan.trials.append(Trial(init=init, fraction=fraction, seed=seed, tuning=tuning, run=run))
    for one in plan.trials:
        task: Any = one.run.only.task
        backbone = vars(task).get("backbone")
        kind = "" if backbone is None else backbone.model_dump_json()
        made.setdefault(kind, set()).add(one.init)
    if not plan.trials[0].run.evals:
        fix = "give the recipe data to measure on, for example --val PATH"
        raise UserError("the recipe measures nothing: it has no evaluation", where=study.recipe, fix=fix)
    if len(made) > 1:
        groups = "; ".join(", ".join(sorted(names)) for names in made.values())
        plan.notes.append(
            f"The inits have different architectures ({groups}): their heads begin with other random weights, and "
            "what differs between them is the architecture as well as what it was taught."
        )
    scratch = [name for name in study.inits if study.is_untaught(name)]
    decays = {p.run.optim.layer_decay for p in plan.trials if p.init not in scratch}
    if scratch and study.scratch_layer_decay is not None and decays - {study.scratch_layer_decay}:
        plan.notes.append(
            f"Random inits train all layers with a rate x {study.scratch_layer_decay:g} from block to block, the "
            f"others with {', '.join(f'{d:g}' for d in sorted(decays))}: lower layers are slowed where there is "
            "something to keep (`scratch_layer_decay`)."
        )
    return plan


def checked_options(
    function: Callable[..., Run], options: Mapping[str, Any], varied: Mapping[str, str]
) -> dict[str, Any]:
    """A recipe's options with their types.

    Args:
        varied: options that the study sets itself, and where it is told them.

    Raises:
        UserError: an unknown one (with the closest), one that the study varies, a value that does not fit.
    """
    known = options_of(function)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in varied:
            raise UserError(f"a study varies {name!r} itself", where=f"options.{name}", fix=f"use {varied[name]}")
        if name not in known:
            raise UserError(f"the recipe has no option {name!r}", where="options", fix=closest(name, known))
        try:
            values[name] = TypeAdapter(known[name].hint).validate_python(value)
        except ValidationError as error:
            what = f"{name}: {error.errors()[0]['msg']}, got {value!r}"
            raise UserError(what, where="options", fix="correct this value") from error
    missing = [name for name, one in known.items() if one.is_needed and name not in values and name not in varied]
    if missing:
        raise UserError(f"the recipe needs {', '.join(missing)}", where="options", fix=f"--{missing[0]} VALUE")
    return values


def made_by(recipe: str, function: Callable[..., Run], options: Mapping[str, Any]) -> Run:
    """What a recipe makes of its options.

    Raises:
        UserError: they make no run.
    """
    try:
        return called(function, options)
    except ValidationError as error:
        raise explain(error, Run, f"recipe {recipe}") from error


def measured_at_the_end(run: Run) -> Run:
    """A recipe's run as a study runs it: so many steps whatever the number of samples, and its last weights measured.

    The best weights by the data that a study compares by would be chosen on them: each init's luck is then in its
    figure, and more of it the more often it was measured.

    Raises:
        UserError: epochs, which are other steps for every fraction.
    """
    if run.epochs is not None:
        what = f"{run.epochs:g} epochs are another number of steps for every fraction of the labels"
        raise UserError(what, where="options.epochs", fix="--option steps=N")
    along = {"eval_every": None if run.eval_every == "auto" else run.eval_every}
    whole = {"keep_model": "last", "best_by": "", "patience": None, "steps": run.steps or STEPS}
    return run.model_copy(update={**along, **whole})


def check_choice(run: Run) -> Run:
    """A run of a study after its settings.

    Raises:
        UserError: they let it be chosen or ended by what it is measured on.
    """
    for key, is_asked in (("keep_model", run.keep_model == "best"), ("patience", run.patience is not None)):
        if is_asked:
            what = f"{key}={vars(run)[key]} would choose among weights by the data that the study compares by"
            raise UserError(what, where="settings", fix="leave it out: a study measures the last weights")
    return run


def weights_of(study: Study, init: str, seed: int = 0) -> Path | None:
    """Where an init's weights are in the trials of a seed, or those of which a random one has the architecture.

    Returns:
        None: the recipe's own.

    Raises:
        UserError: nothing there.
    """
    source = study.source(init, seed)
    if study.is_random(init):
        of = source.partition(":")[2]
        of = of or next((name for name in study.inits if not study.is_random(name)), "")
        return weights_of(study, of, seed) if of else None
    path = Path(source)
    if not located(path).exists():
        near_name = near(source)
        fix = f"did you mean {near_name!r}?" if near_name else f"check the init {init!r}"
        raise UserError("no such run, backbone, file or name of weights", where=path, fix=fix)
    return path


def _one(
    study: Study,
    function: Callable[..., Run],
    options: Mapping[str, Any],
    init: str,
    fraction: float,
    seed: int,
    tuning: Tuning,
) -> Run:
    parameters = options_of(function)
    source = weights_of(study, init, seed)
    own: dict[str, Any] = {"backbone": source, "fraction": fraction, "seed": seed, "lr": study.lr.get(tuning)}
    own["tune"] = "full"  # of recipes that freeze the backbone by themselves; the mode comes below
    given = {name: value for name, value in own.items() if name in parameters and value is not None}
    run = measured_at_the_end(made_by(study.recipe, function, {**options, **given}))
    if len(run.streams) > 1:
        what = f"a study compares runs of one task, and these would have several: {', '.join(run.streams)}"
        raise UserError(what, where=study.recipe, fix="study one task's recipe, from the joint run: --init joint=RUN")
    changes: dict[str, Any] = {"recipe": run.recipe or study.recipe, "seed": seed}
    if "lr" not in parameters and tuning in study.lr:
        changes["optim"] = run.optim.model_copy(update={"lr": study.lr[tuning]})
    if "fraction" not in parameters:
        changes["data"] = _shared(run.only.data, fraction, seed)
    if "backbone" not in parameters:
        changes["init"] = source
    if init in study.adapters:
        changes["adapters"] = Path(study.adapters[init])
    if study.is_untaught(init):
        optim = changes.get("optim", run.optim)
        decay = optim.layer_decay if study.scratch_layer_decay is None else study.scratch_layer_decay
        changes["optim"] = optim.model_copy(update={"layer_decay": decay})
    if study.is_random(init):
        changes |= {"init": None, "start": None}
    rules = tuned(tuning, run.only.task, study.lora)
    if not rules and study.backbone_lr != 1:
        rules = (Trainable(pattern=kept_part(run.only.task), lr_factor=study.backbone_lr),)
    if rules:
        changes["trainable"] = (*run.trainable, *rules)
    run = with_values(run, **changes)
    return check_choice(with_settings(run, list(study.settings))) if study.settings else run


def _shared(data: Any, fraction: float, seed: int) -> Any:
    settings = vars(data)
    if "fraction" not in settings:
        if fraction == 1:
            return data
        what = f"data of kind {settings.get('kind', '?')} cannot be used in part"
        raise UserError(what, where="fractions", fix="leave fractions out")
    return data.model_copy(
        update={"fraction": fraction, **({"fraction_seed": seed} if "fraction_seed" in settings else {})}
    )


def study_jobs(
    study: Study,
    plan: Plan,
    out: Path,
    fingerprints: Mapping[str, str],
    metric: str,
    *,
    train: str = TRAIN,
    robust: str = ROBUST,
) -> list[Job]:
    """The trials of a plan, in its order.

    Args:
        out: the study's directory; runs go to its `runs/`, named by what they are.
        fingerprints: of the data, by name: a trial is measured again where the data has changed.
        metric: what the study compares, for the trials that measure under corruptions.
        train, robust: the functions that are called.
    """
    trials = []
    weights = weight_digests(study)
    for one in plan.trials:
        values = one.run.model_dump(mode="json")
        asked = {"run": values, "data": dict(fingerprints), "weights": digest_at(weights, one.init, one.seed)}
        directory = str(out / "runs" / f"{one.name}-{digest_of(asked)}")
        trials.append(
            Job(
                name=one.name,
                call=train,
                arguments={**asked, "directory": directory},
                # A frozen backbone has no backward pass.
                cost=one.run.steps * one.run.only.batch * (1 if one.tuning == "head" else 3),
            )
        )
        if study.robust and one.seed == 0 and one.fraction == max(study.fractions):
            asked = {"of": one.name, "metric": metric}
            trials.append(Job(name=f"robust-{one.name}", call=robust, needs=(one.name,), arguments=asked))
    return trials


def digest_of(asked: Mapping[str, Any]) -> str:
    """Names a directory by what is asked for in it, so that a run of other settings is another directory."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


def weight_digests(study: Study) -> dict[str, tuple[str, ...]]:
    """What tells the weights of each init from others, of each repetition of its pretraining."""
    found = {}
    for name in study.inits:
        paths = [None if study.is_random(name) else Path(source) for source in study.sources(name)]
        adapters = f" {read_adapters(Path(study.adapters[name])).digest}" if name in study.adapters else ""
        found[name] = tuple(f"{init_digest(path)}{adapters}" for path in paths)
    return found


def digest_at(weights: Mapping[str, tuple[str, ...]], init: str, seed: int) -> str:
    """Of the weights that an init has in the trials of a seed."""
    return weights[init][seed % len(weights[init])]


def init_digest(source: Path | None) -> str:
    """What tells the weights of an init from others; empty for random ones.

    Of one file its sha256; of our own backbone directories what their json says of them; of a folder of files their
    names and sizes.
    """
    if source is None:
        return ""
    source = located(source)
    ours = backbone_dir(source)
    if ours is not None:
        return read_backbone_card(ours).sha256
    if source.is_file():
        return sha256(source)
    listed = sorted((p.name, p.stat().st_size) for p in source.iterdir() if p.is_file())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def weights_there(places: Mapping[str, Path]) -> dict[str, str | None]:
    """`pretrained_weights` of study.json: what tells the weights that each pretraining has left from others."""
    return {name: None if backbone_dir(place) is None else init_digest(place) for name, place in places.items()}


def data_fingerprints(trials: Sequence[Trial], cache: Path) -> dict[str, str]:
    """Of the training data and of each evaluation's, read once; as the fractions have them, whole."""
    run = trials[0].run
    train: Any = run.only.data
    parts = {"train": _shared(train, 1.0, 0)}
    parts |= {name: measured.data for name, measured in run.evals.items()}
    return {name: part.build(cache=cache).info.fingerprint for name, part in parts.items()}
