from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from vistruct.checkpoint import saver as saver_module
from vistruct.checkpoint.manifest import Entry, Held, Piece, Shard, assemble, read_manifest
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.saver import Saver
from vistruct.errors import UserError


def make(value: float = 1.0) -> tuple[nn.Linear, torch.optim.AdamW]:
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    group = {"params": list(model.parameters()), "names": [name for name, _ in model.named_parameters()]}
    return model, torch.optim.AdamW([group])


class Disk:
    """Stands before the writing of a shard: may hold it up, or be full."""

    def __init__(self, monkeypatch) -> None:
        self.free, self.is_full = threading.Event(), False
        self.write = saver_module.write_tensors
        monkeypatch.setattr(saver_module, "write_tensors", self)

    def __call__(self, path: Path, tensors: dict[str, torch.Tensor]) -> str:
        assert self.free.wait(20)
        if self.is_full:
            raise UserError("the disk is full", where=path, fix="free some space")
        return self.write(path, tensors)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


def test_what_is_saved_is_what_was_there_when_the_save_began(tmp_path, disk):
    model, optimizer = make(1.0)
    with Saver(tmp_path, keep=2) as saver:
        saver.save(1, model, optimizer)
        nn.init.constant_(model.weight, 2.0)  # the next step, while the disk is busy
        assert steps(tmp_path) == []
        disk.free.set()
        saver.save(2, model, optimizer)  # reuses the memory of the first, once that is written
        nn.init.constant_(model.weight, 3.0)
    assert [read_weights(tmp_path / f"step_0000000{n}")["weight"][0, 0].item() for n in (1, 2)] == [1.0, 2.0]


def test_at_the_end_of_the_block_the_checkpoint_is_there(tmp_path, disk):
    model, optimizer = make()
    with Saver(tmp_path, keep=1) as saver:
        saver.save(7, model, optimizer)
        threading.Timer(0.1, disk.free.set).start()
    assert [path.name for path in steps(tmp_path)] == ["step_00000007"]


def test_one_that_has_to_wait_for_the_one_before_says_so(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(saver_module, "SPOKEN_S", 0.05)
    model, optimizer = make()
    said: list[str] = []
    with Saver(tmp_path, keep=1, say=said.append) as saver:
        saver.save(1, model, optimizer)
        threading.Timer(0.2, disk.free.set).start()
        saver.save(2, model, optimizer)
    assert len(said) == 1
    assert "step 2: waited 0." in said[0]


def test_a_save_that_fails_in_the_background_is_known_at_the_next_step(tmp_path, disk):
    model, optimizer = make()
    with Saver(tmp_path, keep=1) as saver:
        disk.free.set()
        saver.save(1, model, optimizer)
        saver.finish()
        disk.is_full = True
        saver.save(2, model, optimizer)
        while not saver.failed:
            time.sleep(0.001)
        with pytest.raises(UserError, match="the disk is full"):
            saver.finish()
        assert not saver.failed  # told once
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, disk):
    model, optimizer = make()
    disk.is_full = True
    said: list[str] = []

    def run() -> None:
        with Saver(tmp_path, keep=1, say=said.append) as saver:
            saver.save(1, model, optimizer)
            disk.free.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert "the disk is full" in said[0]


def test_without_background_the_checkpoint_is_there_at_once(tmp_path, disk):
    disk.free.set()
    model, optimizer = make()
    with Saver(tmp_path, keep=1, background=False) as saver:
        saver.save(1, model, optimizer)
        assert [path.name for path in steps(tmp_path)] == ["step_00000001"]
        disk.is_full = True
        with pytest.raises(UserError):
            saver.save(2, model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_shard_that_is_not_here_is_a_disk_that_is_not_shared(tmp_path, monkeypatch):
    def elsewhere(path: Path, tensors: dict[str, torch.Tensor], held: tuple[Held, ...]) -> Shard:
        return Shard(file=path.name, bytes=10, sha256="0" * 64, held=held)

    monkeypatch.setattr(saver_module, "_write_shard", elsewhere)
    with pytest.raises(UserError) as caught, Saver(tmp_path, keep=1, background=False) as saver:
        saver.save(1, *make())
    assert "all machines share" in caught.value.fix
    assert not list(tmp_path.iterdir())


def held(offset: int, rows: int, shape: tuple[int, ...] = (5, 2), dtype: str = "float32") -> Held:
    return Held(name="model/w", dtype=dtype, shape=shape, offset=offset, rows=rows)


def shards(*parts: Held) -> list[Shard]:
    return [Shard(file=f"{i}", bytes=1, sha256="", held=(part,)) for i, part in enumerate(parts)]


def test_pieces_of_all_ranks_make_up_a_tensor_by_offset():
    manifest = assemble(3, "fsdp", shards(held(3, 2), held(0, 3), held(5, 0)), {})
    pieces = (Piece(file="1", offset=0), Piece(file="0", offset=3))
    assert manifest.tensors == {"model/w": Entry(dtype="float32", shape=(5, 2), pieces=pieces)}
    assert manifest.world == 3


@pytest.mark.parametrize(
    "parts",
    [
        (held(0, 3),),  # rows are missing at the end
        (held(2, 3),),  # at the beginning
        (held(0, 2), held(3, 2)),  # in between
        (held(0, 3), held(2, 3)),  # or there twice
        (held(0, 5), held(0, 5)),
        (held(0, 5, ()),),
        (held(0, 3), held(3, 2, dtype="bfloat16")),
        (held(0, 0),),
    ],
)
def test_rows_that_are_missing_or_doubled_make_no_checkpoint(parts):
    with pytest.raises(ValueError, match="model/w"):
        assemble(3, "fsdp", shards(*parts), {})


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    saved = assemble(3, "ddp", shards(held(0, 3), held(3, 2)), {"model/v": "model/w"})
    saver_module.commit(saver_module.begin(tmp_path, 3), _without_files(saved), keep=1)
    assert read_manifest(tmp_path / "step_00000003") == _without_files(saved)


def _without_files(manifest):
    from dataclasses import replace

    return replace(manifest, files={})
