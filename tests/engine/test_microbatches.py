"""Micro-batches by memory: the same run however it is cut, before its first step and where memory runs out."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from toy_engine import ToyTask, toy_run

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import read_run
from vistruct.contracts import TaskTraits
from vistruct.engine import memory
from vistruct.engine.memory import fit_to_memory, splits
from vistruct.engine.run import build
from vistruct.engine.train import train
from vistruct.errors import UserError
from vistruct.recipes import find, segment
from vistruct.recipes.fit import USUAL_BATCH
from vistruct.recipes.options import parse
from vistruct.samples.made_maps import loveda_folder


def crowded(monkeypatch: pytest.MonkeyPatch, most: int, from_step: int = 0) -> None:
    """A device with room for so many samples, once so many forward passes are done."""
    forward, calls = ToyTask.forward, [0]

    def limited(self: ToyTask, batch: Any) -> Any:
        out = forward(self, batch)  # buffers have changed by then
        calls[0] += 1
        if len(batch.ids) > most and self.training and calls[0] > from_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return out

    monkeypatch.setattr(ToyTask, "forward", limited)


@pytest.mark.parametrize(("most", "number"), [(8, 1), (5, 2), (1, 8)])
def test_the_largest_micro_batch_that_goes_through_is_taken(tmp_path, monkeypatch, most, number):
    state = build(toy_run(accumulate="auto"), tmp_path)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    crowded(monkeypatch, most)
    said: list[str] = []
    fit_to_memory(state, said.append, tries=True)
    assert state.run.accumulate == number
    assert said == [f"micro-batches of {8 // number}, {number} in a step (tried on the device); the batch is the same"]
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())
    assert all(p.grad is None for p in state.model.parameters())


def test_a_processor_takes_half_of_the_memory_that_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "activation_bytes", lambda state, source: 100)
    for free, number in ((10_000, 1), (1_000, 2), (50, 8)):
        state = build(toy_run(accumulate="auto"), tmp_path / str(free))
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        fit_to_memory(state, lambda text: None)
        assert state.run.accumulate == number
    assert splits(build(toy_run(batch=6), tmp_path / "six")) == [1, 2, 3, 6]


def test_a_run_whose_memory_runs_out_goes_on_with_smaller_micro_batches_and_the_same_batch(tmp_path, monkeypatch):
    quarters = train(toy_run(accumulate=4), tmp_path / "quarters")
    crowded(monkeypatch, most=2)
    out = train(toy_run(accumulate="auto"), tmp_path / "auto")
    # The same as one that was cut so from the beginning, to the bit: what the failed passes did to buffers is undone.
    one, other = (read_tensors(run / "model" / "model.safetensors") for run in (quarters, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = (out / "train.log").read_text()
    assert "step 1: out of memory with micro-batches of 1/1 of the batch: of 1/2 from now on; the batch is" in log
    assert "step 1: out of memory with micro-batches of 1/2 of the batch: of 1/4 from now on; the batch is" in log
    assert read_run(out / "run.yaml").accumulate == 4


def test_it_goes_on_from_the_middle_too(tmp_path, monkeypatch):
    whole = train(toy_run(), tmp_path / "whole")
    crowded(monkeypatch, most=4, from_step=7)
    out = train(toy_run(accumulate="auto"), tmp_path / "auto")
    one, other = (read_tensors(run / "model" / "model.safetensors") for run in (whole, out))
    assert one["seen"] == other["seen"]
    assert "out of memory" in (out / "train.log").read_text()


def test_what_cannot_be_cut_is_said(tmp_path, monkeypatch):
    crowded(monkeypatch, most=0)
    with pytest.raises(UserError, match="one sample does not fit"):
        fit_to_memory(build(toy_run(accumulate="auto"), tmp_path / "a"), print, tries=True)
    for accumulate in (1, "auto"):
        with pytest.raises(UserError, match=r"(?s)out of memory on cpu: CUDA out of memory.*--batch auto"):
            train(toy_run(accumulate=accumulate), tmp_path / f"b{accumulate}")
    traits = TaskTraits(prediction="", terms=("brightness",), after_step=lambda: None)
    monkeypatch.setattr(ToyTask, "traits", property(lambda self: traits))
    with pytest.raises(UserError, match="keeps what it saw"):
        fit_to_memory(build(toy_run(accumulate="auto"), tmp_path / "c"), print)


def test_recipes_take_auto_and_keep_their_batch():
    for name, number in USUAL_BATCH.items():
        assert inspect.signature(find(name).recipe).parameters["batch"].default == number
    values = parse(segment.recipe, ["--data", str(loveda_folder()), "--split", "train", "--batch", "auto"])
    run = segment.recipe(**values)
    assert (run.only.batch, run.accumulate) == (8, "auto")
    assert parse(segment.recipe, ["--data", str(loveda_folder()), "--batch", "4"])["batch"] == 4
