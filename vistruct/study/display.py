"""How a study's jobs are shown on their way: bars on a terminal, lines elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.markup import escape
from rich.progress import TaskID

from vistruct.progress import bar

LINE_EVERY_S = 30.0  # a running job's line without a terminal


class Display(Protocol):
    """What `run_jobs` tells while it runs; entered before the first job, left after the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def begin(self, total: int, done: int) -> None:
        """`done` of `total` jobs have their results from before."""
        ...

    def started(self, name: str) -> None: ...

    def progressed(self, name: str, done: float, total: float, text: str) -> None: ...

    def ended(self, name: str, seconds: float | None) -> None:
        """`seconds` that the job took; None: it failed."""
        ...


def display() -> Display:
    """Bars if stderr is a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()


class Bars:
    """One bar over all jobs and one for each running job, with its rate and time left."""

    def __init__(self) -> None:
        self.progress = bar()
        self._jobs: dict[str, TaskID] = {}
        self._since: dict[str, tuple[float, float]] = {}  # time and position of a job's first report

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def begin(self, total: int, done: int) -> None:
        note = f"{done} from before" if done else ""
        self._all = self.progress.add_task("[bold]jobs", total=total, completed=done, note=note)

    def started(self, name: str) -> None:
        self._jobs[name] = self.progress.add_task(name, total=None, note="")

    def progressed(self, name: str, done: float, total: float, text: str) -> None:
        now = time.monotonic()
        start, first = self._since.setdefault(name, (now, done))
        rate = f"{(done - first) / (now - start):.3g}/s  " if now > start and done > first else ""
        self.progress.update(self._jobs[name], completed=done, total=total, note=rate + escape(text))

    def ended(self, name: str, seconds: float | None) -> None:
        self.progress.remove_task(self._jobs.pop(name))
        self._since.pop(name, None)
        if seconds is None:
            self.progress.console.print(f"{name} failed")
        else:
            self.progress.advance(self._all)


class Lines:
    """A line when a job starts and ends, and now and then one of how far it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self._last: dict[str, float] = {}
        if done:
            _say(f"{done} of {total} jobs have their results from before")

    def started(self, name: str) -> None:
        self._last[name] = time.monotonic()
        _say(f"{name} starts")

    def progressed(self, name: str, done: float, total: float, text: str) -> None:
        now = time.monotonic()
        if now - self._last[name] >= LINE_EVERY_S:
            self._last[name] = now
            _say(f"{name} {done:g}/{total:g}  {text}")

    def ended(self, name: str, seconds: float | None) -> None:
        if seconds is None:
            _say(f"{name} failed")
            return
        self.done += 1
        _say(f"{name} done in {seconds:.1f} s  ({self.done} of {self.total} jobs)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
