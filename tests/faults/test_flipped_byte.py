"""A byte that changes in any file of a checkpoint: found, said, and the checkpoint before is used."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from several_processes import command, train_in_ranks
from torch import nn
from toy_engine import ToyBackboneConfig, ToyTaskConfig, toy_run

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import fault, newest_good, steps
from vistruct.checkpoint.saver import save
from vistruct.checkpoint.tensors import sha256
from vistruct.config import run_to_yaml
from vistruct.engine.train import train
from vistruct.errors import UserError

SHARDS = ("shard_00000-of-00002.safetensors", "shard_00001-of-00002.safetensors")
RUN = toy_run(
    steps=6, save_every=2, task=ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))
)  # without dropout, which is another one on another number of ranks


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_in_any_byte_of_any_file_is_found(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "names": ["weight"]}])
    folder = save(tmp_path, step=1, model=model, optimizer=optimizer, keep=1)
    chance = random.Random(0)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for at in range(len(data)):
            flip(path, at, bit := chance.randrange(8))
            assert fault(folder) is not None, (path.name, at, bit)
            path.write_bytes(data)
    assert fault(folder) is None


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory) -> Path:
    """A run of two ranks that has not finished, with checkpoints of steps 4 and 6."""
    out_dir = tmp_path_factory.mktemp("run") / "run"
    assert train_in_ranks(2, RUN, out_dir) == [0, 0]
    shutil.rmtree(out_dir / "backbone")
    shutil.rmtree(out_dir / "model")
    assert [path.name for path in steps(out_dir / "checkpoints")] == ["step_00000006", "step_00000004"]
    return out_dir


@pytest.mark.parametrize("name", [*SHARDS, "manifest.json"])
def test_the_run_says_it_and_goes_on_from_the_one_before(tmp_path, cut_off, name):
    out_dir = tmp_path / "run"
    shutil.copytree(cut_off, out_dir)
    damaged = out_dir / "checkpoints" / "step_00000006"
    expected = read_weights(cut_off / "checkpoints" / "step_00000006")
    del expected["seen"]  # a counter of each rank's own
    size = (damaged / name).stat().st_size
    flip(damaged / name, random.Random(name).randrange(size))
    train(RUN, out_dir)
    said = (out_dir / "train.log").read_text()
    assert "WARNING: checkpoint step_00000006 is damaged" in said
    assert name in said
    assert "resuming from step 4" in said
    # Taken again, by one process now: a checkpoint of step 6 that is whole, and a finished model.
    assert [path.name for path in steps(out_dir / "checkpoints")] == ["step_00000006", "step_00000004"]
    assert newest_good(out_dir / "checkpoints", pytest.fail) == damaged
    for weights in (read_weights(damaged), load_model(out_dir)[0].state_dict()):
        torch.testing.assert_close({k: v for k, v in weights.items() if k != "seen"}, expected, rtol=1e-5, atol=1e-6)


def test_where_none_is_intact_the_run_ends_with_three_lines_and_touches_nothing(tmp_path, cut_off):
    out_dir, file = tmp_path / "run", tmp_path / "run.yaml"
    shutil.copytree(cut_off, out_dir)
    file.write_text(run_to_yaml(RUN))
    for path in steps(out_dir / "checkpoints"):
        flip(path / SHARDS[1], -5)
    before = {path: sha256(path) for path in (out_dir / "checkpoints").rglob("*.*") if path.is_file()}
    assert command(["train", "-c", str(file), "--out", str(out_dir)], tmp_path / "said") == [2]
    said = (tmp_path / "said").read_text()
    assert "WARNING: checkpoint step_00000004 is damaged" in said
    assert [line.split(":")[0] for line in said.splitlines()[-3:]] == ["error", "where", "try"]
    assert "none of the 2 checkpoints is intact" in said
    assert {path: sha256(path) for path in (out_dir / "checkpoints").rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("where", ["model/model.safetensors", "model/model.json"])
def test_a_finished_model_that_has_changed_is_refused(tmp_path, cut_off, where):
    out_dir = tmp_path / "run"
    shutil.copytree(cut_off, out_dir)
    train(RUN, out_dir)
    load_model(out_dir)
    path = out_dir / where
    text = path.read_bytes()
    at = text.index(b'"sha256"') + 15 if path.suffix == ".json" else len(text) - 9
    flip(path, at)
    with pytest.raises(UserError, match="not those that model"):
        load_model(out_dir)
