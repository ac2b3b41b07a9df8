"""Contrast as a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks

from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import Trainable
from vistruct.engine.run import build
from vistruct.engine.train import train
from vistruct.recipes import contrast
from vistruct.samples.made_classes import eurosat_folder


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path) -> None:
    run = contrast.tiny().model_copy(update={"save_every": 2})
    train(run, tmp_path / "whole")

    class Cut(Exception):
        pass

    def cut(done: int, _metrics: dict[str, float]) -> None:
        if done == 3:
            raise Cut

    with pytest.raises(Cut):
        train(run, tmp_path / "cut", on_step=cut)
    train(run, tmp_path / "cut")
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut")]
    assert sha256(files[0]) == sha256(files[1])
    again = contrast.recipe(data=(eurosat_folder(),), model="small", start=tmp_path / "whole", steps=1, size=32)
    assert again.only.task.backbone == run.only.task.backbone  # ty: ignore[unresolved-attribute]


def test_two_ranks_leave_the_queues_and_the_slow_encoder_of_one(tmp_path: Path) -> None:
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "two")]
    short = contrast.tiny().model_copy(update={"evals": {}, "amp": "off", "steps": 3})
    train(short, tmp_path / "whole")
    assert train_in_ranks(2, short, tmp_path / "two") == [0, 0]
    one, two = map(read_tensors, files)
    assert torch.equal(one["queues.view.owners"], two["queues.view.owners"])
    for name in ("queues.place.vectors", "slow.heads.view.1.weight"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-3)


def test_published_settings() -> None:
    run = contrast.recipe(data=(Path("images"),))
    assert (run.only.batch, run.steps, run.optim.lr) == (256, 370_000, 1.5e-4)
    task = run.only.task
    assert (task.hidden, task.width, task.temperature, task.momentum) == (2048, 128, 0.2, 0.999)  # ty: ignore[unresolved-attribute]
    assert run.only.loss_weights == {"view": 0.5, "place": 0.5}


def test_the_slow_encoder_follows_what_an_adapter_adds(tmp_path: Path) -> None:
    run = contrast.tiny().model_copy(update={"trainable": (Trainable(pattern="backbone", mode="lora"),)})
    model: Any = build(run, tmp_path).model
    fast, slow = (one.encoder.layers[0].mlp.fc1 for one in (model.backbone, model.slow["backbone"]))
    with torch.no_grad():
        fast.lora_B.normal_()
    model.before_step(0, 6)
    assert not hasattr(slow, "lora_B")
    x = torch.randn(2, 32)
    torch.testing.assert_close(slow(x), fast.eval()(x))
