"""A rank that is killed: what the other one says, and that it ends. (What is left and goes on: distributed.)"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from several_processes import begin, command, finish
from toy_engine import toy_run

from vistruct.config import run_to_yaml
from vistruct.distributed import ranks
from vistruct.distributed.launch import LOST
from vistruct.distributed.ranks import TIMEOUT, setup

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


def kill_rank_1_in_step_4() -> None:
    import vistruct.engine.train as engine

    train_step = engine.train_step

    def deadly(state: Any, batches: Any) -> dict[str, float]:
        if state.step == 3 and state.ranks.rank == 1:
            Path(f"{state.out_dir}.killed").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(state, batches)

    mock.patch.object(engine, "train_step", deadly).start()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_other_ends_at_once_with_three_lines_about_it(tmp_path, parallel):
    file, out_dir = tmp_path / "run.yaml", tmp_path / "run"
    file.write_text(run_to_yaml(toy_run(parallel=parallel)))
    train = ["train", "-c", str(file), "--out", str(out_dir)]
    assert command(train, tmp_path / "said", kill_rank_1_in_step_4, world=2) == [LOST, -signal.SIGKILL]
    assert time.time() - float(Path(f"{out_dir}.killed").read_text()) < 30
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    lines = said.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "where", "try"]
    assert "another process of this run has ended" in lines[0]
    assert "resumes from the last checkpoint" in lines[2]


def die_on_the_way_to_a_group(which: str) -> None:
    """Rank 1 dies before the group of words, before a further one, or while that is being made."""
    rank, new_group = int(os.environ["RANK"]), dist.new_group

    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if rank == 1 and which == "words":
        ranks.patient_group = killed  # ty: ignore[invalid-assignment]
    setup()
    if rank == 1:
        dist.new_group = killed if which == "meanwhile" else new_group  # ty: ignore[invalid-assignment]
        if which == "further":
            killed()
    ranks.patient_group()


@pytest.mark.parametrize(("which", "most_s"), [("words", 10), ("further", 10), ("meanwhile", 20)])
def test_nobody_waits_for_a_rank_that_died_while_groups_are_made(which, most_s):
    processes = begin(2, in_environment, which, "3" if which == "meanwhile" else "600")
    codes = finish(processes, timeout_s=most_s)
    for process in processes:
        process.kill()
    assert codes == [1, -signal.SIGKILL]


def in_environment(which: str, timeout: str) -> None:
    os.environ[TIMEOUT] = timeout  # the server of processes began with another
    (come_late if which == "late" else die_on_the_way_to_a_group)(which)


def come_late(_which: str) -> None:
    """One after the other keeps its fellow waiting longer than the timeout, in words."""
    place = setup()
    group = ranks.patient_group()
    for late in range(2):
        if place.rank == late:
            time.sleep(3)
        assert ranks.gather_objects(place.rank, group) == ranks.gather_objects(place.rank) == [0, 1]


def test_a_rank_that_only_takes_its_time_is_waited_for():
    assert finish(begin(2, in_environment, "late", "2")) == [0, 0]
