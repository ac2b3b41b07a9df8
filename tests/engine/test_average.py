"""The moving average of the weights: by its closed formula, wherever it lies, however a run was cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_processes import train_in_ranks
from test_best import best_run, left
from toy_engine import ToyDataConfig, toy_eval, toy_run

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Trainable
from vistruct.contracts import TaskTraits
from vistruct.engine.average import Averaged, decay_at, in_place
from vistruct.engine.evaluate import evaluate
from vistruct.engine.run import build
from vistruct.engine.train import train
from vistruct.errors import UserError

DECAY = 0.6  # reached at step 6 of 12: (1 + t) / (10 + t) before


def closed(trajectory: list[np.ndarray], decay: float) -> np.ndarray:
    """Sum over steps of each one's weights times the share that is left of them at the end, in float64."""
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(1, len(trajectory))]
    shares = [np.prod(decays), *(((1 - d) * np.prod(decays[t:])) for t, d in enumerate(decays, start=1))]
    assert np.isclose(sum(shares), 1)
    return np.sum([share * weights for share, weights in zip(shares, trajectory, strict=True)], axis=0)


def test_shipped_weights_are_the_closed_formula_of_those_of_all_steps(tmp_path):
    first = build(toy_run(), tmp_path / "first").model.state_dict()
    plain = train(toy_run(save_every=1, keep=99), tmp_path / "plain")
    states = [first, *(read_weights(path) for path in reversed(steps(plain / "checkpoints")))]
    averaged = train(toy_run(ema=DECAY), tmp_path / "averaged")
    shipped = read_tensors(averaged / "model" / "model.safetensors")
    for name, tensor in shipped.items():
        if name == "seen":  # a buffer of no norm is the last one
            assert torch.equal(tensor, states[-1]["seen"])
            continue
        expected = closed([state[name].double().numpy() for state in states], DECAY)
        np.testing.assert_allclose(tensor.double().numpy(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(shipped["head.weight"], states[-1]["head.weight"], atol=1e-4)
    newest = steps(averaged / "checkpoints")[0]
    assert torch.equal(read_weights(newest)["head.weight"], shipped["head.weight"])


def test_the_decay_begins_low_so_that_a_short_run_has_no_initial_weights():
    assert [decay_at(t, 0.999) for t in (1, 8, 100_000)] == [2 / 11, 0.5, 0.999]
    assert np.prod([decay_at(t, 0.9999) for t in range(1, 301)]) < 1e-12


def test_what_is_measured_is_what_is_shipped_and_all_say_so(tmp_path):
    run = best_run(ema=DECAY, keep_model="last")
    out = train(run, tmp_path / "run")
    shown = json.loads((out / "evaluations" / "val.json").read_text())
    assert shown["numbers"]["sum"] == pytest.approx(
        evaluate(load_model(out)[0], run.evals["val"], torch.device("cpu"), 8)["sum"]
    )
    assert json.loads((out / "result.json").read_text())["ema"] == DECAY
    assert "moving average (EMA)" in (out / "model" / "README.md").read_text()
    log = (out / "train.log").read_text()
    assert "measured and shipped: an exponential moving average (EMA) of the weights" in log
    assert "of the averaged weights (EMA)" in log.splitlines()[-2]
    plain = train(best_run(keep_model="last"), tmp_path / "plain")
    losses = [[row["loss"] for row in map(json.loads, (one / "metrics.jsonl").open())] for one in (out, plain)]
    assert losses[0] == losses[1]  # training does not know of it


@pytest.mark.parametrize("at", [5, 9])
def test_a_run_that_was_cut_short_has_the_same_average(tmp_path, at):
    def cut(step: int, _metrics: dict[str, float]) -> None:
        if step == at:
            raise KeyboardInterrupt

    run = best_run(ema=DECAY)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", on_step=cut)
    whole = left(train(run, tmp_path / "whole"))
    assert left(train(run, tmp_path / "cut")) == whole
    assert left(train(run, tmp_path / "cut")) == whole  # a finished run ships the same again


def test_spread_and_whole_models_have_the_same_average(tmp_path):
    same: dict[str, Any] = {"ema": DECAY, "evals": {"val": toy_eval()}, "save_every": 5}
    assert train_in_ranks(2, toy_run(**same), tmp_path / "ddp") == [0, 0]
    assert train_in_ranks(2, toy_run(**same, parallel="fsdp"), tmp_path / "fsdp") == [0, 0]
    one, other = (read_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("ddp", "fsdp"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6)


def test_only_what_trains_is_kept_twice_and_an_exchange_can_be_undone(tmp_path):
    state = build(toy_run(ema=DECAY, trainable=(Trainable(pattern="backbone", mode="frozen"),)), tmp_path)
    assert state.average is not None
    assert set(state.average.tensors) == {"head.weight", "head.bias", "scale"}
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with torch.no_grad():
        state.average.tensors["scale"].fill_(7.0)
    with in_place(state.average):
        assert float(state.model.state_dict()["scale"]) == 7.0
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())


def test_running_statistics_of_batch_norms_are_averaged_too():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2).eval())
    average = Averaged.of(model, 0.5)
    assert set(average.tensors) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "1.running_mean", "1.running_var"
    }  # fmt: skip
    model(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    expected = model[1].running_mean * (1 - 2 / 11)
    average.update(1)
    torch.testing.assert_close(average.tensors["1.running_mean"], expected)


def test_a_run_that_ships_a_teacher_is_not_averaged(tmp_path, monkeypatch):
    from toy_engine import ToyTask

    traits = TaskTraits(prediction="", terms=("brightness",), ships="head")
    monkeypatch.setattr(ToyTask, "traits", property(lambda self: traits))
    with pytest.raises(UserError, match="an average of its own"):
        build(toy_run(ema=DECAY, data=ToyDataConfig()), Path(tmp_path))
