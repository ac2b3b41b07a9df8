"""Kill -9: at random moments of a run, and at every single thing that a save does to the disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_runs import kill_often
from several_processes import fresh, in_ranks, train_in_ranks
from torch import nn
from toy_engine import toy_run

from vistruct.checkpoint.restore import restore
from vistruct.checkpoint.save import fault, newest_good, step_of, steps, sweep
from vistruct.checkpoint.saver import Saver
from vistruct.checkpoint.tensors import sha256
from vistruct.data.loading.columns import read_columns, write_columns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

KILLS = 12


def final(out_dir: Path) -> list[str]:
    """Digests of the model and of the last checkpoint: weights and optimiser state."""
    last = steps(out_dir / "checkpoints")[0]
    return [sha256(out_dir / "model" / "model.safetensors"), *map(sha256, sorted(last.glob("*.safetensors")))]


def losses(out_dir: Path) -> list[tuple[int, float]]:
    lines = (out_dir / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    run, cut = toy_run(steps=8 * KILLS, save_every=1, keep=2), tmp_path / "cut"
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    kills = list(kill_often(run, cut, KILLS, seed=0))
    assert len(kills) == KILLS
    before = 0
    for kill in kills:
        assert not kill.damaged, kill
        assert (kill.newest or 0) >= before, kill  # what is finished never goes away
        assert kill.unswept == 0, kill
        assert kill.lost <= 2, kill  # the interval of one step, and the one whose save was under way
        before = kill.newest or 0
    assert before > 0
    assert train_in_ranks(1, run, cut) == [0]
    assert final(cut) == final(tmp_path / "whole")
    assert losses(cut) == losses(tmp_path / "whole")
    assert [step for step, _ in losses(cut)] == list(range(1, run.steps + 1))
    assert not list(cut.rglob(".*"))


def die_at(out_dir: Path, name: str) -> None:
    """Train, and die just before a file of the run directory would get its name."""
    import vistruct.engine.train as engine

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[1]) == str(out_dir / name):
            os.kill(os.getpid(), signal.SIGKILL)

    toy_run()
    sys.addaudithook(before)
    engine.train(toy_run(), out_dir)


@pytest.mark.parametrize("name", ["run.yaml", "data.json", "model/model.safetensors", "backbone/backbone.json"])
def test_a_kill_between_the_files_of_a_run_leaves_nothing_behind_once_it_has_ended(tmp_path, name):
    assert in_ranks(1, die_at, tmp_path / "cut", name) == [-signal.SIGKILL]
    assert list((tmp_path / "cut").rglob(".*"))
    assert not (tmp_path / "cut" / name).exists()
    assert train_in_ranks(1, toy_run(), tmp_path / "cut") == [0]
    assert not list((tmp_path / "cut").rglob(".*"))
    assert train_in_ranks(1, toy_run(), tmp_path / "whole") == [0]
    assert final(tmp_path / "cut") == final(tmp_path / "whole")


OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir", "os.scandir"}
SAVES = 3  # the last two remove the one before


def model_at(step: int) -> tuple[nn.Module, torch.optim.AdamW]:
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, float(step))
    group = {"params": list(model.parameters()), "names": [name for name, _ in model.named_parameters()]}
    return model, torch.optim.AdamW([group])


def saves(root: str, deadly: int) -> None:
    """Save three times, and die before the operation of this number; how many there were is written beside."""
    root_text, count = str(root), 0

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and (str(arguments[0]).startswith(root_text) or _in_folder(event, arguments)):
            count += 1
            if count == deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)
    with Saver(Path(root), keep=1, background=False) as saver:
        for step in range(1, SAVES + 1):
            saver.save(step, *model_at(step))
            Path(f"{root}.told").write_text(str(step))  # that this one stands
    Path(f"{root}.count").write_text(str(count))


def _in_folder(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether it removes something by its name within an open folder, as `rmtree` does."""
    return event in ("os.remove", "os.rmdir") and arguments[1] != -1


def saved_and_killed(root: Path, deadly: int) -> int | None:
    process: multiprocessing.Process = fresh().Process(target=saves, args=(str(root), deadly))
    process.start()
    process.join(60)
    return process.exitcode


def test_a_kill_before_any_operation_of_a_save_leaves_what_was_there(tmp_path):
    assert saved_and_killed(tmp_path / "all", 0) == 0
    operations = int((tmp_path / "all.count").read_text())
    assert operations > 10 * SAVES
    for deadly in range(1, operations + 1):
        root = tmp_path / f"{deadly}"
        assert saved_and_killed(root, deadly) == -signal.SIGKILL
        told = Path(f"{root}.told")
        stands = int(told.read_text()) if told.exists() else 0
        assert all(fault(path) is None for path in steps(root))  # what has a checkpoint's name is one
        sweep(root)
        assert not list(root.glob(".*"))
        newest = newest_good(root, lambda text: pytest.fail(text))
        assert newest is not None or stands == 0
        if newest is not None:
            model, optimizer = model_at(0)
            assert restore(newest, model=model, optimizer=optimizer) == step_of(newest) >= stands
            assert model.state_dict()["weight"].unique().item() == step_of(newest)


def keep(folder: str, value: int, is_killed: bool) -> None:
    """Write a cache of the data, and die just before it would get its name."""

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and is_killed:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)
    write_columns(Path(folder, "lines.npz"), {}, {"value": np.array(value)})


def test_a_kill_while_a_cache_is_written_leaves_the_old_one_and_the_next_write_no_orphan(tmp_path):
    for value, is_killed in ((1, False), (2, True), (3, True)):
        (code,) = in_ranks(1, keep, str(tmp_path), value, is_killed)
        assert code == (-signal.SIGKILL if is_killed else 0)
        assert len(list(tmp_path.iterdir())) == 1 + is_killed
        columns = read_columns(tmp_path / "lines.npz", {})
        assert columns is not None
        assert columns["value"] == 1
    assert in_ranks(1, keep, str(tmp_path), 4, False) == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.npz"]
