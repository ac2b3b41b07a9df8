"""Worker processes that run one job after another: both ends of the pipe.

The parent sends a `Request`; the worker answers with any number of `Progressed` and then `Finished` or `Failed`.
Each worker has its own pipe: one that is killed in the middle of a message harms no other. This file imports
nothing heavy, so that a worker costs what its jobs import.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vistruct.errors import UserError

Report = Callable[..., None]  # what a job tells how far it is with: report(done, total, text="")
POLL_S = 1.0  # how often a worker is asked whether it lives, beside listening to it
REPORT_EVERY_S = 0.1  # a job may report every step; more often than this nobody can see it


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job as a worker gets it."""

    name: str
    call: str  # module:function
    arguments: dict[str, Any]
    results: dict[str, dict[str, Any]]  # of the jobs it needs, by name
    log: Path  # what the job prints, and its traceback


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """The job is at `done` of `total`."""

    done: float
    total: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The job's result, as JSON gives it back."""

    result: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The three lines about a job that raised, or whose process ended."""

    what: str
    where: str
    fix: str


Message = Progressed | Finished | Failed
_GO_ON = "then start again: finished jobs are kept"


# --- the worker's end


def serve(link: Connection, threads: int, device: str | None = None) -> None:
    """Run jobs until the link closes or the parent is gone; on an accelerator, if one is named."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    # Read when torch and numpy are imported, which the first job does.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Request | None = link.recv()
        except EOFError:
            return
        if job is None:
            return
        with _output_to(job.log):
            answer = _run(job, link, threads)
        link.send(answer)


def _run(job: Request, link: Connection, threads: int) -> Finished | Failed:
    start = time.monotonic()
    try:
        module, _, function = job.call.partition(":")
        call = vars(importlib.import_module(module))[function]
        if "torch" in sys.modules:  # the main module may have imported it before the variables were set
            sys.modules["torch"].set_num_threads(threads)
        result = call(**job.arguments, results=job.results, report=_reporter(link))
        if not isinstance(result, dict):
            raise TypeError(f"a job gives a dict, {job.call} gave {type(result).__name__}")
        # The way through JSON now, so that a job's result is the same today and when read back tomorrow.
        return Finished(result=json.loads(json.dumps(result)), seconds=time.monotonic() - start)
    except UserError as error:
        traceback.print_exc()
        return Failed(
            what=f"job {job.name!r}: {error.what}",
            where=error.where or str(job.log),
            fix=error.fix or f"mend it; {_GO_ON}",
        )
    except Exception as error:  # noqa: BLE001  # whatever a job raises is the parent's to tell
        traceback.print_exc()
        what = f"job {job.name!r} failed: {type(error).__name__}: {error}"
        return Failed(what=what, where=str(job.log), fix=f"read the traceback there; {_GO_ON}")


def _reporter(link: Connection) -> Callable[..., None]:
    last = -REPORT_EVERY_S

    def report(done: float, total: float, text: str = "") -> None:
        """Tell how far the job is; from its main thread."""
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or done >= total:
            last = now
            link.send(Progressed(done=done, total=total, text=text))

    return report


@contextmanager
def _output_to(log: Path) -> Generator[None]:
    """Send what this process and its libraries print to a file, which goes again if nothing was printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield
    sys.stdout.flush()
    sys.stderr.flush()
    if not log.stat().st_size:
        log.unlink()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # at once, in the middle of whatever job: nobody is left to hear of it


# --- the parent's end


@dataclass
class _Worker:
    threads: int
    device: str | None
    process: mp.process.BaseProcess = field(init=False)
    link: Connection = field(init=False)

    def __post_init__(self) -> None:
        context = mp.get_context("spawn")  # a fork would carry the parent's threads and locks, and its torch
        self.link, theirs = context.Pipe()
        # Not a daemon: a job may have loader processes of its own.
        self.process = context.Process(target=serve, args=(theirs, self.threads, self.device), name="vistruct-job")
        self.process.start()
        theirs.close()  # else the link would never close when the worker dies

    def end(self, *, at_once: bool) -> None:
        self.link.close()  # the worker sees the end of its jobs
        if not at_once:
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


class Pool:
    """At most `size` workers, started when there is work for them and kept for the next job.

    With `devices` each sees one of them: the one that fewest workers have.
    """

    def __init__(self, size: int, threads: int, devices: Sequence[str] = ()) -> None:
        self.size, self.threads, self.devices = size, threads, tuple(devices)
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}  # by the name of the job
        self._logs: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            worker.end(at_once=kind is not None)

    @property
    def num_busy(self) -> int:
        return len(self._busy)

    @property
    def has_room(self) -> bool:
        return len(self._busy) < self.size

    def start(self, job: Request) -> None:
        """Hand a job to an idle worker, or to a new one."""
        job.log.unlink(missing_ok=True)  # an earlier try's
        self._logs[job.name] = job.log
        while self._idle:
            worker = self._idle.pop()
            if _sent(worker, job):
                self._busy[job.name] = worker
                return
            worker.end(at_once=True)  # it died while it had nothing to do; no job is lost
        worker = self._busy[job.name] = _Worker(self.threads, self._free_device())
        _sent(worker, job)  # a worker that is dead already is found so by `messages`

    def _free_device(self) -> str | None:
        used = [worker.device for worker in [*self._idle, *self._busy.values()]]
        return min(self.devices, key=used.count, default=None)

    def messages(self) -> list[tuple[str, Message]]:
        """What the busy workers say, by the name of the job; waits until one speaks, a second at most."""
        ears = [ear for w in self._busy.values() for ear in (w.link, w.process.sentinel)]
        wait(ears, timeout=POLL_S)
        said: list[tuple[str, Message]] = []
        for name, worker in list(self._busy.items()):
            is_alive = worker.process.is_alive()  # before its pipe is emptied: then its last word is in there
            try:
                while name in self._busy and worker.link.poll():
                    message: Message = worker.link.recv()
                    said.append((name, message))
                    if not isinstance(message, Progressed):
                        self._idle.append(self._busy.pop(name))
            except (EOFError, OSError):  # closed, or cut short in the middle of a message
                is_alive = False
            if name in self._busy and not is_alive:
                worker.end(at_once=False)
                del self._busy[name]
                said.append((name, self._ended(name, worker.process.exitcode)))
        return said

    def _ended(self, name: str, exitcode: int | None) -> Failed:
        log = self._logs[name]
        if exitcode is not None and exitcode < 0:
            by = signal.Signals(-exitcode).name
            fix = f"look there; {_GO_ON}"
            if by == "SIGKILL":
                fix = f"the machine may be out of memory: use fewer workers; {_GO_ON}"
            return Failed(what=f"job {name!r}: its process was ended by {by}", where=str(log), fix=fix)
        fix = f"look there; {_GO_ON}" if log.exists() else "a script guards its start with __name__ == '__main__'"
        return Failed(what=f"job {name!r}: its process ended with exit code {exitcode}", where=str(log), fix=fix)


def _sent(worker: _Worker, job: Request) -> bool:
    try:
        worker.link.send(job)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True
