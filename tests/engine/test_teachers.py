"""Parts of a task that never train, follow the run's progress, and may be what a run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks
from toy_engine import ToyBackboneConfig, ToyTaskConfig, toy_run
from toy_teachers import TaughtConfig

from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import Stream, Trainable
from vistruct.engine.run import build
from vistruct.engine.step import train_step
from vistruct.engine.train import loader_of, started, train, train_steps


def test_a_teacher_starts_as_its_student_never_trains_and_follows(tmp_path: Path) -> None:
    run = toy_run(task=TaughtConfig(), trainable=(Trainable(pattern="teacher"),))  # a rule cannot make it train
    state = build(run, tmp_path)
    task: Any = state.model
    with torch.no_grad():
        task.teacher["backbone"].embed.weight.zero_()  # as if weights had come since
    before = task.backbone.embed.weight.detach().clone()
    batches = iter(loader_of(state))
    train_step(state, next(batches))
    assert torch.equal(task.teacher["backbone"].embed.weight, before)
    assert not task.teacher.training
    assert task.backbone.training
    assert not any(name.startswith("teacher") for name in state.plan.lr_factors)
    train_step(state, next(batches))
    assert task.told == [(0, 12), (1, 12)]
    assert not torch.equal(task.teacher["backbone"].embed.weight, before)
    assert not torch.equal(task.teacher["backbone"].embed.weight, task.backbone.embed.weight)


def test_a_teacher_is_the_student_before_anything_is_measured(tmp_path: Path) -> None:
    with started(toy_run(task=TaughtConfig(), steps=2), tmp_path) as training:
        task: Any = training.state.model
        train_steps(training)
    assert task.told == [(0, 2), (0, 2), (1, 2)]


def test_what_a_task_ships_is_the_runs_backbone(tmp_path: Path) -> None:
    train(toy_run(task=TaughtConfig()), tmp_path / "a")
    model = read_tensors(tmp_path / "a" / "model" / "model.safetensors")
    shipped = read_tensors(tmp_path / "a" / "backbone" / "backbone.safetensors")
    assert shipped.keys() == {k.removeprefix("backbone.") for k in model if k.startswith("backbone.")}
    for name, tensor in shipped.items():
        assert torch.equal(tensor, model[f"teacher.backbone.{name}"])


def test_it_goes_on_to_the_bit(tmp_path: Path) -> None:
    run = toy_run(task=TaughtConfig())
    train(run, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(done: int, _metrics: dict[str, float]) -> None:
        if done == 6:
            raise Cut

    with pytest.raises(Cut):
        train(run, tmp_path / "cut", on_step=cut)
    train(run, tmp_path / "cut")
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut")]
    assert sha256(files[0]) == sha256(files[1])


def test_beside_another_task(tmp_path: Path) -> None:
    calm = ToyBackboneConfig(dropout=0.0)
    run = toy_run()
    taught = Stream(task=TaughtConfig(backbone=calm), data=run.only.data, batch=8)
    plain = Stream(task=ToyTaskConfig(backbone=calm), data=run.only.data, batch=8)
    joint = run.model_copy(update={"streams": {"taught": taught, "plain": plain}, "steps": 2})
    train(joint, tmp_path / "a")
    shipped = read_tensors(tmp_path / "a" / "backbone" / "backbone.safetensors")
    model = read_tensors(tmp_path / "a" / "model" / "taught" / "model.safetensors")
    assert torch.equal(shipped["embed.weight"], model["teacher.backbone.embed.weight"])
    assert not torch.equal(shipped["embed.weight"], model["backbone.embed.weight"])


def test_two_ranks_have_the_teacher_and_the_statistics_of_one(tmp_path: Path) -> None:
    calm = TaughtConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))
    run = toy_run(task=calm, steps=4)
    train(run, tmp_path / "one")
    assert train_in_ranks(2, run, tmp_path / "two") == [0, 0]
    one, two = (read_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name in ("centre", "teacher.backbone.embed.weight", "backbone.embed.weight"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
