"""A loader process that is killed in the middle of a run, as the kernel does when memory runs out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from several_processes import samples_by_step, train_in_ranks
from toy_engine import toy_run

from vistruct.checkpoint.save import step_of, steps
from vistruct.checkpoint.tensors import sha256

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

STEPS = 60


def kill_a_worker(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 20 and rank == 0:
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        os.kill(workers[1].pid or 0, signal.SIGKILL)
        out_dir.with_suffix(".killed").write_text(str(time.time()))


@pytest.mark.parametrize("world", [1, 2])
def test_the_run_ends_within_seconds_and_goes_on_exactly(tmp_path, world):
    run, cut = toy_run(steps=STEPS, save_every=3, workers=2), tmp_path / "cut"
    codes = train_in_ranks(world, run, cut, kill_a_worker)
    ended = time.time()
    assert codes[0] == 2
    assert all(code not in (0, None) for code in codes)
    assert ended - float(cut.with_suffix(".killed").read_text()) < 20  # a second or two where nothing else runs
    what, where, fix = Path(f"{cut}.0.err").read_text().splitlines()
    assert "a loader worker" in what
    assert "worker process" in where
    assert "workers" in fix
    assert step_of(steps(cut / "checkpoints")[0]) >= 18
    assert train_in_ranks(world, run, cut) == [0] * world
    seen = samples_by_step(cut, world)
    assert sorted(seen) == list(range(1, STEPS + 1))
    for epoch in range(STEPS // 3):  # 24 samples in steps of 8
        assert len({sample for step in range(3) for sample in seen[3 * epoch + step + 1]}) == 24
    assert train_in_ranks(world, run, tmp_path / "whole") == [0] * world
    model = Path("model", "model.safetensors")
    assert sha256(cut / model) == sha256(tmp_path / "whole" / model)
