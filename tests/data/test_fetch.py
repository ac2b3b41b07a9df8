"""Images that turn unreadable and workers that die: said clearly, and the same whatever the workers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from vistruct.contracts import DataInfo, Sample
from vistruct.data.loading.fetch import MOST_REPLACEMENTS, REPLACED, Fetched
from vistruct.data.loading.loader import Loader, eval_batches
from vistruct.errors import UserError
from vistruct.files.images import UnreadableImage, read_image


@dataclass(frozen=True)
class Files:
    """Samples are image files; what they do at a broken one is a setting."""

    paths: tuple[Path, ...]
    on_broken: str = "stop"

    info = DataInfo()
    records = ()

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, seed: int) -> Sample:
        return Sample(id=str(index), image_id=str(index), seed=seed, images=[read_image(self.paths[index])])


def pairs(samples: list[Sample]) -> list[tuple[int, int]]:
    return [(int(s.id), s.seed) for s in samples]


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    made = tuple(tmp_path / f"{number}.png" for number in range(8))
    for path in made:
        Image.fromarray(pixels).save(path)
    return made


def broken(paths: tuple[Path, ...], *numbers: int) -> None:
    for number in numbers:
        data = paths[number].read_bytes()
        paths[number].write_bytes(data[: len(data) // 2])


def epoch(dataset: Any, workers: int = 0, said: list[str] | None = None) -> tuple[list[tuple[int, int]], Loader]:
    loader = Loader(dataset, pairs, batch=4, seed=3, workers=workers, say=(said if said is not None else []).append)
    batches = iter(loader)
    keys = [key for _ in range(2) for part in next(batches) for key in part]
    batches.close()
    return keys, loader


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_turns_unreadable_stops_the_run_with_its_name(paths: tuple[Path, ...], workers: int) -> None:
    broken(paths, 5)
    with pytest.raises(UnreadableImage) as caught:
        epoch(Files(paths), workers)
    assert caught.value.where == str(paths[5])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced_by_the_next_and_said_once(paths: tuple[Path, ...], workers: int) -> None:
    whole, _ = epoch(Files(paths))
    broken(paths, 2, 3, 7)
    said: list[str] = []
    keys, loader = epoch(Files(paths, "replace"), workers, said)
    seeds = dict(whole)
    next_one = {2: 4, 3: 4, 7: 0}  # the one behind, beyond other broken ones, and around the end
    assert keys == [(at := next_one.get(index, index), seeds[at]) for index, _ in whole]
    assert loader.report.counts == {REPLACED: 4}  # 2 met 3 as well
    assert sorted(line.split(": ")[0] for line in said) == [str(paths[n]) for n in (2, 3, 7)]


def test_a_folder_that_is_gone_is_not_replaced_for_ever(tmp_path: Path) -> None:
    gone = tuple(tmp_path / f"{number}.png" for number in range(MOST_REPLACEMENTS + 5))
    with pytest.raises(UnreadableImage, match="no such image"):
        epoch(Files(gone, "replace"))


def test_an_evaluation_never_takes_another_sample(paths: tuple[Path, ...]) -> None:
    broken(paths, 2)
    with pytest.raises(UnreadableImage, match="cannot decode"):
        list(eval_batches(Files(paths, "replace"), pairs, 4))  # ty: ignore[invalid-argument-type]


@dataclass(frozen=True)
class Slow:
    """A sample takes a while, and says how many threads its process computes on."""

    pause_s: float = 0.02

    info = DataInfo()
    records = ()

    def __len__(self) -> int:
        return 1000

    def sample(self, index: int, seed: int) -> Sample:
        time.sleep(self.pause_s)
        return Sample(id=str(torch.get_num_threads()), image_id="", seed=seed, images=[])


def slow_batches() -> tuple[Any, list[int]]:
    batches = iter(Loader(Slow(), pairs, batch=2, workers=2))  # ty: ignore[invalid-argument-type]
    next(batches), next(batches)  # of each worker: both have begun
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    assert len(pids) == 2
    return batches, pids


@pytest.mark.parametrize(("name", "words"), [("SIGKILL", "memory"), ("SIGBUS", "/dev/shm"), ("SIGSEGV", "workers=0")])
def test_a_worker_that_dies_while_it_is_waited_for_is_three_lines_at_once(name: str, words: str) -> None:
    batches, pids = slow_batches()
    threading.Timer(0.2, os.kill, (pids[0], getattr(signal, name))).start()
    start = time.monotonic()
    with pytest.raises(UserError, match="a loader worker was killed by signal") as caught:
        list(itertools.takewhile(lambda _: time.monotonic() - start < 20, batches))
    assert caught.value.where == f"worker process {pids[0]}"
    assert words in caught.value.fix
    assert caught.value.__context__ is None  # no page of traceback before it
    assert not multiprocessing.active_children()


def test_a_death_during_a_step_is_told_when_the_next_batch_is_due() -> None:
    batches, pids = slow_batches()
    os.kill(pids[1], signal.SIGKILL)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:  # a step; nothing may be raised into it
        sum(range(1000))
    with pytest.raises(UserError, match=r"Killed|exited"):
        list(itertools.islice(batches, 500))


class Stuck(Slow):
    """As if a worker waited for a lock that a killed one held: one that never ends by itself."""

    def sample(self, index: int, seed: int) -> Sample:
        if torch.utils.data.get_worker_info().id == 1:
            time.sleep(1000)
        return super().sample(index, seed)


def test_a_death_ends_workers_that_wait_for_ever() -> None:
    batches = iter(Loader(Stuck(), pairs, batch=2, workers=2))  # ty: ignore[invalid-argument-type]
    next(batches)
    (dies, _) = sorted(child.pid or 0 for child in multiprocessing.active_children())
    os.kill(dies, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(UserError, match="a loader worker"):
        list(itertools.islice(batches, 500))
    assert not multiprocessing.active_children()
    assert time.monotonic() - start < 15  # torch looks every five seconds where it has no signal


def test_a_death_is_kept_for_later_too_where_another_loader_of_torchs_came_first() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal_handling._SIGCHLD_handler_set = False  # as in a fresh process
    list(DataLoader([1, 2], num_workers=1))  # ty: ignore[invalid-argument-type]
    assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL
    test_a_death_during_a_step_is_told_when_the_next_batch_is_due()


def test_workers_outlive_the_schedulers_sigterm_so_that_the_last_step_can_end() -> None:
    batches, pids = slow_batches()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for _ in range(10):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()


def test_workers_compute_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = iter(Loader(Slow(0), pairs, batch=2, workers=1))  # ty: ignore[invalid-argument-type]
        assert {threads for threads, _ in next(batches)[0]} == {1}
        batches.close()
    finally:
        torch.set_num_threads(before)


@dataclass(kw_only=True)
class Nested:
    tiles: Any
    ids: list[str] = field(default_factory=lambda: ["a"])
    width: int = field(default=3, init=False)


def test_every_tensor_of_a_batch_is_pinned_on_its_way_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: "pinned")  # there is none without a CUDA device
    moved = Fetched(value=Nested(tiles=torch.zeros(2))).pin_memory()
    assert (moved.value.tiles, moved.value.ids, moved.value.width) == ("pinned", ["a"], 3)
    error = UserError("broken")
    assert Fetched(value=error).pin_memory().value is error
