"""Health of features: as numpy and scikit-learn have it; a collapse is told in log, file and report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vistruct.contracts import Embedded
from vistruct.engine.train import started, train_steps
from vistruct.errors import UserError
from vistruct.metrics.health import Health, HealthConfig
from vistruct.recipes import masked
from vistruct.reports.run_report import write_run_report


def measured(rows: torch.Tensor, labels: dict[str, int] | None = None) -> dict[str, float]:
    metric = Health(labels)
    metric.update([Embedded(id=str(i), image_id=str(i), image=row, texts=row[None]) for i, row in enumerate(rows)])
    return metric.compute()


def test_the_numbers_are_numpys_and_scikit_learns() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    neighbors = pytest.importorskip("sklearn.neighbors")
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    truth = np.arange(40) % 3
    found = measured(rows, {str(i): int(label) for i, label in enumerate(truth)})
    unit = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    cosine = pairwise.cosine_similarity(unit)
    assert found["mean_cosine"] == pytest.approx(cosine[~np.eye(40, dtype=bool)].mean())
    assert found["deviation"] == pytest.approx(np.mean([np.std(unit[:, d]) for d in range(12)]) * math.sqrt(12))
    share = np.sqrt(np.linalg.eigvalsh(unit.T @ unit))
    share /= share.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-np.sum(share * np.log(share))))
    nearest = neighbors.NearestNeighbors(n_neighbors=2, metric="cosine").fit(unit).kneighbors(unit)[1][:, 1]
    assert found["neighbour_accuracy"] == pytest.approx((truth[nearest] == truth).mean())
    assert found["images"] == 40


def test_features_that_fill_their_space_are_healthy_and_constant_ones_alarm() -> None:
    full = measured(torch.randn(4000, 8, generator=torch.Generator().manual_seed(2)))
    assert full["deviation"] == pytest.approx(1, abs=0.02)
    assert full["effective_rank"] == pytest.approx(8, abs=0.02)
    assert HealthConfig().alarms(full, full) == []
    constant = measured(torch.ones(5, 8))
    assert constant["effective_rank"] == pytest.approx(1)
    alarms = HealthConfig().alarms(constant, full)
    assert len(alarms) == 4
    assert all("lower the rate" in alarm for alarm in alarms)


def test_nothing_nan_and_twice() -> None:
    assert math.isnan(measured(torch.ones(1, 4))["deviation"])
    with pytest.raises(ValueError, match="twice"):
        Health().update([Embedded(id="a", image_id="a", image=torch.ones(2), texts=torch.ones(1, 2))] * 2)
    with pytest.raises(UserError, match="NaN"):
        measured(torch.full((2, 2), math.nan))


@pytest.mark.parametrize("collapses", [False, True])
def test_a_run_says_that_it_collapses_and_a_healthy_one_does_not(tmp_path: Path, collapses: bool) -> None:
    run = masked.tiny()
    evals = {"train": run.evals["health"]}  # measured on what it learns from
    run = run.model_copy(update={"steps": 2, "eval_every": 1, "workers": 0, "evals": evals})
    with started(run, tmp_path / "run") as training:

        def flatten(step: int, numbers: dict[str, float]) -> None:
            with torch.no_grad():
                for name, own in training.state.model.named_parameters():
                    if collapses and "backbone." in name and own.ndim > 1 and "position" not in name:
                        own.zero_()

        train_steps(training, flatten)
    kept = json.loads((tmp_path / "run/evaluations/train.json").read_text())
    assert bool(kept["details"]["alarms"]) == collapses
    assert kept["details"]["first"]["deviation"] > 0.02
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert lines[0]["train/deviation"] == pytest.approx(kept["details"]["first"]["deviation"])
    assert ("features collapse" in (tmp_path / "run/train.log").read_text()) == collapses
    assert ("features collapse" in write_run_report(tmp_path / "run").read_text()) == collapses
