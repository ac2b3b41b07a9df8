"""What a finished run is worth on damaged images: its own evaluation again, under each corruption and severity.

    evaluation  name of the evaluation
    metric      name of the number, as that evaluation gives it
    clean       its value on the images as they are
    cells       corruption, severity, value, drop (clean - value), relative_drop (of clean)
    mean        value, drop, relative_drop over all cells, and `corruptions`: the same of each
    left_out    corruption: why it could not be measured on these data

A number that is not finite is null, and is left out of means. What was measured is kept in RUN/robustness/ by
corruption, with a hash of what was asked: a second call measures what is missing.

Source: REOBench (arXiv:2505.16793) and ViTP's Table 13, which give the mean over all cells and its drop against clean.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import ModelCard, load_model
from vistruct.checkpoint.save import write_json
from vistruct.config import Eval
from vistruct.data.dataset import RecordDataset
from vistruct.distributed.precision import amp_dtype
from vistruct.distributed.ranks import from_main, setup
from vistruct.engine.data_sets import for_classes
from vistruct.engine.evaluate import evaluate
from vistruct.errors import UserError, closest
from vistruct.files.json_files import read_cached
from vistruct.study.corrupted import corrupted, why_not
from vistruct.study.results import usual_number
from vistruct.transforms.corruptions import CORRUPTIONS, SEVERITIES, check

Numbers = dict[str, float | None]  # of an evaluation, by name; None: not finite
Measure = Callable[[RecordDataset], Mapping[str, float]]
FILE = "robustness.json"
FOLDER = "robustness"


def robustness(
    run: Path,
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    *,
    evaluation: str | None = None,
    metric: str | None = None,
    batch: int = 4,
    workers: int = 0,
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure, and write RUN/robustness.json.

    Args:
        run: a run directory or its model directory.
        names: of `CORRUPTIONS`.
        evaluation: of the run; None: its first.
        metric: number of that evaluation; None: the usual one of its kind.
        batch: samples in a forward pass.
        workers: loader processes.
        device: None: that of this process.
        say: told of each number as it is there, and of what is left out.

    Raises:
        UserError: no finished run, no such evaluation, number, corruption or severity.
    """
    for name in names:
        for severity in severities:
            check(name, severity)
    if not names or not severities:
        raise UserError("no corruption is asked for", fix=f"some of {', '.join(CORRUPTIONS)}")
    ranks = setup()
    device = device or ranks.device
    task, card = load_model(run, device)
    title, asked = _evaluation(card, evaluation)
    dataset = for_classes(asked.data, card.info).build()
    if not isinstance(dataset, RecordDataset):
        raise UserError("corruptions are for data of records", where=f"evals.{title}.data", fix="another evaluation")

    def measure(data: RecordDataset) -> Mapping[str, float]:
        return evaluate(task, asked, device, batch, workers, dataset=data, amp=amp_dtype(card.run.amp, device))

    def under(name: str, severity: int) -> Mapping[str, float]:
        return measure(corrupted(dataset, name, severity))

    place = card.path.parent if card.path.name == "model" else card.path
    kept = _Kept(place / FOLDER / title, _hash(card, asked, dataset.info.fingerprint), is_main=ranks.is_main)
    clean = kept.numbers("clean", None, 0, lambda: measure(dataset))
    figure = _figure(clean, asked, metric)
    say(f"clean: {figure} {_text(clean[figure])}")

    cells, left_out = [], {}
    for name in names:
        reason = why_not(dataset, name)
        if reason:
            left_out[name] = reason
            say(f"{name} left out: {reason}")
            continue
        for severity in severities:
            level = CORRUPTIONS[name].levels[severity - 1]
            numbers = kept.numbers(name, level, severity, functools.partial(under, name, severity))
            cells.append({"corruption": name, "severity": severity, **_against(clean[figure], numbers[figure])})
            say(f"{name} {severity}: {figure} {_text(numbers[figure])}")
    found = {
        "evaluation": title,
        "metric": figure,
        "clean": clean[figure],
        "cells": cells,
        "mean": means(cells, clean[figure]),
        "left_out": left_out,
    }
    if ranks.is_main:
        write_json(place / FILE, found)
    return found


def means(cells: Sequence[Mapping[str, Any]], clean: float | None) -> dict[str, Any]:
    """Over all cells, and by corruption; every corruption weighs as its cells do."""
    names = dict.fromkeys(cell["corruption"] for cell in cells)
    by_name = {name: [cell["value"] for cell in cells if cell["corruption"] == name] for name in names}
    overall = _against(clean, _mean([cell["value"] for cell in cells]))
    return {**overall, "corruptions": {name: _against(clean, _mean(values)) for name, values in by_name.items()}}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _against(clean: float | None, value: float | None) -> dict[str, float | None]:
    drop = None if clean is None or value is None else clean - value
    return {"value": value, "drop": drop, "relative_drop": drop / clean if drop is not None and clean else None}


def _text(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _evaluation(card: ModelCard, name: str | None) -> tuple[str, Eval]:
    evals = card.run.evals
    if not evals:
        raise UserError("this run has no evaluation data", where=card.path, fix="give it an evaluation and train")
    if name is not None and name not in evals:
        raise UserError(f"no evaluation {name!r}", where=card.path, fix=closest(name, evals))
    title = name or next(iter(evals))
    return title, evals[title]


def _figure(numbers: Mapping[str, object], asked: Eval, metric: str | None) -> str:
    figure = metric or usual_number(asked)
    if figure not in numbers:
        raise UserError(f"no number {figure!r} was measured", where="--metric", fix=closest(figure, numbers))
    return figure


def _hash(card: ModelCard, asked: Eval, data: str) -> str:
    """Of the weights, of what is asked of them, and of the data by their fingerprint."""
    text = json.dumps([card.values["sha256"], asked.model_dump(mode="json"), data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Kept:
    """Numbers by corruption and severity in a folder, one file a corruption."""

    def __init__(self, folder: Path, asked: str, *, is_main: bool) -> None:
        self.folder, self.asked, self.is_main = folder, asked, is_main

    def numbers(self, name: str, level: object, severity: int, measure: Callable[[], Mapping[str, float]]) -> Numbers:
        """Those that are there, or else measured now and kept."""
        file, key = self.folder / f"{name}.json", str(severity)
        before = from_main(self._read(file) if self.is_main else {})
        known = before.get(key)
        if known is not None and known["level"] == json.loads(json.dumps(level)):
            return known["numbers"]
        found = {name: value if math.isfinite(value) else None for name, value in measure().items()}
        if self.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, {"asked": self.asked, "severities": {**before, key: {"level": level, "numbers": found}}})
        return found

    def _read(self, file: Path) -> dict[str, Any]:
        """By severity; nothing where the file is not there, or was written of other weights or data."""
        kept = read_cached(file, dict[str, Any]) or {}
        return kept.get("severities", {}) if kept.get("asked") == self.asked else {}
