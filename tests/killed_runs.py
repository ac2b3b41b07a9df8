"""Runs that are killed with signal 9 again and again, and what each kill found and left.

Where a run is when it dies is written into a page of shared memory, which outlives it.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from several_processes import begin_training

from vistruct.checkpoint.save import fault, step_of, steps
from vistruct.config import Run

# Where the main thread is, and where the save under way is.
START, STEP, BETWEEN, END = "start and resume", "step", "between steps", "last save and model"
IDLE, FILES, COMMIT, ROTATE = "no save", "writing files", "manifest and rename", "removing old ones"
MAIN, SAVE = (START, STEP, BETWEEN, END), (IDLE, FILES, COMMIT, ROTATE)


class Board:
    """Shared by a run (rank 0) and whoever watches it: step, two places, and what the last start left lying."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def clear(self) -> None:
        self.memory[:16] = bytes(16)

    @property
    def step(self) -> int:
        """Steps done, once the run has resumed."""
        return struct.unpack_from("<q", self.memory)[0]

    @step.setter
    def step(self, value: int) -> None:
        struct.pack_into("<q", self.memory, 0, value)

    @property
    def main(self) -> str:
        return MAIN[self.memory[8]]

    @main.setter
    def main(self, place: str) -> None:
        self.memory[8] = MAIN.index(place)

    @property
    def save(self) -> str:
        return SAVE[self.memory[9]]

    @save.setter
    def save(self, place: str) -> None:
        self.memory[9] = SAVE.index(place)

    @property
    def has_resumed(self) -> bool:
        return bool(self.memory[10])

    @property
    def orphans(self) -> int:
        """Of earlier lives, after the start has swept."""
        return self.memory[11]

    def resumed(self, step: int, orphans: int) -> None:
        self.step, self.memory[11] = step, orphans
        self.memory[10] = 1  # last: from now on the rest holds


def watch(out_dir: Path) -> None:
    """In the process of rank 0, before it trains: write down where it is."""
    import vistruct.checkpoint.save as save
    import vistruct.checkpoint.saver as saver
    import vistruct.engine.train as engine

    board, root = Board(board_of(out_dir)), out_dir / "checkpoints"

    def around(module: Any, name: str, before: Callable[..., object], after: Callable[..., object]) -> None:
        function = getattr(module, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            before(*args)
            value = function(*args, **kwargs)
            after(*args)
            return value

        setattr(module, name, noting)

    def main(place: str) -> Callable[..., object]:
        return lambda *_: setattr(board, "main", place)

    def saving(place: str) -> Callable[..., object]:
        return lambda *_: setattr(board, "save", place)

    def resumed(state: Any, _say: object) -> None:
        board.resumed(state.step, len(list(root.glob(".*"))))
        board.main = BETWEEN

    def stepped(state: Any, _batches: object) -> None:
        board.step, board.main = state.step, END if state.step == state.run.steps else BETWEEN

    def in_place(path: Path) -> None:
        if path == root and not list(root.glob(".partial-step_*")):  # the rename is done, and on disk
            board.save = ROTATE

    around(engine, "resume", main(START), resumed)
    around(engine, "train_step", main(STEP), stepped)
    around(saver, "begin", saving(FILES), saving(FILES))
    around(saver, "commit", saving(COMMIT), saving(IDLE))
    around(save, "fsync_dir", lambda _: None, in_place)


def board_of(out_dir: Path) -> Path:
    """Beside the run directory."""
    return out_dir.with_suffix(".board")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One life of a run, and what was there after it."""

    where: str  # the main thread's place, and the save's if one was under way
    lost: int  # steps of this life that no checkpoint has
    newest: int | None  # step of the newest checkpoint that is whole; None: there is none
    damaged: tuple[str, ...]  # checkpoints by name that are there and not whole
    left: int  # files and directories of a save that was cut short
    unswept: int  # of those of earlier lives, after this one had started
    quiet_s: float = 0.0  # until the other ranks had ended, where only one was killed


def kill_often(
    run: Run, out_dir: Path, kills: int, *, seed: int, world: int = 1, only_one: bool = False, most_steps: int = 4
) -> Iterator[Kill]:
    """Start the run, kill it, look at what is there; until it was killed so many times or is finished.

    Args:
        only_one: kill one rank, and wait for the others to end by themselves; else all at once, as a machine dies.
        most_steps: that a life may take before it is killed.
    """
    chance = random.Random(seed)
    board = Board(board_of(out_dir))
    for _ in range(kills):
        board.clear()
        processes = begin_training(world, run, out_dir, watched=True)
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 0.5))  # anywhere in the start
        else:
            _until(lambda: board.has_resumed, processes)
            first = board.step
            target = first + chance.randint(0, most_steps)
            _until(lambda target=target: board.step >= target, processes)
            time.sleep(chance.uniform(0, 0.03))  # anywhere in what comes then: a step, and the save behind it
        chosen = [chance.choice(processes)] if only_one else processes
        for process in chosen:
            process.kill()
        where = board.main if board.save == IDLE else f"{board.main}; {board.save}"
        begun = time.monotonic()
        for process in processes:
            process.join(120)
        if any(process.exitcode is None for process in processes):
            raise AssertionError("a rank outlived the death of another by two minutes")
        if all(process.exitcode == 0 for process in processes):
            return
        yield _look(board, out_dir, where, time.monotonic() - begun)


def _until(condition: Callable[[], bool], processes: list[BaseProcess]) -> None:
    while not condition() and all(process.is_alive() for process in processes):
        time.sleep(0.0005)


def _look(board: Board, out_dir: Path, where: str, quiet_s: float) -> Kill:
    root = out_dir / "checkpoints"
    there = steps(root)
    damaged = tuple(path.name for path in there if fault(path) is not None)
    newest = next((step_of(path) for path in there if path.name not in damaged), None)
    return Kill(
        where=where,
        lost=max(0, board.step - (newest or 0)) if board.has_resumed else 0,
        newest=newest,
        damaged=damaged,
        left=len(list(root.glob(".*"))),
        unswept=board.orphans,
        quiet_s=quiet_s,
    )
