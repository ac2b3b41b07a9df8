"""A disk that runs full, by a limit on the size of files and as a real small file system."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from several_processes import in_ranks, train_in_ranks, without_pictures
from toy_engine import ToyBackboneConfig, ToyTaskConfig, toy_run

from vistruct.checkpoint.save import fault, steps
from vistruct.checkpoint.tensors import sha256
from vistruct.config import run_to_yaml

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")

SIZE_LIMIT = 40_000  # bytes; less than one checkpoint of the big task, more than its records


def final(out_dir: Path) -> list[str]:
    """Digests of the model and of the last checkpoint: weights and optimiser state."""
    last = steps(out_dir / "checkpoints")[0]
    return [sha256(out_dir / "model" / "model.safetensors"), *map(sha256, sorted(last.glob("*.safetensors")))]


def big(width: int) -> ToyTaskConfig:
    """47 kB of weights where `width` is 64."""
    return ToyTaskConfig(backbone=ToyBackboneConfig(width=width))


def full_at_6(out_dir: Path, rank: int, step: int, metrics: dict[str, float]) -> None:
    if step == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, SIZE_LIMIT))
    if step > 8:  # saved in the background meanwhile: time for it to fail
        time.sleep(0.05)


@pytest.mark.parametrize(("world", "save_async"), [(1, True), (2, True), (1, False)])
def test_a_full_disk_stops_with_three_lines_and_the_last_good_checkpoint_goes_on(tmp_path, world, save_async):
    task = big(96 if world == 2 else 64)
    run, cut = toy_run(task=task, steps=16, save_async=save_async), tmp_path / "cut"
    assert train_in_ranks(world, run, tmp_path / "whole") == [0] * world
    assert train_in_ranks(world, run, cut, full_at_6) == [2] * world
    for rank in range(world):
        what, where, fix = Path(f"{cut}.{rank}.err").read_text().splitlines()
        assert what == "the disk is full"
        assert "checkpoints" in where
        assert "run the same command again" in fix
    # It did not train on to the end without a checkpoint.
    assert (cut / "metrics.jsonl").read_text().count("\n") < 16
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["step_00000004"]
    assert train_in_ranks(world, run, cut) == [0] * world
    assert final(cut) == final(tmp_path / "whole")


NO_SUCH_DISK = 77  # exit code: this system lets nobody mount one
DISK_BYTES = 2 << 20
NEWNS, NEWUSER = 0x00020000, 0x10000000  # of unshare(2)


def mount(folder: Path) -> None:
    """A small file system that only this process sees, and that goes with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if not hasattr(libc, "unshare") or libc.unshare(NEWNS | NEWUSER) != 0:
        sys.exit(NO_SUCH_DISK)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % DISK_BYTES) != 0:
        sys.exit(NO_SUCH_DISK)


def train_on_a_full_disk(folder: str, run_file: str, left: int) -> None:
    """Train through the command line; at step 6 somebody else fills the disk; then make room, and do it again."""
    import vistruct.engine.train as engine
    from vistruct.cli.main import main

    disk = Path(folder)
    mount(disk)
    out, filler, train_step = disk / "run", disk / "filler", engine.train_step

    def filled(state: Any, batches: Any) -> dict[str, float]:
        if state.step == 6:
            filler.write_bytes(bytes(shutil.disk_usage(disk).free // 4096 * 4096 - left))
        if state.step > 8:
            time.sleep(0.05)
        return train_step(state, batches)

    def command() -> int:
        with pytest.raises(SystemExit) as end:
            main(["train", "-c", run_file, "--out", str(out)])
        return int(end.value.code or 0)

    toy_run()
    without_pictures().start()
    filling = mock.patch.object(engine, "train_step", filled)
    filling.start()
    with disk.with_suffix(".said").open("wb") as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    found: dict[str, Any] = {"first": command()}
    found["there"] = sorted(path.name for path in (out / "checkpoints").iterdir())
    found["faults"] = [fault(path) for path in steps(out / "checkpoints")]
    filling.stop()
    filler.unlink()
    found["second"] = command()
    found["final"] = final(out)
    disk.with_suffix(".json").write_text(json.dumps(found))


@pytest.mark.parametrize("save_async", [True, False])
@pytest.mark.parametrize("left", [80 << 10, 0])
def test_after_making_room_on_a_real_full_disk_the_same_command_goes_on(tmp_path, save_async, left):
    disk, file = tmp_path / "disk", tmp_path / "run.yaml"
    disk.mkdir()
    run = toy_run(task=big(64), steps=16, save_async=save_async)
    file.write_text(run_to_yaml(run))
    (code,) = in_ranks(1, train_on_a_full_disk, str(disk), str(file), left)
    said = disk.with_suffix(".said").read_text() if disk.with_suffix(".said").exists() else ""
    if code == NO_SUCH_DISK:
        pytest.skip("no mounting here")
    assert code == 0, said
    found = json.loads(disk.with_suffix(".json").read_text())
    assert found["first"] == 2, said
    assert found["there"] == ["step_00000004"]
    assert found["faults"] == [None]
    assert "Traceback" not in said
    lines = [line.partition(":") for line in said.splitlines()]
    at = next(number for number, (title, _, _) in enumerate(lines) if title == "error")
    assert [title for title, _, _ in lines[at : at + 3]] == ["error", "where", "try"]
    assert lines[at][2].strip() == "the disk is full"
    assert found["second"] == 0, said
    assert train_in_ranks(1, run, tmp_path / "whole") == [0]
    assert found["final"] == final(tmp_path / "whole")
