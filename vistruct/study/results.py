"""What a study found, as data: study.json.

format      1
plan        the study (study.yaml), with `baseline`
data        fingerprints: train, and each evaluation's
metric      `val/mIoU`
higher_is_better
trials       name, init, fraction, seed, tuning, value (of the metric; null: not finite), numbers (all, by
            `evaluation/metric`), cost (see trial.cost_of), run (directory, relative to the file where it is below it)
gains       init, against, fraction, tuning, before and after (mean over seeds), mean, differences, wins, ties, pairs,
            bootstrap [low, high], student [low, high], p, p_holm (for all gains of the study), verdict,
            images: null, or {mean, interval [low, high], images}: seeds and images drawn anew
classes     init, against, fraction, tuning, metric, before, after, mean, bootstrap, student, verdict: the same of every
            other number of the same evaluation (per class, per size)
few_labels  null, or: what (the objects are), values (kind of probe -> number of labels -> init -> value of each draw),
            gains (kind, labels, init, against, before, after, and as above, paired by draw)
questions   null, or: about -> init, and `untrained` -> figures of metrics.answers
pretrained  directory of each pretraining's run
pretrained_weights  of each what tells its weights from others; null: it has left no backbone
pretrained_by  null, or the study whose pretrainings these are: study (its directory), recipe, metric, tests (chances by
            luck of its verdicts and of those before it, for which the verdicts here are corrected too)
pretraining_seconds  of each, of the processor or the accelerator: asked, in_steps, around (null: not known), keeps_maps
ring        null, or: budget (in words; null: each recipe's own steps), timing (seconds of timing steps; null: none),
            members (init, start, teacher, control, samples; of one pretraining with what leads to it, as study.spent
            gives them: asked, in_steps, around, range), verdicts (as study.ring gives them)
robustness  by trial: what study.robustness gives
notes       what is not the same for all inits, and what could not be said
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vistruct.config import Eval, Run
from vistruct.errors import UserError, closest
from vistruct.study.few_labels import found_by_probes
from vistruct.study.images import Measured, image_gain, read_measured
from vistruct.study.plan import Plan, Trial, weights_there
from vistruct.study.questions import found_by_questions
from vistruct.study.ring import Member, chain_of, verdicts
from vistruct.study.spent import Spent, off_budget, spent_by, spent_for
from vistruct.study.statistics import Interval, holm, paired_gain
from vistruct.study.study import Study

if TYPE_CHECKING:
    from vistruct.study.finished import Finished

FORMAT = 1
IMAGE_DRAWS = 2000


def chosen_metric(study: Study, run: Run) -> str:
    """The metric that the inits are compared by, as `evaluation/metric`."""
    first, measured = next(iter(run.evals.items()))
    chosen = study.metric or usual_number(measured)
    return chosen if chosen.partition("/")[0] in run.evals else f"{first}/{chosen}"


def usual_number(measured: Eval) -> str:
    """The number of an evaluation that people compare by."""
    return measured.metric.usual(measured.data)


def is_higher_better(study: Study, run: Run, name: str) -> bool | None:
    """Of the study's own metric as the plan says; else as the evaluation's metric does (None: neither is better)."""
    evaluation, _, number = name.partition("/")
    if study.higher_is_better is not None and study.metric in (None, name, number):
        return study.higher_is_better
    return run.evals[evaluation].metric.higher_is_better(number)


def results_of(
    study: Study,
    plan: Plan,
    results: Mapping[str, Mapping[str, Any]],
    out: Path,
    data: Mapping[str, str],
    pretrained: Mapping[str, Path] = MappingProxyType({}),
    ring: Sequence[Member] = (),
    before: Finished | None = None,
) -> dict[str, Any]:
    """All that is known of a finished study, as plain json.

    Args:
        results: of each trial by name, as `trial.train_and_measure` gives them.
        out: the study's directory.
        data: fingerprints by name.
        pretrained: directories of the study's own pretrainings.
        ring: the inits of a study of teachers.
        before: the study whose pretrainings these are; None: its own.

    Raises:
        UserError: the metric was not measured, or is a count, of which neither more nor less is better.
    """
    metric = chosen_metric(study, plan.trials[0].run)
    known = results[plan.trials[0].name]["numbers"]
    if metric not in known:
        raise UserError(f"no metric {metric!r} was measured", where="metric", fix=closest(metric, known))
    higher = is_higher_better(study, plan.trials[0].run, metric)
    if higher is None:
        fix = "another --metric, or higher_is_better: true (or false) in study.yaml"
        raise UserError("neither more nor less of it is better", where=f"metric {metric}", fix=fix)
    gains = _gains(study, plan, results, metric, higher)
    slices = _slices(study, plan, results, metric, gains)
    spent = spent_by(study, results) if before is None else before.found["pretraining_seconds"]
    origin = None if before is None else before.as_json(out)
    robust = {name.removeprefix("robust-"): r["robustness"] for name, r in results.items() if "robustness" in r}
    return {
        "format": FORMAT,
        "plan": {**study.model_dump(mode="json"), "baseline": study.baseline},
        "data": dict(data),
        "metric": metric,
        "higher_is_better": higher,
        "trials": [_trial(one, results[one.name], metric, out) for one in plan.trials],
        "gains": gains,
        "slices": slices,
        "ring": None if not ring else _ring(study, plan, results, ring, gains, metric, higher, spent, origin),
        "pretrained": {name: os.path.relpath(place, out) for name, place in pretrained.items()},
        "pretrained_weights": weights_there(pretrained),
        "pretrained_by": origin,
        "pretraining_seconds": spent,
        "few_labels": found_by_probes(study, results),
        "questions": found_by_questions(study, results),
        "robustness": robust,
        "notes": [*plan.notes, *off_budget(study, ring, spent), *_caveats(study, gains)],
    }


def of_group(
    plan: Plan, results: Mapping[str, Mapping[str, Any]], metric: str, init: str, fraction: float, tuning: str
) -> list[float]:
    """A metric's value of each seed in order; NaN where it is not finite."""
    chosen = [one for one in plan.trials if (one.init, one.fraction, one.tuning) == (init, fraction, tuning)]
    values = [results[one.name]["numbers"].get(metric) for one in chosen]
    return [math.nan if value is None else float(value) for value in values]


