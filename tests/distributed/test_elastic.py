"""A run that goes on: on other numbers of ranks, spread otherwise, after a rank was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from several_processes import begin_training, finish, samples_by_step, train_in_ranks
from toy_engine import ToyBackboneConfig, ToyDataConfig, ToyTaskConfig, toy_run

from vistruct.checkpoint.manifest import read_manifest
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.errors import UserError

# 24 samples in steps of 8: an epoch is 3 steps.
RUN = toy_run(task=ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0)))
EVERYTHING = sorted(f"s{i}" for i in range(24))


def losses(out_dir: Path) -> dict[int, float]:
    return {m["step"]: m["loss"] for m in map(json.loads, (out_dir / "metrics.jsonl").read_text().splitlines())}


def interrupt(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 6:
        raise UserError("interrupted")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("whole") / "run"
    assert train_in_ranks(1, RUN, out_dir) == [0]
    return out_dir


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def four(request, tmp_path_factory) -> Path:
    """A run on four ranks that ended at step 6 with a checkpoint of step 4."""
    out_dir = tmp_path_factory.mktemp(request.param) / "run"
    assert train_in_ranks(4, RUN.model_copy(update={"parallel": request.param}), out_dir, interrupt) == [2] * 4
    assert [path.name for path in steps(out_dir / "checkpoints")] == ["step_00000004"]
    manifest = read_manifest(steps(out_dir / "checkpoints")[0])
    assert (manifest.world, manifest.parallel, len(manifest.files)) == (4, request.param, 4)
    return out_dir


@pytest.mark.parametrize(("world", "parallel"), [(2, "fsdp"), (2, "ddp"), (1, "fsdp"), (1, "ddp")])
def test_a_run_saved_on_four_ranks_goes_on_alike_on_fewer(tmp_path, whole, four, world, parallel):
    shutil.copytree(four, tmp_path / "run")
    assert train_in_ranks(world, RUN.model_copy(update={"parallel": parallel}), tmp_path / "run") == [0] * world
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-4)
    weights, expected = (read_weights(steps(d / "checkpoints")[0]) for d in (tmp_path / "run", whole))
    del weights["seen"], expected["seen"]
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-6)


def kill(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if rank == 1 and step == 7 and not out_dir.with_suffix(".killed").exists():
        out_dir.with_suffix(".killed").touch()
        while not steps(out_dir / "checkpoints"):  # it is written in the background
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_ends_the_others_and_no_sample_is_lost_or_seen_twice(tmp_path, whole, parallel):
    run, out_dir = RUN.model_copy(update={"parallel": parallel}), tmp_path / "run"
    begun = time.monotonic()
    codes = train_in_ranks(2, run, out_dir, kill)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert time.monotonic() - begun < 60  # not the half hour of a collective that waits
    assert steps(out_dir / "checkpoints")[0].name == "step_00000004"
    assert train_in_ranks(2, run, out_dir, kill) == [0, 0]
    seen = samples_by_step(out_dir, 2)
    assert sorted(seen) == list(range(1, 13))
    for epoch in range(4):
        assert sorted(i for step in range(3) for i in seen[3 * epoch + step + 1]) == EVERYTHING
    assert losses(out_dir) == pytest.approx(losses(whole), rel=1e-4)


def tell(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if rank == 0 and step == 3:
        out_dir.with_suffix(".ready").touch()
    time.sleep(0.02)


def test_sigterm_to_one_rank_saves_and_ends_all(tmp_path):
    run = RUN.model_copy(update={"steps": 2000, "save_every": 1000, "data": ToyDataConfig(), "workers": 1})
    out_dir = tmp_path / "run"
    processes = begin_training(2, run, out_dir, tell)
    while not out_dir.with_suffix(".ready").exists():
        time.sleep(0.01)
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    assert finish(processes) == [143, 143]
    (saved,) = steps(out_dir / "checkpoints")
    assert saved.name.removeprefix("step_") == f"{len(losses(out_dir)):08d}"
    assert "SIGTERM: saved at step" in (out_dir / "train.log").read_text()
