"""A recipe of the engine's toys, and the trials of a study of it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from toy_engine import ToyBackboneConfig, ToyDataConfig, ToyDataset, ToyTaskConfig

from vistruct.config import AdamW, Eval, Part, Run
from vistruct.metrics.loss import MeanLossConfig
from vistruct.study import trial


class SharedDataConfig(ToyDataConfig):
    kind: Literal["toy_study:SharedDataConfig"] = "toy_study:SharedDataConfig"
    fraction: float = 1.0
    fraction_seed: int = 0

    def build(self, cache: Path | None = None) -> ToyDataset:
        return ToyDataset(max(1, round(self.size * self.fraction)), fingerprint=self.fingerprint)


class ClassesMetricConfig(Part):
    """Numbers as a metric of classes has them, made of the mean answer."""

    kind: Literal["toy_study:ClassesMetricConfig"] = "toy_study:ClassesMetricConfig"

    def build(self, dataset: Any) -> ClassesMetric:
        return ClassesMetric()

    def usual(self, data: Any) -> str:
        return "AP"

    def higher_is_better(self, number: str) -> bool | None:
        return None if number == "asked" else True


class ClassesMetric:
    def __init__(self) -> None:
        self.got: list[float] = []

    def update(self, predictions: list[Any]) -> None:
        self.got += [float(value) for _, value in predictions]

    def compute(self) -> dict[str, float]:
        mean = float(torch.tensor(self.got).sigmoid().mean())
        sizes = {"APs": float("nan"), "APm": mean, "APl": mean / 2}
        return {"AP": mean, "AP/tree": mean, "AP/house": 1 - mean, **sizes, "asked": float(len(self.got))}


def recipe(
    *,
    data: str = "here",
    backbone: Path | None = None,
    steps: int = 4,
    fraction: float = 1.0,
    seed: int = 0,
    lr: float = 1e-2,
    fingerprint: str = "0" * 64,
    metric: Literal["loss", "classes", "none"] = "loss",
    width: int = 8,
) -> Run:
    measured = {"loss": MeanLossConfig(), "classes": ClassesMetricConfig()}
    evals = {"val": Eval(data=ToyDataConfig(size=7), metric=measured[metric])} if metric != "none" else {}
    return Run(
        recipe="toy",
        task=ToyTaskConfig(backbone=ToyBackboneConfig(width=width)),
        data=SharedDataConfig(fraction=fraction, fraction_seed=seed, fingerprint=fingerprint),
        evals=evals,
        init=backbone,
        steps=steps,
        batch=8,
        seed=seed,
        log_every=2,
        eval_every=2,
        amp="off",
        optim=AdamW(lr=lr, layer_decay=1.0 if backbone is None else 0.8),
    )


def train_and_measure(*, with_pictures: bool = False, **arguments: Any) -> dict:
    """A trial; in a worker without pictures and the report of each run: they take ten times as long as its steps."""
    if not with_pictures:
        runs: Any = importlib.import_module("vistruct.runs")
        runs.draw_first_batch = runs.draw_predictions = runs.write_run_report = lambda _: None
    return {**trial.train_and_measure(**arguments), "pid": os.getpid()}


def corrupted(*, of: str, metric: str, results: dict, report: Any) -> dict:
    """What `study.robustness` gives, made up."""
    value = results[of]["numbers"][metric]
    kinds = ("haze", "rotation")
    trials = [
        {"corruption": kind, "severity": level, "value": value * (1 + level / 10)} for kind in kinds for level in (1, 3)
    ]
    return {"run": results[of]["run"], "robustness": {"metric": "loss", "clean": value, "trials": trials}}


def first_head(run: Run, out: Path) -> list[nn.Parameter]:
    """The head's weights before the first step."""
    from vistruct.engine.run import build

    state = build(run, out)
    return [p.detach().clone() for n, p in state.model.named_parameters() if not n.startswith("backbone.")]
