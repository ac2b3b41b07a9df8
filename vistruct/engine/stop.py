"""SIGTERM means: finish the step, save, go. That is how schedulers take a machine back. So does SIGHUP: the terminal
was closed.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from vistruct.distributed.launch import stop_signals

EXIT_CODE = 128 + signal.SIGTERM  # not 0: a scheduler must not take the run for finished


class StopRequest:
    """While entered, a SIGTERM or SIGHUP only sets `requested`. Outside the main thread it never is."""

    def __init__(self) -> None:
        self.requested = False
        self.name = "SIGTERM"  # what asked; rank 0 says it, which may not be the one that was asked
        self._terminals: list[int] = []

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.requested, self.name = True, signal.Signals(signum).name
        if self.name == "SIGHUP":  # what is said from now on would be an error, in the middle of saving
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)

    def __enter__(self) -> Self:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._terminals = [number for number in (1, 2) if os.isatty(number)]
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
