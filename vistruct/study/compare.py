"""Two runs, or two studies, side by side: numbers, their differences, and what else differs.

One run against another is one pair: how much of a difference is chance in training cannot be known from it. Where
counts of each image were kept, an interval over images says at least how much depends on which images were measured.
Two studies are paired by fraction, tuning and seed of the inits that both have.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from vistruct.config import flat, read_run
from vistruct.engine.evaluate import Measured
from vistruct.engine.run_dir import Noted
from vistruct.errors import UserError
from vistruct.files.json_files import read_record
from vistruct.reports.run_report import Series, read_metrics
from vistruct.study.images import ImageGain, by_image, image_gain, image_gains, read_measured
from vistruct.study.statistics import Interval, paired_gain
from vistruct.study.trial import last_numbers


class _Trial(TypedDict):
    tuning: str
    init: str
    fraction: float
    seed: int
    value: float | None


class _StudyJson(TypedDict):
    metric: str
    plan: dict[str, Any]
    data: dict[str, str]
    trials: list[_Trial]


@dataclass(frozen=True, kw_only=True)
class Number:
    """One metric of both; None where one of them has none."""

    name: str
    a: float | None
    b: float | None
    interval: Interval | None = None  # of b - a
    over: str = ""  # what the interval is over: "images", "seeds"
    count: int = 0  # how many of them

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        values = {key: value for key, value in asdict(self).items() if key != "interval"}
        ends = None if self.interval is None else [self.interval.low, self.interval.high]
        return values | {"difference": self.difference, "interval": ends}

    @property
    def said(self) -> str:
        """The interval, and whether it leaves zero out."""
        if self.interval is None:
            return ""
        clear = "zero is outside" if self.interval.excludes_zero else "zero is inside"
        ends = f"[{self.interval.low:+.4f}, {self.interval.high:+.4f}]"
        return f"{ends} over {self.count} {self.over}: {clear}"


@dataclass(kw_only=True)
class Comparison:
    """All that differs between A and B."""

    kind: str  # "runs" or "studies"
    a: Path
    b: Path
    numbers: list[Number]
    settings: list[tuple[str, str, str]] = field(default_factory=list)  # key, A, B; of the run, or of the plan
    data: list[tuple[str, str, str, str]] = field(default_factory=list)  # name, A, B, same or different
    series: tuple[Series, Series] = field(default_factory=lambda: ({}, {}))  # of runs: metrics.jsonl
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "kind": self.kind,
            "a": str(self.a),
            "b": str(self.b),
            "numbers": [number.as_json() for number in self.numbers],
            "settings": [list(row) for row in self.settings],
            "data": [list(row) for row in self.data],
            "warnings": self.warnings,
        }


def compare(a: Path, b: Path, *, other_data: bool = False) -> Comparison:
    """Compare two finished runs, or two studies.

    Args:
        other_data: compare although they were measured on different data, and say so.

    Raises:
        UserError: not two of a kind, nothing measured, or measured on different data.
    """
    studies = [(path / "study.json").is_file() for path in (a, b)]
    if all(studies):
        return _studies(a, b, other_data)
    if any(studies):
        raise UserError("a study and a run", where=f"{a}, {b}", fix="give two runs, or two studies")
    return _runs(a, b, other_data)


def _runs(a: Path, b: Path, other_data: bool) -> Comparison:
    numbers, data = [], []
    for path in (a, b):
        if not (path / "run.yaml").is_file() or not (path / "data.json").is_file():
            raise UserError("not a run, and not a study", where=path, fix="give a directory that has a run.yaml")
        numbers.append(last_numbers(path))
        noted = read_record(path / "data.json", Noted)
        trained = json.dumps([info.fingerprint for info in noted.train.values()])
        data.append({"train": trained} | {k: v.fingerprint for k, v in noted.evals.items() if k != "train"})
        if not numbers[-1]:
            raise UserError("this run has measured nothing", where=path, fix="give its recipe data to measure on")
    runs = [read_run(path / "run.yaml") for path in (a, b)]
    rows = [_data_row(name, data) for name in dict.fromkeys([*data[0], *data[1]])]
    measured = [name for name in runs[0].evals if name in runs[1].evals]
    other = [name for name in measured if data[0].get(name) != data[1].get(name)]
    warnings = []
    same = [name for name in measured if name not in other]
    if not same and not other_data:
        what = "they were measured on different data" if measured else "they have no evaluation in common"
        raise UserError(what, where=f"{a}, {b}", fix="--other-data compares all the same, and says so")
    if other:
        warnings.append(
            f"Measured on DIFFERENT data: {', '.join(other)}. Differences of their numbers say nothing of the models."
        )
    if data[0].get("train") != data[1].get("train"):
        warnings.append("They were trained on different data.")
    values = [flat(run.model_dump(mode="json")) for run in runs]
    settings = _settings(*values)
    odd = [key for key, *_ in settings if key.startswith("evals.") and key.split(".")[1] in measured]
    if odd:
        warnings.append(f"Measured in different tune: {', '.join(odd)}.")
    return Comparison(
        kind="runs",
        a=a,
        b=b,
        numbers=[_number(a, b, name, numbers, other) for name in dict.fromkeys([*numbers[0], *numbers[1]])],
        settings=settings,
        data=rows,
        series=(read_metrics(a / "metrics.jsonl"), read_metrics(b / "metrics.jsonl")),
        warnings=warnings,
    )


def _number(a: Path, b: Path, name: str, numbers: list[dict[str, float | None]], other: list[str]) -> Number:
    evaluation, _, metric = name.partition("/")
    values = [one.get(name) for one in numbers]
    sides = [read_measured(path, evaluation, metric, v) for path, v in zip((a, b), values, strict=True)]
    if evaluation not in other and sides[0] is not None and sides[1] is not None:
        gain = image_gain([sides[1]], [sides[0]], metric)
        if gain is not None:
            return Number(name=name, a=values[0], b=values[1], interval=gain.interval, over="images", count=gain.images)
    return Number(name=name, a=values[0], b=values[1])


def side_by_side(kind: str, a: Measured, b: Measured) -> list[Number]:
    """Two evaluations of the same images, number by number, with an interval of B - A over images where the metric
    keeps what each image adds to the number.

    Args:
        kind: of the metric.
    """
    sums = [one.details.get("per_image") or {} for one in (a, b)]
    both = [one for one in sums[0] if one in sums[1]]
    details = [one.details | {"per_image": {n: own[n] for n in both}} for one, own in zip((a, b), sums, strict=True)]
    gains: dict[str, ImageGain] = {}
    for before, after in zip(*(by_image(kind, one) for one in details), strict=False):
        pairs = {name: (a.numbers[name], b.numbers[name]) for name in a.numbers if name in b.numbers}
        known = [n for n, (x, y) in pairs.items() if n not in gains and before.gives(n, x) and after.gives(n, y)]
        gains |= image_gains([after], [before], known)
    found = []
    for name in dict.fromkeys([*a.numbers, *b.numbers]):
        values = [None if (v := one.numbers.get(name)) is None or not math.isfinite(v) else v for one in (a, b)]
        gain = gains.get(name)
        number = Number(name=name, a=values[0], b=values[1])
        if gain is not None:
            number = replace(number, interval=gain.interval, over="images", count=gain.images)
        found.append(number)
    return found


def _data_row(name: str, data: list[dict[str, str]]) -> tuple[str, str, str, str]:
    a, b = (one.get(name, "") for one in data)
    said = "same" if a == b else "different" if a and b else "only one has it"
    return name, a[:12], b[:12], said


def _settings(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str]]:
    keys = dict.fromkeys([*a, *b])
    return [(key, str(a.get(key, "–")), str(b.get(key, "–"))) for key in keys if a.get(key) != b.get(key)]


def _studies(a: Path, b: Path, other_data: bool) -> Comparison:
    found = [read_record(path / "study.json", _StudyJson) for path in (a, b)]
    if found[0]["metric"] != found[1]["metric"]:
        what = f"one study compares {found[0]['metric']}, the other {found[1]['metric']}"
        raise UserError(what, where=f"{a}, {b}", fix="--metric of `vistruct study` says which")
    trials = [{(c["tuning"], c["init"], c["fraction"], c["seed"]): c["value"] for c in one["trials"]} for one in found]
    groups = dict.fromkeys(key[:3] for key in trials[0] if any(other[:3] == key[:3] for other in trials[1]))
    if not groups:
        raise UserError("no init, fraction and mode that both have", where=f"{a}, {b}", fix="compare single runs")
    numbers = []
    for group in groups:
        seeds = [key[3] for key in trials[0] if key[:3] == group and (*group, key[3]) in trials[1]]
        sides = [[_finite(one[(*group, seed)]) for seed in seeds] for one in trials]
        gain = paired_gain(sides[1], sides[0])
        means = [sum(side) / len(side) if side else None for side in sides]
        numbers.append(
            Number(
                name=f"{group[0]} {group[1]} {group[2]:.0%}",
                a=means[0],
                b=means[1],
                interval=gain.student,  # of few seeds the bootstrap is too narrow
                over="seeds",
                count=gain.pairs,
            )
        )
    plans = [flat({k: v for k, v in one["plan"].items() if k != "inits"}) for one in found]
    data = [one["data"] for one in found]
    rows = [_data_row(name, data) for name in dict.fromkeys([*data[0], *data[1]])]
    measured = found[0]["metric"].partition("/")[0]
    warnings = []
    if data[0].get(measured) != data[1].get(measured):
        if not other_data:
            fix = "--other-data compares all the same, and says so"
            raise UserError("they were measured on different data", where=f"{a}, {b}", fix=fix)
        warnings.append(
            f"Measured on DIFFERENT data: {measured}. Differences of their numbers say nothing of the models."
        )
    if data[0].get("train") != data[1].get("train"):
        warnings.append("They were trained on different data.")
    return Comparison(
        kind="studies", a=a, b=b, numbers=numbers, settings=_settings(*plans), data=rows, warnings=warnings
    )


def _finite(value: float | None) -> float:
    return math.nan if value is None else value
