"""Several processes over gloo against one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from several_processes import in_ranks, train_in_ranks
from toy_engine import ToyBackboneConfig, ToyDataConfig, ToyTaskConfig, toy_eval, toy_run

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Trainable
from vistruct.distributed.ranks import Ranks, all_reduce_sum, any_rank, from_main, gather_objects, setup

CALM = ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))


def lines(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out_dir = tmp_path_factory.mktemp("alone") / "run"
    assert train_in_ranks(1, toy_run(**SETTINGS), out_dir) == [0]
    return out_dir


SETTINGS = {"task": CALM, "evals": {"val": toy_eval(), "loss": toy_eval(losses=True)}, "eval_every": 5}


@pytest.mark.parametrize(("world", "parallel"), [(2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")])
def test_several_processes_take_the_same_steps_as_one(tmp_path, alone, world, parallel):
    # Their samples have 0 to 3 units each; the seven that are evaluated leave ranks with different numbers of them.
    run = toy_run(**SETTINGS, accumulate=2 if world == 2 else 1, parallel=parallel)
    assert train_in_ranks(world, run, tmp_path / "run") == [0] * world
    assert ("spread over them" in (tmp_path / "run" / "train.log").read_text()) == (parallel == "fsdp")
    one, several = (read_tensors(d / "model" / "model.safetensors") for d in (alone, tmp_path / "run"))
    del one["seen"], several["seen"]  # counts what this process has seen
    assert one.keys() == several.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(several[name], tensor, rtol=1e-5, atol=1e-6)
    first, second = lines(alone), lines(tmp_path / "run")
    for metric in ("loss", "grad_norm"):
        assert [m[metric] for m in second] == pytest.approx([m[metric] for m in first], rel=1e-4)
    for name in ("val/number", "val/ordered", "val/sum", "loss/loss"):
        assert second[-1][name] == pytest.approx(first[-1][name], rel=1e-4)


def test_what_a_spread_model_ships_has_its_adapters_merged(tmp_path):
    moves = (Trainable(pattern="backbone.blocks", mode="lora"), Trainable(pattern="backbone.embed", mode="frozen"))
    run = toy_run(task=CALM, trainable=moves, snapshots=(5,))
    assert train_in_ranks(1, run, tmp_path / "one") == [0]
    assert train_in_ranks(2, run.model_copy(update={"parallel": "fsdp"}), tmp_path / "two") == [0, 0]
    for part in ("model/model", "backbone/backbone", "adapters/adapter_model", "adapters/step_000005/adapter_model"):
        one, two = (read_tensors(tmp_path / d / f"{part}.safetensors") for d in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one.keys() - {"seen"}:
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    bases = [json.loads((tmp_path / d / "adapters" / "base.json").read_text())["layers"] for d in ("one", "two")]
    before, same = [{name: prints[0] for name, prints in one.items()} for one in bases]
    assert before == same
    assert before
    cards = [json.loads((tmp_path / d / "model" / "model.json").read_text()) for d in ("one", "two")]
    assert cards[0]["parameters"] == cards[1]["parameters"] == 546


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_gradient_that_is_not_finite_on_one_rank_stops_all_alike(tmp_path, parallel):
    run = toy_run(data=ToyDataConfig(poison=7), parallel=parallel, save_every=1, keep=100)
    assert train_in_ranks(2, run, tmp_path / "run") == [2, 2]
    said = [Path(f"{tmp_path / 'run'}.{rank}.err").read_text() for rank in range(2)]
    assert said[0] == said[1]
    (file,) = (tmp_path / "run").glob("non_finite_step_*.json")
    found = json.loads(file.read_text())
    assert "s7" in found["samples"]
    assert len(found["samples"]) == 8
    assert "head.weight" in found["parameters"]
    steps = [line["step"] for line in lines(tmp_path / "run")]
    assert steps == list(range(1, found["step"]))  # the step is not taken, and those before it are saved
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == len(steps)


def tell_each_other(out: str) -> None:
    ranks = setup()
    here = torch.full((3,), float(ranks.rank + 1))
    heard = {
        "sum": all_reduce_sum(here).tolist(),
        "all": gather_objects(ranks.rank),
        "main": from_main(f"rank {ranks.rank}"),
        "any": any_rank(ranks.rank == 1, False),
    }
    Path(out, str(ranks.rank)).write_text(json.dumps(heard))


def test_every_rank_hears_the_same(tmp_path):
    assert in_ranks(2, tell_each_other, str(tmp_path)) == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    assert first["sum"] == [3.0, 3.0, 3.0]
    assert first["all"] == [0, 1]
    assert first["main"] == "rank 0"
    assert first["any"] == [True, False]


def test_alone_everything_is_what_it_was():
    assert setup() == Ranks(device=setup().device)
    assert gather_objects("x") == ["x"]
    assert from_main("x") == "x"
    assert all_reduce_sum(torch.ones(2)).tolist() == [1.0, 1.0]
    assert any_rank(True, False) == (True, False)
