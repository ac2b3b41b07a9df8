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
from several_processes import command
from toy_engine import toy_run

from vistruct.config import run_to_yaml
from vistruct.distributed.launch import LOST

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
    assert "goes on from the last checkpoint" in lines[2]
