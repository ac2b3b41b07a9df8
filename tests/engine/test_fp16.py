"""Gradients of fp16 are scaled: close to float32, resumed to the bit, and a step that overflows is skipped and said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from toy_engine import ToyTask, toy_run

from vistruct.checkpoint.manifest import read_manifest
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.contracts import StepOutput
from vistruct.engine.step import NonFiniteGradient
from vistruct.engine.train import train
from vistruct.recipes import segment
from vistruct.recipes.fit import Fit
from vistruct.samples.made_maps import loveda_folder


def steep(monkeypatch: pytest.MonkeyPatch, slope: float) -> None:
    """A loss whose gradients are larger, and its value the same."""
    forward = ToyTask.forward

    def larger(self: ToyTask, batch: Any) -> StepOutput:
        out = forward(self, batch)
        terms = {name: term + slope * (term - term.detach()) for name, term in out.terms.items()}
        return StepOutput(terms=terms, metrics=out.metrics)

    monkeypatch.setattr(ToyTask, "forward", larger)


def test_it_is_close_to_float32(tmp_path, monkeypatch):
    steep(monkeypatch, -0.99)  # none overflows
    half, whole = (train(toy_run(amp=amp), tmp_path / amp) for amp in ("fp16", "off"))
    one, other = (read_tensors(out / "model" / "model.safetensors") for out in (half, whole))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0.05, atol=0.02)
    assert sha256(half / "model" / "model.safetensors") != sha256(whole / "model" / "model.safetensors")
    assert "precision: fp16, gradients scaled" in (half / "train.log").read_text()


def test_overflow_skips_a_step_and_a_cut_run_has_the_same_scale(tmp_path, monkeypatch):
    steep(monkeypatch, 5e2)

    def cut(step: int, _metrics: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    run = toy_run(amp="fp16", clip_norm=None)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", on_step=cut)
    cut_run, out = train(run, tmp_path / "cut"), train(run, tmp_path / "whole")
    assert sha256(out / "model" / "model.safetensors") == sha256(cut_run / "model" / "model.safetensors")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    skipped = [row for row in rows if row["overflow"]]
    assert 0 < len(skipped) < 12
    assert rows[-1]["loss_scale"] == 65536 / 2 ** len(skipped)
    assert "gradients overflow in fp16: the step is skipped" in (out / "train.log").read_text()
    scaler = read_manifest(steps(out / "checkpoints")[0]).scaler
    assert scaler is not None
    assert scaler["scale"] == rows[-1]["loss_scale"]


def test_a_gradient_that_no_scale_mends_is_an_error(tmp_path, monkeypatch):
    steep(monkeypatch, 1e39)
    with pytest.raises(NonFiniteGradient):
        train(toy_run(amp="fp16", steps=30), tmp_path / "run")


def test_recipes_call_it_precision():
    for word, amp in {"fp16": "fp16", "float32": "off", None: "auto"}.items():
        fit = Fit(precision=word)  # ty: ignore[invalid-argument-type]
        assert segment.recipe(data=loveda_folder(), split="train", fit=fit).amp == amp
