"""Which weights a run leaves, however it was stopped and on however many ranks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import train_in_ranks
from toy_engine import ToyDataConfig, ToyMetricConfig, toy_eval, toy_run

from vistruct.checkpoint.adapters import read_adapters
from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.manifest import Standing, read_manifest
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import step_of, steps
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import Eval, Judge, Run, Trainable
from vistruct.engine.best import judged
from vistruct.engine.train import train
from vistruct.errors import UserError

BEST = 6  # step; seen by test_model_is_of_the_best_step_and_last_of_the_last


def best_run(**changes: Any) -> Run:
    """Measured every other step, best in the middle."""
    told = {"evals": {"val": toy_eval()}, "eval_every": 2, "keep_model": "best", "save_every": 5, "keep": 1}
    return toy_run(**told | changes)


def left(out: Path) -> dict[str, Any]:
    """Everything that a run has decided and shipped."""
    files = ("model/model.safetensors", "last/model/model.safetensors", "backbone/backbone.safetensors")
    found: dict[str, Any] = {name: sha256(out / name) for name in files}
    found |= {name: json.loads((out / name).read_text()) for name in ("result.json", "evaluations/val.json")}
    return found


def same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)


def test_model_is_of_the_best_step_and_last_of_the_last(tmp_path):
    out = train(best_run(), tmp_path / "best")
    plain = train(best_run(keep_model="last", keep=99, save_every=1), tmp_path / "plain")
    measured = {row["step"]: row["val/sum"] for row in map(json.loads, (plain / "metrics.jsonl").open())
                if "val/sum" in row}  # fmt: skip
    assert max(measured, key=lambda step: measured[step]) == BEST
    at = {step_of(path): read_weights(path) for path in steps(plain / "checkpoints")}
    assert same(read_tensors(out / "model" / "model.safetensors"), at[BEST])
    assert same(read_tensors(out / "last" / "model" / "model.safetensors"), at[12])
    assert not same(at[BEST], at[12])
    assert load_model(out / "last")[1].values["step"] == 12
    assert load_model(out)[1].values["step"] == BEST
    result = json.loads((out / "result.json").read_text())
    assert (result["best"], result["last"]) == (measured[BEST], measured[12])
    shown = json.loads((out / "evaluations" / "val.json").read_text())
    assert (shown["step"], shown["numbers"]["sum"]) == (BEST, measured[BEST])
    shown = json.loads((out / "last" / "evaluations" / "val.json").read_text())
    assert (shown["step"], shown["numbers"]["sum"]) == (12, measured[12])
    said = (out / "train.log").read_text().splitlines()[-3:]
    assert "val, step 6: number 7" in said[0]
    assert "best by val/sum: 1.294, step 6; last: 1.18, step 12" in said[1]
    assert f"the best by val/sum {measured[BEST]:.4g} at step 6" in (out / "model" / "README.md").read_text()
    assert not (plain / "last").exists()
    assert same(read_tensors(plain / "model" / "model.safetensors"), at[12])


def test_checkpoints_keep_the_best_beside_the_newest(tmp_path):
    out = train(best_run(), tmp_path / "run")
    assert [step_of(path) for path in steps(out / "checkpoints")] == [12, BEST]
    assert read_manifest(steps(out / "checkpoints")[0]).standing == Standing(
        best_step=BEST, best=json.loads((out / "result.json").read_text())["best"],
        last=json.loads((out / "result.json").read_text())["last"], since=3,
    )  # fmt: skip


def killed_once(out_dir: Path, rank: int, step: int, _metrics: dict[str, float]) -> None:
    mark = Path(f"{out_dir}.{rank}.killed")
    if step == 9 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("at", [5, 7, 9])
def test_a_run_that_was_cut_short_leaves_what_it_would_have_left(tmp_path, at):
    def cut(step: int, _metrics: dict[str, float]) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(best_run(), tmp_path / "cut", on_step=cut)
    assert left(train(best_run(), tmp_path / "cut")) == left(train(best_run(), tmp_path / "whole"))


def test_a_killed_run_spread_over_two_ranks_leaves_what_it_would_have_left(tmp_path):
    run = best_run(parallel="fsdp")
    assert train_in_ranks(2, run, tmp_path / "whole") == [0, 0]
    assert -signal.SIGKILL in train_in_ranks(2, run, tmp_path / "cut", killed_once)
    assert train_in_ranks(2, run, tmp_path / "cut", killed_once) == [0, 0]
    assert left(tmp_path / "cut") == left(tmp_path / "whole")
    assert left(tmp_path / "cut")["result.json"]["step"] < 12


def test_a_finished_run_ships_the_same_again(tmp_path):
    before = left(train(best_run(), tmp_path / "run"))
    assert left(train(best_run(), tmp_path / "run")) == before


def test_patience_ends_a_run_and_measures_what_is_due_at_the_end(tmp_path):
    evals = {"val": toy_eval(), "end": Eval(data=ToyDataConfig(size=3), metric=ToyMetricConfig(), at_end=True)}
    run = best_run(steps=100, patience=2, evals=evals, best_by="val/sum")
    out = train(run, tmp_path / "run")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    result = json.loads((out / "result.json").read_text())
    assert (result["last_step"], result["planned_steps"]) == (result["best_step"] + 4, 100)
    assert [row["step"] for row in rows if "end/sum" in row] == [result["last_step"]]
    assert json.loads((out / "evaluations" / "end.json").read_text())["step"] == result["best_step"]
    assert f"ended early, after step {result['last_step']} of 100" in (out / "train.log").read_text()
    before = left(out)
    assert left(train(run, out)) == before  # it is not taken up again


def test_adapters_lie_beside_the_weights_that_they_are_in(tmp_path):
    out = train(best_run(trainable=(Trainable(pattern="backbone", mode="lora"),)), tmp_path / "run")
    assert (out / "last" / "model" / "model.json").exists()
    for place in (out, out / "last"):
        card = json.loads((place / "model" / "model.json").read_text())
        assert [record["digest"] for record in card["adapters"]] == [read_adapters(place).digest]
    assert sha256(out / "adapters" / "adapter_model.safetensors") != sha256(
        out / "last" / "adapters" / "adapter_model.safetensors"
    )


def test_a_best_checkpoint_that_was_damaged_is_said_and_the_last_shipped(tmp_path):
    out = train(best_run(), tmp_path / "run")
    shard = next((out / "checkpoints" / f"step_{BEST:08d}").glob("shard*"))
    shard.write_bytes(b"no" + shard.read_bytes()[2:])
    train(best_run(), out)
    assert "the best step's checkpoint, step_00000006, is damaged" in (out / "train.log").read_text()
    assert json.loads((out / "model" / "model.json").read_text())["step"] == 12
    assert not (out / "last").exists()


def test_a_number_that_is_not_finite_is_never_the_best():
    low = Judge(evaluation="val", number="loss", higher_is_better=False)
    standing = judged(low, Standing(), 2, {"val/loss": float("nan")})
    assert standing == Standing(since=1)
    standing = judged(low, standing, 4, {"val/loss": 0.5})
    assert standing == Standing(best_step=4, best=0.5, last=0.5)
    for step, value in ((6, float("inf")), (8, 0.5)):  # as good is not better
        standing = judged(low, standing, step, {"val/loss": value})
    assert standing == Standing(best_step=4, best=0.5, last=0.5, since=2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"evals": {}, "keep_model": "last", "patience": 2}, "patience needs an evaluation"),
        ({"eval_every": None, "patience": 2}, "measured at the end only"),
        ({"best_by": "test/sum"}, "no evaluation 'test'"),
        ({"best_by": "val/number"}, "neither more nor less of val/number is better"),
        ({"evals": {"a": toy_eval(), "b": toy_eval()}}, "2 evaluations"),
        ({"epochs": 3.0}, "steps=12 and epochs=3 both"),
    ],
)
def test_what_cannot_choose_is_refused(changes, what):
    with pytest.raises(UserError, match=what):
        best_run(**changes)


def test_a_number_that_is_not_measured_is_refused_at_the_first_evaluation(tmp_path):
    with pytest.raises(UserError, match="judged by val/summ, which was not measured") as caught:
        train(best_run(best_by="val/summ"), tmp_path / "run")
    assert "val/sum" in caught.value.fix