def by_pretraining(values: Sequence[float], repetitions: int) -> list[float]:
    """Of trials of several pretrainings one number for each, the mean of those that began with it; else as they are.

    Trials of one pretraining are no independent pairs: what it was lucky in they share.
    """
    if repetitions == 1:
        return list(values)
    return [float(np.mean(values[number::repetitions])) for number in range(repetitions)]


def mean_of(values: Sequence[float]) -> float | None:
    """Over the finite ones; None where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _groups(study: Study) -> list[tuple[str, str, float, str]]:
    """(init, against, fraction, tuning) of everything that is compared."""
    return [
        (init, other, fraction, tuning)
        for tuning in study.tune
        for fraction in study.fractions
        for init, other in study.pairs
    ]


def _gains(
    study: Study, plan: Plan, results: Mapping[str, Mapping[str, Any]], metric: str, higher: bool
) -> list[dict[str, Any]]:
    evaluation, _, name = metric.partition("/")
    counts: dict[str, Measured | None] = {}
    tests: list[float | None] = []
    for one in plan.trials:
        result = results[one.name]
        counts[one.name] = read_measured(Path(result["run"]), evaluation, name, result["numbers"].get(metric))
    rows: list[dict[str, Any]] = []
    for init, other, fraction, tuning in _groups(study):
        many = study.repetitions(init, other)
        sides = [by_pretraining(of_group(plan, results, metric, s, fraction, tuning), many) for s in (init, other)]
        gain = paired_gain(*sides, higher_is_better=higher, level=study.level, draws=study.draws)
        named = {"init": init, "against": other, "fraction": fraction, "tuning": tuning}
        tests.append(gain.p)
        images = _images(study, plan, counts, named, name, higher)
        rows.append({**named, "before": mean_of(sides[1]), "after": mean_of(sides[0]), **gain.as_json(), **images})
    for row, adjusted in zip(rows, holm(tests), strict=True):
        row["p_holm"] = adjusted
    return rows


def _images(
    study: Study, plan: Plan, counts: Mapping[str, Measured | None], named: Mapping[str, Any], name: str, higher: bool
) -> dict[str, Any]:
    sides = []
    for init in (named["init"], named["against"]):
        chosen = [
            one
            for one in plan.trials
            if (one.init, one.fraction, one.tuning) == (init, named["fraction"], named["tuning"])
        ]
        sides.append([counts[one.name] for one in chosen])
    pairs = [(a, b) for a, b in zip(*sides, strict=True) if a is not None and b is not None]
    if len(pairs) < len(sides[0]):
        return {"images": None}
    found = image_gain(
        [a for a, _ in pairs], [b for _, b in pairs], name, level=study.level, draws=min(study.draws, IMAGE_DRAWS)
    )
    if found is None:
        return {"images": None}
    interval = found.interval if higher else Interval(-found.interval.high, -found.interval.low)
    mean = found.mean if higher else -found.mean
    return {"images": {"mean": mean, "interval": [interval.low, interval.high], "images": found.images}}


def _slices(
    study: Study,
    plan: Plan,
    results: Mapping[str, Mapping[str, Any]],
    metric: str,
    gains: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The other numbers of the same evaluation of which more or less is better, compared likewise."""
    evaluation = metric.partition("/")[0]
    plain, run = study.model_copy(update={"higher_is_better": None}), plan.trials[0].run
    known = results[plan.trials[0].name]["numbers"]
    others = [name for name in known if name.startswith(f"{evaluation}/") and name != metric]
    better = {name: higher for name in others if (higher := is_higher_better(plain, run, name)) is not None}
    rows = []
    for gain in gains:
        init, other = gain["init"], gain["against"]
        many = study.repetitions(init, other)
        for name, higher in better.items():
            groups = [of_group(plan, results, name, s, gain["fraction"], gain["tuning"]) for s in (init, other)]
            sides = [by_pretraining(group, many) for group in groups]
            found = paired_gain(*sides, higher_is_better=higher, level=study.level, draws=min(study.draws, 2000))
            short = {k: v for k, v in found.as_json().items() if k in ("mean", "bootstrap", "student", "verdict")}
            named = {key: gain[key] for key in ("init", "against", "fraction", "tuning")}
            rows.append({**named, "metric": name, "before": mean_of(sides[1]), "after": mean_of(sides[0]), **short})
    return rows


