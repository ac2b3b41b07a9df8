"""Keys to batches, in this process or in workers, and what goes wrong on the way.

An image that cannot be read, or has changed, stops the run with its name; what was saved stays good, and the same
command goes on from there once the file is mended. With `on_broken: replace` in the data's settings the next
sample of the data set takes its place instead: a pure function of the data, so that a resumed run is the same
run, counted, and said once for each image. Evaluation always stops: a score over other samples is another score.

A worker that dies (out of memory, most often) is a clear error within seconds, and only while a batch is waited
for: never in the middle of a step or a save.
"""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing.connection
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import FrameType, FunctionType
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch.utils.data import DataLoader

from vistruct.contracts import Dataset, Sample
from vistruct.distributed.launch import stop_signals
from vistruct.errors import UserError
from vistruct.files.decode import UnreadableImage
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive

Key = tuple[int, int]  # (epoch, index of the sample); epoch -1 is an evaluation
Collator = Callable[[list[Sample]], Any]

REPLACED = "unreadable, and replaced by the next sample of the data set"
MOST_REPLACEMENTS = 10  # in a row; then it is not a file that is broken, but the folder
PREFETCH = 2  # batches that each worker keeps ready


@dataclasses.dataclass(kw_only=True)
class Fetched:
    """What crosses from a worker.

    A user's mistake is handed over as a value: an exception would cross as a page of traceback.
    """

    value: Any  # a Sample or Batch, or a UserError
    replaced: list[UserError] = dataclasses.field(default_factory=list)  # why others stand where these were due

    def pin_memory(self) -> Self:
        """Called by torch's loader, on the way to a CUDA device."""
        return dataclasses.replace(self, value=_pinned(self.value))


_SIGCHLD = getattr(signal, "SIGCHLD", None)  # not on Windows


class Fetch:
    """Makes samples from keys and batches from samples; what happens to a sample depends on its key alone."""

    def __init__(self, dataset: Dataset, collator: Collator, seed: int) -> None:
        self.dataset, self.collator, self.seed = dataset, collator, seed
        # What becomes of broken images is said in the settings of our own data sets; one from outside need not say it.
        self.replaces = getattr(dataset, "on_broken", "stop") == "replace"

    def __getitem__(self, key: Key) -> Fetched:
        epoch, index = key
        broken: list[UserError] = []
        for place in range(index, index + 1 + (MOST_REPLACEMENTS if self.replaces and epoch >= 0 else 0)):
            at = place % len(self.dataset)
            seed = derive(0, "eval", at) if epoch < 0 else derive(self.seed, epoch, at)
            try:
                return Fetched(value=self.dataset.sample(at, seed), replaced=broken)
            except UnreadableImage as error:
                broken.append(error.with_traceback(None))  # which would keep the frames, and their images, alive
            except UserError as error:
                return Fetched(value=error)
        return Fetched(value=broken[0])

    def collate(self, items: Sequence[Fetched]) -> Fetched:
        """A batch of samples, or the first user's mistake among them."""
        for item in items:
            if isinstance(item.value, UserError):
                return item
        replaced = [error for item in items for error in item.replaced]
        try:
            return Fetched(value=self.collator([item.value for item in items]), replaced=replaced)
        except UserError as error:
            return Fetched(value=error)


def aloud(text: str) -> None:
    """Say it on stderr."""
    print(text, file=sys.stderr, flush=True)


def batches_of(
    fetch: Fetch,
    keys: Iterator[list[Key]],
    workers: int,
    report: IssueCounter | None = None,
    say: Callable[[str], None] = aloud,
) -> Generator[Any]:
    """The batch of each list of keys, in their order.

    Args:
        workers: processes; each keeps `PREFETCH` batches ready, and computes on one thread. 0: this process.
        report: what was replaced is counted here.
        say: told once of each image that was replaced.

    Raises:
        UserError: whatever the dataset or the collator raised; a worker that died.
    """
    source: Generator[Fetched]
    if workers == 0:
        source = (fetch.collate([fetch[key] for key in part]) for part in keys)
    else:
        source = _from_workers(fetch, keys, workers)
    told: set[str] = set()
    try:
        for batch in source:
            if isinstance(batch.value, UserError):
                raise batch.value
            for error in batch.replaced:
                if report is not None:
                    report.note(REPLACED, error.where)
                if error.where not in told:
                    told.add(error.where)
                    say(f"{error.where}: {REPLACED} ({error.what})")
            yield batch.value
    finally:
        source.close()  # ends the workers now; left to the garbage collector they would be waited for


