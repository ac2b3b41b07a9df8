"""A bar with rate and time left on a terminal; elsewhere a plain line now and then. Both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0


class Advance(Protocol):
    """Tells the bar that `step` steps are done, with a word about them."""

    def __call__(self, step: int, note: str) -> None: ...


def bar() -> Progress:
    """A bar in the house's style, on stderr; `with bar() as progress` shows several jobs together."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


@contextmanager
def tracking(
    label: str, done: int, total: int | None, *, quiet: bool = False, progress: Progress | None = None
) -> Generator[Advance]:
    """Show work on its way from `done` to `total`; None: nobody knows how much there is.

    Args:
        quiet: show nothing.
        progress: a bar to add this work to; by default one of its own on a terminal, else plain lines.
    """
    if quiet:
        yield lambda step, note: None
    elif progress is None and not sys.stderr.isatty():
        yield _PlainLines(label, done, total)
    else:
        owned = bar() if progress is None else None
        shown = progress or owned
        assert shown is not None
        with owned or nullcontext():
            job = shown.add_task(label, total=total, completed=done, note="")
            yield lambda step, note: shown.update(job, completed=step, note=note)


class _PlainLines:
    def __init__(self, label: str, done: int, total: int | None) -> None:
        self.label, self.first, self.total = label, done, total
        self.start = time.monotonic()
        self.last = self.start - LINE_EVERY_S  # the first step is told at once

    def __call__(self, step: int, note: str) -> None:
        now = time.monotonic()
        if now - self.last < LINE_EVERY_S and (self.total is None or step < self.total):
            return
        self.last = now
        if self.total is None:
            print(f"{self.label} {step}  {note}", file=sys.stderr, flush=True)
            return
        left = (now - self.start) / max(step - self.first, 1) * (self.total - step)
        print(f"{self.label} {step}/{self.total}  {note}  {left / 60:.1f} min left", file=sys.stderr, flush=True)


def notice(text: str) -> None:
    """Tell something in passing that nobody asked for and somebody may want to know."""
    print(text, file=sys.stderr, flush=True)
