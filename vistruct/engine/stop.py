"""SIGTERM means: finish the step, save, go. That is how schedulers take a machine back."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

EXIT_CODE = 128 + signal.SIGTERM  # not 0: a scheduler must not take the run for finished


class StopRequest:
    """While entered, a SIGTERM only sets `requested`. Outside the main thread it never is."""

    def __init__(self) -> None:
        self.requested = False

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self.requested = True

    def __enter__(self) -> Self:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)
