"""Two processes over gloo against one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from toy_engine import ToyBackboneConfig, ToyDataConfig, ToyTaskConfig, toy_eval, toy_run

from vistruct.checkpoint.tensors import read_tensors
from vistruct.config import Run, read_run, run_to_yaml
from vistruct.distributed.ranks import Ranks, all_reduce_sum, any_rank, from_main, gather_objects, setup
from vistruct.errors import UserError

CALM = ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))


def as_rank(rank: int, port: int, work: Any, arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    from vistruct.distributed.ranks import leave

    work(*arguments)
    leave()


def in_two(work: Any, *arguments: Any) -> list[int | None]:
    """Exit codes of two processes that do `work(*arguments)` as ranks 0 and 1."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vistruct.engine.train", "torch.utils.tensorboard", "pytest"])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    both = [context.Process(target=as_rank, args=(rank, port, work, arguments)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def train_here(run_file: str, out_dir: str) -> None:
    import vistruct.engine.train as engine

    toy_run()
    try:
        with mock.patch.object(engine, "write_run_report"):  # not what is tested, and slow
            engine.train(read_run(Path(run_file)), Path(out_dir))
    except UserError as error:
        Path(f"{out_dir}.{os.environ.get('RANK', 'alone')}.err").write_text(str(error))
        sys.exit(2)


def train_in_two(run: Run, out_dir: Path) -> list[int | None]:
    file = out_dir.with_suffix(".yaml")
    file.write_text(run_to_yaml(run))
    return in_two(train_here, str(file), str(out_dir))


def lines(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_take_the_same_steps_as_one(tmp_path):
    run = toy_run(task=CALM, evals={"val": toy_eval(), "loss": toy_eval(losses=True)})
    file = tmp_path / "one.yaml"
    file.write_text(run_to_yaml(run))
    train_here(str(file), str(tmp_path / "one"))
    assert train_in_two(run.model_copy(update={"accumulate": 2}), tmp_path / "two") == [0, 0]

    one, two = (read_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    del one["seen"], two["seen"]  # counts what this process has seen
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6)
    first, second = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [m["loss"] for m in second] == pytest.approx([m["loss"] for m in first], rel=1e-4)
    assert [m["grad_norm"] for m in second] == pytest.approx([m["grad_norm"] for m in first], rel=1e-4)
    for name in ("val/number", "val/ordered", "val/sum", "loss/loss"):  # seven samples: one rank has one more
        assert second[-1][name] == pytest.approx(first[-1][name], rel=1e-4)


def test_a_gradient_that_is_not_finite_on_one_rank_stops_both_alike(tmp_path):
    run = toy_run(data=ToyDataConfig(poison=7))
    assert train_in_two(run, tmp_path / "run") == [2, 2]
    said = [Path(f"{tmp_path / 'run'}.{rank}.err").read_text() for rank in range(2)]
    assert said[0] == said[1]
    (file,) = (tmp_path / "run").glob("non_finite_step_*.json")
    samples = json.loads(file.read_text())["samples"]
    assert "s7" in samples
    assert len(samples) == 8


def tell_each_other(out: str) -> None:
    from vistruct.distributed.gradients import sum_gradients

    ranks = setup()
    here = torch.full((3,), float(ranks.rank + 1))
    both, first, neither = (torch.nn.Parameter(torch.zeros(n)) for n in (3, 2, 1))
    both.grad = here.clone()
    if ranks.is_main:
        first.grad = torch.ones(2)
    sum_gradients([both, first, neither])
    heard = {
        "sum": all_reduce_sum(here).tolist(),
        "all": gather_objects(ranks.rank),
        "main": from_main(f"rank {ranks.rank}"),
        "any": [any_rank(ranks.rank == 1), any_rank(False)],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (both, first, neither)],
    }
    Path(out, str(ranks.rank)).write_text(json.dumps(heard))


def test_every_rank_hears_the_same(tmp_path):
    assert in_two(tell_each_other, str(tmp_path)) == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    assert first["sum"] == [3.0, 3.0, 3.0]
    assert first["all"] == [0, 1]
    assert first["main"] == "rank 0"
    assert first["any"] == [True, False]
    assert first["gradients"] == [[3.0, 3.0, 3.0], [1.0, 1.0], None]


def test_alone_everything_is_what_it_was():
    assert setup() == Ranks(device=setup().device)
    assert gather_objects("x") == ["x"]
    assert from_main("x") == "x"
    assert all_reduce_sum(torch.ones(2)).tolist() == [1.0, 1.0]
    assert any_rank(True)
    assert not any_rank(False)
