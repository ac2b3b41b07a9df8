"""Work done by several processes as the ranks of one group, over gloo, on this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from toy_engine import toy_run

from vistruct.config import Run, read_run, run_to_yaml
from vistruct.errors import UserError


def fresh() -> Any:
    """Fresh processes without seconds of imports each: one server imports, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["vistruct.engine.train", "vistruct.tasks.instruct", "torch.utils.tensorboard", "pytest"]
    )
    return context


def begin(world: int, work: Any, *arguments: Any) -> list[BaseProcess]:
    """Start `work(*arguments)` in `world` processes, by rank; one alone is no group."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = [fresh().Process(target=_as_rank, args=(rank, world, port, work, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], timeout_s: float = 120) -> list[int | None]:
    """Exit codes by rank; None of one that had not ended, and is killed so that the tests themselves can end."""
    for process in processes:
        process.join(timeout_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def in_ranks(world: int, work: Any, *arguments: Any) -> list[int | None]:
    """`begin` and `finish`."""
    return finish(begin(world, work, *arguments))


def train_in_ranks(world: int, run: Run, out_dir: Path, on_step: Any = None) -> list[int | None]:
    """Train in `world` processes; exit code 2 is a UserError, told in `OUT_DIR.RANK.err`.

    Args:
        on_step: of module level; called as on_step(out_dir, rank, step, metrics).
    """
    return finish(begin_training(world, run, out_dir, on_step))


def samples_by_step(out_dir: Path, world: int) -> dict[int, list[str]]:
    """Which samples each step was made of, over all ranks; of a step that was taken again, the last time."""
    steps: dict[int, list[str]] = {}
    for rank in range(world):
        mine = {}
        for line in Path(f"{out_dir}.{rank}.seen").read_text().splitlines():
            step, ids = json.loads(line)
            mine[step] = ids
        for step, ids in mine.items():
            steps[step] = steps.get(step, []) + ids
    return steps


def begin_training(
    world: int, run: Run, out_dir: Path, on_step: Any = None, watched: bool = False
) -> list[BaseProcess]:
    """As `train_in_ranks`, without waiting for the end; `watched` by a board, see `killed_runs`."""
    file = out_dir.with_suffix(".yaml")
    file.write_text(run_to_yaml(run))
    return begin(world, _train, str(file), str(out_dir), on_step, watched)


def _train(run_file: str, out_dir: str, on_step: Any, watched: bool) -> None:
    import vistruct.engine.train as engine

    toy_run()
    rank = int(os.environ.get("RANK", "0"))
    if watched and rank == 0:
        from killed_runs import watch

        watch(Path(out_dir))

    def noting(state: Any, microbatches: Any) -> dict[str, float]:
        metrics = train_step(state, microbatches)
        with Path(f"{out_dir}.{rank}.seen").open("a") as file:
            file.write(json.dumps([state.step, [i for batch in microbatches for i in batch.ids]]) + "\n")
        return metrics

    train_step = engine.train_step

    def told(step: int, metrics: dict[str, float]) -> None:
        if on_step is not None:
            on_step(Path(out_dir), rank, step, metrics)

    try:
        with mock.patch.object(engine, "train_step", noting):
            engine.train(read_run(Path(run_file)), Path(out_dir), on_step=told)
    except UserError as error:
        Path(f"{out_dir}.{rank}.err").write_text(str(error))
        sys.exit(2)


def command(argv: list[str], said: Path, before: Any = None, world: int = 1) -> list[int | None]:
    """The exit codes of `vistruct *argv` by rank, in processes that know the toys; each writes down what it says.

    Args:
        said: a file; that of rank 1 has `.1` behind its name, and so on.
        before: of module level; called first, without arguments.
    """
    return in_ranks(world, _command, argv, str(said), before)


def _command(argv: list[str], said: str, before: Any) -> None:
    from vistruct.cli.main import main

    toy_run()
    without_pictures().start()
    rank = os.environ.get("RANK", "0")
    with Path(said if rank == "0" else f"{said}.{rank}").open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in (1, 2))
    if before is not None:
        before()
    main(argv)


def without_pictures() -> Any:
    """A patch for runs in which only the training matters: what is drawn takes longer than these runs."""
    return mock.patch.multiple("vistruct.runs", write_run_report=mock.DEFAULT, draw_first_batch=mock.DEFAULT)


def _as_rank(rank: int, world: int, port: int, work: Any, arguments: tuple[Any, ...]) -> None:
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    # A child of the server would start its loader's workers from a server of its own, and wait for its imports.
    multiprocessing.set_start_method("fork", force=True)
    from vistruct.distributed.ranks import leave

    work(*arguments)
    leave()
