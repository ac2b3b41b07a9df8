"""One function over many jobs in several processes, where there are enough of them to be worth it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from vistruct.progress import Advance, tracking

Job = TypeVar("Job")
Result = TypeVar("Result")
Shared = TypeVar("Shared")

MOST_PROCESSES = 32


_held: Any = None  # by a worker process, for all its jobs


def in_parallel(
    function: Callable[[Shared, Job], Result],
    shared: Shared,
    jobs: Sequence[Job],
    *,
    label: str,
    processes: int | None = None,
) -> Iterator[Result]:
    """`function(shared, job)` of each job, in their order; with a bar on the way. One job alone is done here, without.

    Args:
        function: of a module's top level, so that it can travel.
        shared: handed to each process once.
        processes: None: one for each core that this process may use.
    """
    if len(jobs) < 2:
        yield from (function(shared, job) for job in jobs)
        return
    processes = min(MOST_PROCESSES, len(jobs), cores()) if processes is None else processes
    with tracking(label, 0, len(jobs)) as show:
        if processes < 2:
            results: Iterator[Result] = (function(shared, job) for job in jobs)
            yield from _shown(results, show)
            return
        # Started as the loader's workers are: the platform's own way, so that a user's script needs nothing special.
        with ProcessPoolExecutor(processes, initializer=_hold, initargs=(shared,)) as pool:
            yield from _shown(pool.map(functools.partial(_do, function), jobs), show)


def _shown(results: Iterator[Result], show: Advance) -> Iterator[Result]:
    for done, result in enumerate(results, start=1):
        yield result
        show(done, "")


def _hold(shared: Any) -> None:
    global _held
    _held = shared


def _do(function: Callable[[Any, Job], Result], job: Job) -> Result:
    return function(_held, job)


def cores() -> int:
    """Those that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux alone
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
