"""SIGTERM, as a scheduler sends it before it takes the machine: inside a step, and inside a save."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toy_engine
from several_processes import train_in_ranks
from toy_engine import toy_run

from vistruct.checkpoint.save import fault, step_of, steps
from vistruct.checkpoint.tensors import sha256
from vistruct.engine.stop import EXIT_CODE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

STEPS = 24


def inside(
    out_dir: Path,
    rank: int,
    step: int,
    metrics: dict[str, float],
    *,
    place: str,
    at_rank: int,
    by: int = signal.SIGTERM,
) -> None:
    """From step 5 on, the next step (or the next file of a checkpoint) is interrupted in its middle."""
    if step != 5 or rank != at_rank:
        return
    import vistruct.checkpoint.saver as saver

    target, name = (toy_engine.ToyTask, "forward") if place == "step" else (saver, "write_tensors")
    function = getattr(target, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, function)
        value = function(*args, **kwargs)
        os.kill(os.getpid(), by)
        time.sleep(0.05)  # in a save: training goes on meanwhile
        return value

    setattr(target, name, interrupted)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("place", ["step", "save"])
def test_the_step_ends_the_state_is_saved_and_every_sample_is_seen_once(tmp_path, place, world):
    run, cut = toy_run(steps=STEPS, save_every=4), tmp_path / "cut"
    inject = functools.partial(inside, place=place, at_rank=world - 1)
    assert train_in_ranks(world, run, cut, inject) == [EXIT_CODE] * world
    newest = step_of(steps(cut / "checkpoints")[0])
    # The file may be of the save of step 8, or still of that of step 4 where the machine is busy.
    assert newest == 6 if place == "step" else 6 <= newest < STEPS
    assert all(fault(path) is None for path in steps(cut / "checkpoints"))
    assert not list((cut / "checkpoints").glob(".*"))
    assert f"SIGTERM: saved at step {newest}" in (cut / "train.log").read_text()
    assert train_in_ranks(world, run, cut) == [0] * world
    for rank in range(world):  # no step was taken twice, and none left out
        lines = [json.loads(line) for line in Path(f"{cut}.{rank}.seen").read_text().splitlines()]
        assert [step for step, _ in lines] == list(range(1, STEPS + 1))
    taken = [
        line for rank in range(world) for line in map(json.loads, Path(f"{cut}.{rank}.seen").read_text().splitlines())
    ]
    for epoch in range(STEPS // 3):  # 24 samples in steps of 8
        seen = [sample for step, samples in taken if (step - 1) // 3 == epoch for sample in samples]
        assert sorted(seen) == sorted(f"s{index}" for index in range(24))
    assert train_in_ranks(world, run, tmp_path / "whole") == [0] * world
    model = Path("model", "model.safetensors")
    assert sha256(cut / model) == sha256(tmp_path / "whole" / model)


@pytest.mark.usefixtures("with_a_terminal")
def test_a_closed_terminal_saves_as_well(tmp_path):
    run, cut = toy_run(steps=STEPS, save_every=4), tmp_path / "cut"
    inject = functools.partial(inside, place="step", at_rank=0, by=signal.SIGHUP)
    assert train_in_ranks(1, run, cut, inject) == [EXIT_CODE]
    assert "SIGHUP: saved at step 6" in (cut / "train.log").read_text()
    assert train_in_ranks(1, run, cut) == train_in_ranks(1, run, tmp_path / "whole") == [0]
    model = Path("model", "model.safetensors")
    assert sha256(cut / model) == sha256(tmp_path / "whole" / model)
