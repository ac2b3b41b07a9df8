"""A gradient that turns NaN or infinite while the loss is an ordinary number, on any one rank."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_engine
from several_processes import train_in_ranks
from toy_engine import toy_run

from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import sha256


def broken_at_6(out_dir: Path, rank: int, step: int, metrics: dict[str, float], *, value: float, at_rank: int) -> None:
    """Once five steps are done, the next gradient that reaches the head has one bad number in it, on one rank."""
    if step != 5 or rank != at_rank:
        return
    forward = toy_engine.ToyTask.forward

    def poisoned(self: Any, batch: Any) -> Any:
        out = forward(self, batch)
        total = out.terms["brightness"]
        assert math.isfinite(float(total))
        if total.requires_grad:
            total.register_hook(lambda gradient: gradient * value)
        return out

    toy_engine.ToyTask.forward = poisoned


@pytest.mark.parametrize(("world", "at_rank", "value"), [(1, 0, math.nan), (1, 0, math.inf), (2, 1, math.nan)])
def test_all_stop_before_the_update_and_the_same_command_goes_on(tmp_path, world, at_rank, value):
    run, cut = toy_run(steps=9, save_every=1, keep=9), tmp_path / "cut"
    inject = functools.partial(broken_at_6, value=value, at_rank=at_rank)
    assert train_in_ranks(world, run, cut, inject) == [2] * world
    said = [Path(f"{cut}.{rank}.err").read_text() for rank in range(world)]
    assert len(set(said)) == 1
    assert "step 6: loss 0." in said[0]  # it looked healthy
    assert "the weights are untouched" in said[0]
    (file,) = cut.glob("non_finite_step_*.json")
    found = json.loads(file.read_text())
    assert (found["step"], len(found["samples"])) == (6, 8)
    assert found["parameters"]
    assert steps(cut / "checkpoints")[0].name == "step_00000005"
    for path in steps(cut / "checkpoints"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in read_weights(path).values())
    assert train_in_ranks(world, run, cut) == [0] * world
    assert train_in_ranks(world, run, tmp_path / "whole") == [0] * world
    model = Path("model", "model.safetensors")
    assert sha256(cut / model) == sha256(tmp_path / "whole" / model)
