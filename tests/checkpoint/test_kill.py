"""What a process cannot catch: kill -9 at any moment, and a disk that runs full."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from pathlib import Path

import pytest
from several_processes import begin_training, train_in_ranks
from toy_engine import ToyBackboneConfig, ToyTaskConfig, toy_run

from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix")

STEPS = 50
SIZE_LIMIT = 40_000  # bytes; less than one checkpoint of the big task, more than its records


def final(out_dir: Path) -> list[str]:
    """Digests of the model and of the last checkpoint: weights and optimiser state."""
    last = steps(out_dir / "checkpoints")[0]
    return [sha256(out_dir / "model" / "model.safetensors"), *map(sha256, sorted(last.glob("*.safetensors")))]


def losses(out_dir: Path) -> list[tuple[int, float]]:
    lines = (out_dir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_kill_at_any_moment_and_restart_ends_bit_identical(tmp_path):
    run, cut = toy_run(steps=STEPS, save_every=2), tmp_path / "cut"
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    chance = random.Random(0)
    kills = 0
    for moment in (0, 4, 13, 22, 31, 40):  # steps after which the kill comes, and a little later
        (process,) = begin_training(1, run, cut)
        while lines_of(cut / "metrics.jsonl") < moment and process.is_alive():
            time.sleep(0.001)
        process.join(chance.uniform(0.0, 0.04))
        process.kill()
        process.join()
        kills += process.exitcode == -9 and not (cut / "model" / "model.json").exists()
    assert train_in_ranks(1, run, cut) == [0]
    assert kills >= 3  # on a busy machine one may come too late
    assert final(cut) == final(tmp_path / "whole")
    assert losses(cut) == losses(tmp_path / "whole")
    assert [step for step, _ in losses(cut)] == list(range(1, STEPS + 1))
    assert not list((cut / "checkpoints").glob(".*"))


def full_at_6(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))
    if step > 8:  # saved in the background meanwhile: time for it to fail
        time.sleep(0.05)


@pytest.mark.parametrize(("world", "save_async"), [(1, True), (2, True), (1, False)])
def test_a_full_disk_stops_with_three_lines_and_the_last_good_checkpoint_goes_on(tmp_path, world, save_async):
    big = ToyTaskConfig(backbone=ToyBackboneConfig(width=96 if world == 2 else 64))  # 47 kB of weights, or more
    run, cut = toy_run(task=big, steps=16, save_async=save_async), tmp_path / "cut"
    assert train_in_ranks(world, run, tmp_path / "whole") == [0] * world
    assert train_in_ranks(world, run, cut, full_at_6) == [2] * world
    for rank in range(world):
        what, where, fix = Path(f"{cut}.{rank}.err").read_text().splitlines()
        assert what == "the disk is full"
        assert "checkpoints" in where
        assert "run the same command again" in fix
    assert lines_of(cut / "metrics.jsonl") < 16  # it did not train on to the end without a checkpoint
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["step_00000004"]
    assert train_in_ranks(world, run, cut) == [0] * world
    assert final(cut) == final(tmp_path / "whole")
