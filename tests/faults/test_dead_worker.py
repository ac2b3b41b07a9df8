"""A loader process that is killed in the middle of a run, as the kernel does when memory runs out."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from several_processes import samples_by_step, train_in_ranks
from toy_engine import ToyDataset, toy_run

from vistruct.checkpoint.save import step_of, steps
from vistruct.checkpoint.tensors import sha256
from vistruct.data.loading import fetch
from vistruct.errors import UserError

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


class LostConnection:
    """A loader of torch's whose first worker is killed, and whose queue then breaks before the system calls it dead.

    In one of ten kills it comes to this by itself.
    """

    def __init__(self, **_: Any) -> None:
        self._workers = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)) for _ in range(2)]

    def __iter__(self) -> LostConnection:
        for worker in self._workers:
            worker.start()
        return self

    def __next__(self) -> None:
        threading.Timer(0.2, self._workers[0].kill).start()
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_a_connection_that_breaks_is_a_worker_that_died(monkeypatch):
    monkeypatch.setattr(fetch, "DataLoader", lambda _, **settings: LostConnection(**settings))
    data = ToyDataset()
    with pytest.raises(UserError, match="was killed by signal 9"):
        next(fetch.batches_of(fetch.Fetch(data, list, 0), iter([[(0, 0)]]), workers=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("text", ["Caught OSError in DataLoader worker process 0.", "of this process"])
def test_an_error_that_is_not_of_a_dead_worker_stays_what_it_is(monkeypatch, text):
    def other(self: LostConnection) -> None:
        raise OSError(text)

    monkeypatch.setattr(LostConnection, "__next__", other)
    monkeypatch.setattr(fetch, "DataLoader", lambda _, **settings: LostConnection(**settings))
    with pytest.raises(OSError, match=text):
        next(fetch.batches_of(fetch.Fetch(ToyDataset(), list, 0), iter([[(0, 0)]]), workers=2))
    assert not multiprocessing.active_children()
