"""Jobs for the tests of the runner; they import nothing heavy, so that a worker starts in no time."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from vistruct.errors import UserError


def add(*, a: float, b: float = 0, results: dict, report, journal: str = "") -> dict:
    """a + b + the sums of the needed jobs; notes its start and end, so that order can be seen."""
    _note(journal, f"start {a}")
    report(1, 1, "added")
    _note(journal, f"end {a}")
    return {"sum": a + b + sum(r["sum"] for r in results.values()), "pid": os.getpid()}


def shapes(*, results: dict, report) -> dict:
    return {"by_shots": {5: (0.5, 1.0)}, "unknown": None}


def count(*, total: int, results: dict, report, wait_s: float = 0.0) -> dict:
    for i in range(total):
        report(i + 1, total, f"step {i + 1}")
        time.sleep(wait_s)
    return {}


def meet(*, folder: str, name: str, others: list, results: dict, report) -> dict:
    """Ends only once every other job has started too: jobs that run one after another never do."""
    Path(folder, name).touch()
    wait_for(lambda: all(Path(folder, other).exists() for other in others))
    return {}


def meet_on_device(*, folder: str, name: str, results: dict, report) -> dict:
    """As `meet` of two, and which accelerator this process may see."""
    Path(folder, name).touch()
    wait_for(lambda: all(Path(folder, other).exists() for other in ("a", "b")))
    return {"device": os.environ.get("CUDA_VISIBLE_DEVICES")}


def boom(*, results: dict, report) -> dict:
    print("about to fail", flush=True)
    raise ValueError("boom")


def mistake(*, results: dict, report) -> dict:
    raise UserError("no such file", where="scene.json", fix="check the path")


def boom_beside(*, folder: str, results: dict, report) -> dict:
    """Fails once the slow job runs, and lets it end only then."""
    wait_for(lambda: Path(folder, "slow").exists())
    Path(folder, "failed").touch()
    raise ValueError("boom")


def slow(*, folder: str, results: dict, report) -> dict:
    Path(folder, "slow").touch()
    wait_for(lambda: Path(folder, "failed").exists())
    time.sleep(0.3)  # the parent hears of the failure first
    return {"kept": True}


def wrong(*, results: dict, report) -> list:
    return [1]


def leave(*, results: dict, report) -> dict:
    sys.exit(3)


def killed(*, results: dict, report) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang(*, folder: str, results: dict, report) -> dict:
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(600)
    return {}


def threads(*, results: dict, report) -> dict:
    import torch

    return {"omp": os.environ["OMP_NUM_THREADS"], "torch": torch.get_num_threads()}


def modules(*, results: dict, report) -> dict:
    return {"loaded": [name for name in ("torch", "numpy", "transformers") if name in sys.modules]}


def wait_for(is_so, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def _note(journal: str, line: str) -> None:
    if journal:
        with open(journal, "a") as file:
            file.write(line + "\n")
