"""What a process cannot catch: kill -9 at any moment, and a disk that runs full."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from toy_engine import ToyBackboneConfig, ToyTaskConfig, toy_run

from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256
from vistruct.config import Run, read_run, run_to_yaml
from vistruct.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix")

STEPS = 50
SIZE_LIMIT = 40_000  # bytes; less than one checkpoint of `big_run`, more than its records


@pytest.fixture(scope="module")
def processes():
    """Fresh processes without seconds of imports each: one server imports, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vistruct.engine.train", "torch.utils.tensorboard", "pytest"])
    return context


def train_alone(run_file: str, out_dir: str, full_at: int | None = None) -> None:
    """Train in this process; exit code 2 is a UserError, printed to out_dir.err."""
    import vistruct.engine.train as engine

    torch.set_num_threads(1)
    toy_run()

    def on_step(step: int, _metrics: dict[str, float]) -> None:
        if step == full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))

    try:
        with mock.patch.object(engine, "write_run_report"):  # not what is tested, and slow
            engine.train(read_run(Path(run_file)), Path(out_dir), on_step=on_step)
    except UserError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))
        Path(f"{out_dir}.err").write_text(str(error))
        sys.exit(2)


def begin(processes, run: Run, out_dir: Path, full_at: int | None = None):
    toy_run()
    file = out_dir.with_suffix(".yaml")
    file.write_text(run_to_yaml(run))
    process = processes.Process(target=train_alone, args=(str(file), str(out_dir), full_at))
    process.start()
    return process


def finish(processes, run: Run, out_dir: Path, full_at: int | None = None) -> int | None:
    process = begin(processes, run, out_dir, full_at)
    process.join(120)
    return process.exitcode


def final(out_dir: Path) -> list[str]:
    """Digests of the model and of the last optimiser state."""
    last = steps(out_dir / "checkpoints")[0]
    return [sha256(file) for file in (out_dir / "model" / "model.safetensors", last / "optimizer.safetensors")]


def losses(out_dir: Path) -> list[tuple[int, float]]:
    lines = (out_dir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_kill_at_any_moment_and_restart_ends_bit_identical(tmp_path, processes):
    run, cut = toy_run(steps=STEPS, save_every=2), tmp_path / "cut"
    assert finish(processes, run, tmp_path / "whole") == 0
    chance = random.Random(0)
    kills = 0
    for moment in (0, 4, 13, 22, 31, 40):  # steps after which the kill comes, and a little later
        process = begin(processes, run, cut)
        while lines_of(cut / "metrics.jsonl") < moment and process.is_alive():
            time.sleep(0.001)
        process.join(chance.uniform(0.0, 0.04))
        process.kill()
        process.join()
        kills += process.exitcode == -9 and not (cut / "model" / "model.json").exists()
    assert finish(processes, run, cut) == 0
    assert kills >= 3  # on a busy machine one may come too late
    assert final(cut) == final(tmp_path / "whole")
    assert losses(cut) == losses(tmp_path / "whole")
    assert [step for step, _ in losses(cut)] == list(range(1, STEPS + 1))
    assert not list((cut / "checkpoints").glob(".*"))


def test_a_full_disk_stops_with_three_lines_and_the_last_good_checkpoint_goes_on(tmp_path, processes):
    big = ToyTaskConfig(backbone=ToyBackboneConfig(width=64))  # 47 kB of weights
    run = toy_run(task=big)
    assert finish(processes, run, tmp_path / "whole") == 0
    assert finish(processes, run, tmp_path / "cut", full_at=6) == 2
    what, where, fix = Path(f"{tmp_path / 'cut'}.err").read_text().splitlines()
    assert what == "the disk is full"
    assert "checkpoints" in where
    assert "run the same command again" in fix
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step_00000004"]
    assert finish(processes, run, tmp_path / "cut") == 0
    assert final(tmp_path / "cut") == final(tmp_path / "whole")
