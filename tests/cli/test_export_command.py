"""A run of the pretraining recipe out through the command, and in again as the start of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistruct.checkpoint.load import load_model
from vistruct.cli.export import size
from vistruct.cli.main import main
from vistruct.errors import UserError

PLAIN = [
    "--set", "task.backbone.stem=patch", "--set", "task.backbone.positions=random", "--set", "task.answer_dropout=0",
    "--set", "steps=1", "--set", "schedule.warmup_steps=0", "--set", "evals={}",
]  # fmt: skip


def command(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    assert command("train", "vitp.pretrain", "--tiny", *PLAIN, "--out", out) == 0
    return out


def test_an_exported_run_is_the_start_of_the_next(tmp_path, run, capfd):
    folder = tmp_path / "public"
    assert command("export", run, "--format", "transformers", "--out", folder, "--max-shard", "30KB") == 0
    said = capfd.readouterr()
    assert said.out.splitlines()[-1] == str(folder)
    assert "re-loaded: every tensor is what was exported" in said.err
    assert (folder / "model.safetensors.index.json").exists()
    nothing = ["--set", "optim.lr=1.0e-30", "--set", f"task.language.tokenizer={folder}", "--set", f"start={folder}"]
    assert command("train", "vitp.pretrain", "--tiny", *PLAIN, *nothing, "--out", tmp_path / "next") == 0
    log = (tmp_path / "next/train.log").read_text()
    assert f"model from {folder}: " in log
    before, after = load_model(run)[0].state_dict(), load_model(tmp_path / "next")[0].state_dict()
    assert before.keys() == after.keys()
    # a step so small that only zeros show it
    assert all((before[name] - after[name]).abs().max() < 1e-20 for name in before)
    card = json.loads((tmp_path / "next/model/model.json").read_text())
    assert card["licence"] == "unknown: that of public holds"
    assert f"Started from: {folder}" in (tmp_path / "next/model/README.md").read_text()


def test_a_whole_model_and_then_a_backbone_are_both_accounted_for(tmp_path, run, capfd):
    folder = tmp_path / "vit"
    assert command("export", run, "--format", "backbone-original", "--out", folder, "--dtype", "bf16") == 0
    init = ["--set", f"init={folder}", "--set", f"start={run}"]
    assert command("train", "vitp.pretrain", "--tiny", *PLAIN, *init, "--dry-run") == 0
    said = capfd.readouterr().out
    assert said.index(f"# model from {run}") < said.index(f"# backbone from {folder}")


def test_mistakes_are_three_lines(tmp_path, run, capfd):
    assert command("export", run, "--format", "transformers", "--out", run) == 2
    assert "exists already" in capfd.readouterr().err
    assert command("export", run, "--format", "onyx", "--out", tmp_path / "x") == 2
    assert command("export", tmp_path / "nowhere", "--format", "original", "--out", tmp_path / "x") == 2
    assert command("export", run, "--format", "original", "--out", tmp_path / "x", "--max-shard", "many") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("2GiB", 2 * 2**30), ("1.5KB", 1500)]
)
def test_sizes_are_read(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "0GB", "5TB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="not a size"):
        size(text)