def _from_workers(fetch: Fetch, keys: Iterator[list[Key]], workers: int) -> Generator[Fetched]:
    outer = _SIGCHLD and signal.getsignal(_SIGCHLD)
    loader = DataLoader(
        fetch,  # ty: ignore[invalid-argument-type]  # anything with __getitem__ will do
        batch_sampler=_Once(keys),  # without a length, and none is needed
        collate_fn=fetch.collate,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        pin_memory=torch.cuda.is_initialized(),  # the task is on a CUDA device by now, if it is to go there
        worker_init_fn=_begin_worker,
        generator=torch.Generator().manual_seed(0),  # leaves the global generator alone
    )
    batches = iter(loader)
    processes = list(getattr(batches, "_workers", ()))  # torch gives them nowhere else
    # An error elsewhere may hold on to this loop until the process ends, which would then wait for them for ever.
    end = Finalize(None, _kill, args=(processes,), exitpriority=0)
    atexit.register(end)
    deaths = _Deaths.watch(outer)
    died: UserError | None = None
    try:
        while True:
            try:
                with deaths:
                    batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                died = _worker_died(error) or _worker_lost(error, processes)
                if died is None:
                    raise
            if died is not None:  # here, where the first error and the frames it holds are gone
                raise died
            yield batch
    finally:
        # One that was killed may have held the lock on the queue of batches: the others would wait for it for ever,
        # deaf to SIGTERM as they are, and this process for them at its end.
        if died is not None:
            _kill(processes)
        del batches
        end()  # what did not end by itself
        atexit.unregister(end)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def _begin_worker(_worker: int) -> None:
    """A scheduler's SIGTERM and a closed terminal's SIGHUP go to every process of a run: the first one answers, and
    needs its workers till then.

    Torch has given the worker a single thread before this is called.
    """
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


class _Deaths:
    """Torch's signal handler raises wherever the main thread happens to be, as soon as a worker dies. This one keeps
    the news until a batch is waited for."""

    def __init__(self, raising: Callable[[int, FrameType | None], Any] | None, outer: Any) -> None:
        self.raising = raising  # torch's; None: it has none here, and looks every five seconds
        self.outer = outer  # the one before torch's
        self.waiting = self.missed = False

    @classmethod
    def watch(cls, outer: Any) -> _Deaths:
        """Stand before torch's handler, which the first loader of a process installs; `outer` was there before."""
        if _SIGCHLD is None or threading.current_thread() is not threading.main_thread():
            return cls(None, None)
        now = signal.getsignal(signal.SIGCHLD)
        if isinstance(now, cls):
            return now
        if not isinstance(now, FunctionType) or not now.__module__.startswith("torch.utils.data"):
            return cls(None, None)
        deaths = cls(now, outer if outer is not now else None)  # the same: a loader that is not ours came first
        signal.signal(_SIGCHLD, deaths)
        return deaths

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.waiting and self.raising is not None:
            self.raising(signum, frame)
            return
        self.missed = True
        if callable(self.outer):
            self.outer(signum, frame)

    def __enter__(self) -> None:
        self.waiting = True
        if self.missed and self.raising is not None:
            self.missed = False
            try:
                self.raising(signal.SIGCHLD, None)
            except RuntimeError:
                self.waiting = False
                raise

    def __exit__(self, *_: object) -> None:
        self.waiting = False


def _worker_died(error: Exception) -> UserError | None:
    """The three lines about a worker that ended; None for any other error."""
    texts = [str(e) for e in (error.__cause__, error) if e is not None]  # the cause knows the signal
    found = next(filter(None, (re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (.*)", t) for t in texts)), None)
    if found is None:
        return None
    pids, how = found[1], found[2].split(". ")[0].rstrip(". ").replace("is killed", "was killed")
    fix = "fewer workers (--set workers=...), or more memory"
    if "Bus error" in how:
        fix = "no shared memory is left: fewer workers (--set workers=...), or a larger /dev/shm (docker: --shm-size)"
    elif "Segmentation" in how or "exit code" in how:
        fix = "--set workers=0 shows where"
    return UserError(f"a loader worker {how}", where=f"worker process {pids}", fix=fix)


def _worker_lost(error: Exception, processes: Sequence[BaseProcess]) -> UserError | None:
    """Likewise about one whose connections are gone already, while the system still calls it alive."""
    if str(error).startswith("Caught "):  # what a living worker says of its own work
        return None
    ended = multiprocessing.connection.wait([process.sentinel for process in processes], timeout=2.0)
    for process in processes:
        if process.sentinel in ended:  # its files are closed; on a busy machine its end still takes a moment
            process.join(timeout=10.0)
    codes = {process.pid: process.exitcode for process in processes if process.exitcode is not None}
    if not codes:
        return None
    how = [f"was killed by signal {-code}" if code < 0 else f"exited with code {code}" for code in codes.values()]
    return UserError(
        f"a loader worker {how[0]}",
        where=f"worker process {', '.join(map(str, codes))}",
        fix="fewer workers (--set workers=...), or more memory",
    )


@runtime_checkable
class _Pins(Protocol):
    def pin_memory(self) -> Any: ...


def _pinned(value: Any) -> Any:
    """The same with the tensors of a batch in page-locked memory, from where a copy to the device does not wait."""
    if isinstance(value, _Pins):  # tensors, and batches that know better
        return value.pin_memory()
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):  # batches of several tasks
        return tuple(map(_pinned, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    parts = {f.name: vars(value)[f.name] for f in dataclasses.fields(value) if f.init}
    pinned = {name: _pinned(part) for name, part in parts.items()}
    return dataclasses.replace(value, **{name: part for name, part in pinned.items() if part is not parts[name]})


class _Once:
    """A batch sampler over an iterator."""

    def __init__(self, keys: Iterator[list[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[Key]]:
        return self.keys
