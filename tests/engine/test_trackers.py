"""W&B and MLflow get the numbers of metrics.jsonl, offline, through their own clients."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
from toy_engine import toy_run

from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import segment
from vistruct.recipes.options import called, parse
from vistruct.samples.made_maps import loveda_folder


def test_mlflow_has_the_steps_of_a_run_that_was_cut_in_one_record(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def cut(step: int, _metrics: dict[str, float]) -> None:
        if step == 6:
            raise KeyboardInterrupt

    run = toy_run(log=("mlflow",))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", on_step=cut)
    name = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    out = train(run, tmp_path / "run")
    assert json.loads((out / "trackers.json").read_text())["mlflow"] == name
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    found = {metric.step: metric.value for metric in client.get_metric_history(name, "loss")}
    assert found == pytest.approx({line["step"]: line["loss"] for line in lines})
    record = client.get_run(name)
    assert (record.info.status, record.data.params["optim.lr"]) == ("FINISHED", "0.01")


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = train(toy_run(log=("wandb",)), tmp_path / "run")
    name = json.loads((out / "trackers.json").read_text())["wandb"]
    (record,) = out.glob(f"wandb/offline-run-*/run-{name}.wandb")
    ends = time.monotonic() + 30  # a process of W&B's own writes, and may still be at it
    while record.stat().st_size <= 1000 and time.monotonic() < ends:
        time.sleep(0.1)
    assert record.stat().st_size > 1000  # in blocks of W&B's own, which may part any word


def test_a_missing_client_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'(?s)wandb is not installed.*pip install "vistruct\[wandb\]"'):
        train(toy_run(log=("wandb",)), tmp_path / "run")
    assert not Path(tmp_path / "run").exists()


def test_recipes_take_it():
    words = ["--data", str(loveda_folder()), "--split", "train", "--log", "wandb,mlflow"]
    assert called(segment.recipe, parse(segment.recipe, words)).log == ("wandb", "mlflow")
