"""Metrics of a run sent to Weights & Biases or MLflow too, through their own clients (`--log wandb`, `--log mlflow`).

A run that is resumed goes on in the same record, whose name there is kept in `trackers.json`. Where MLFLOW_TRACKING_URI
says nothing, MLflow's files go to `mlruns/` beside the run directory; WANDB_MODE=offline keeps W&B's in it.
"""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from vistruct.checkpoint.save import write_json
from vistruct.config import Run, flat
from vistruct.errors import UserError
from vistruct.files.json_files import read_cached

Tracker = Literal["wandb", "mlflow"]
PROJECT, NAMES = "vistruct", "trackers.json"
MOST_PARAMS = 100  # that MLflow takes at once


class Tracking(Protocol):
    """Where metrics go."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


def check_trackers(names: Sequence[Tracker]) -> None:
    """
    Raises:
        UserError: a client that is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            fix = f'pip install "vistruct[{name}]"'
            raise UserError(f"{name} is not installed", where=f"--log {name}", fix=fix)


def open_trackers(run: Run, out_dir: Path) -> list[Tracking]:
    """Those that a run asks for; a new record for each, or the one that it had."""
    kept = read_cached(out_dir / NAMES, dict[str, str]) or {}
    values = {key: value for key, value in flat(run.model_dump(mode="json")).items() if value is not None}
    opened: list[Tracking] = []
    for name in run.log:
        one: Any = (Wandb if name == "wandb" else Mlflow)(out_dir, values, kept.get(name))
        kept[name] = one.id
        opened.append(one)
    if opened:
        write_json(out_dir / NAMES, kept)
    return opened


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, out_dir: Path, values: Mapping[str, Any], id: str | None) -> None:
        import wandb

        self.id = id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=out_dir.name, id=self.id, resume="allow",
            dir=str(out_dir), config=dict(values),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")  # steps that are taken again have an earlier number

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        """End the record, and wait until it is sent."""
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow."""

    def __init__(self, out_dir: Path, values: Mapping[str, Any], id: str | None) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        files = (out_dir.resolve().parent / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", files))
        self.id = id or self._begun(out_dir.name)
        params = [Param(key, str(value)[:500]) for key, value in values.items()] if id is None else []
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self.id, params=params[first : first + MOST_PARAMS])

    def _begun(self, name: str) -> str:
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = self._client.create_experiment(PROJECT) if known is None else known.experiment_id
        return self._client.create_run(experiment, run_name=name).info.run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[Metric(name, float(v), now, step) for name, v in values.items()])

    def close(self, failed: bool) -> None:
        """Say how it came out."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")