def _ring(
    study: Study,
    plan: Plan,
    results: Mapping[str, Mapping[str, Any]],
    ring: Sequence[Member],
    gains: Sequence[Mapping[str, Any]],
    metric: str,
    higher: bool,
    spent: Spent,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    values: dict[Any, float | None] = {}
    for init in study.inits:
        for fraction, tuning in dict.fromkeys((one.fraction, one.tuning) for one in plan.trials):
            mean = mean_of(of_group(plan, results, metric, init, fraction, tuning))
            values[init, fraction, tuning] = mean if mean is None or higher else -mean
    told = []
    for one in ring:
        chain = chain_of(study, study.source(one.init, 0)) if one.teacher else []
        budgets = [study.pretrain[name].budget for name in chain]
        samples = [b.samples for b in budgets if b is not None and b.samples is not None]
        told.append({**asdict(one), "samples": sum(samples) or None, **spent_for(study, one, spent)})
    timing = [result["seconds"] for name, result in results.items() if name.startswith("pace-")]
    return {
        "budget": None if study.budget is None else study.budget.line,
        "timing": sum(timing) if timing else None,
        "members": told,
        "verdicts": verdicts(ring, gains, study.level, values, () if before is None else before["tests"]),
    }


def _trial(one: Trial, result: Mapping[str, Any], metric: str, out: Path) -> dict[str, Any]:
    run = Path(result["run"])
    return {
        "name": one.name,
        "init": one.init,
        "fraction": one.fraction,
        "seed": one.seed,
        "tuning": one.tuning,
        "value": result["numbers"].get(metric),
        "numbers": dict(result["numbers"]),
        "cost": dict(result["cost"]),
        "run": str(run.relative_to(out)) if run.is_relative_to(out) else str(run),
    }


def _caveats(study: Study, gains: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if study.pretrain and study.repetitions(*study.inits) == 1:
        notes.append(
            "One pretraining of each kind: the intervals tell how much depends on the seed of what came after it, and "
            "nothing of what another pretraining would give (`pretrain_seeds`)."
        )
    if study.seeds == 1:
        notes.append("One seed: there is no interval, and nothing is called clear. Use --seeds 3 or more.")
    elif study.seeds < 5:
        notes.append(
            f"{study.seeds} seeds: a bootstrap of so few is too narrow, so that a difference is called clear only "
            "where Student's interval leaves zero out too."
        )
    tested = sum(row["p"] is not None for row in gains)
    if tested > 1:
        chance = tested * (1 - study.level)
        kept = sum(row["p_holm"] is not None and row["p_holm"] < 1 - study.level for row in gains)
        clear = sum(row["verdict"].startswith("clear") for row in gains)
        notes.append(
            f"{tested} gains were tested: if there were nothing, up to about {chance:.2g} of them would look clear by "
            f"chance. Called clear: {clear}; of these hold when all are corrected for each other (Holm): {kept}."
        )
    if gains and all(row["images"] is None for row in gains):
        notes.append(
            "Intervals are over seeds alone: how much depends on which images were measured is not in them (the metric "
            "is no function of counts of each image, or they were not kept)."
        )
    return notes
