"""What a run writes down: train.log for people, metrics.jsonl for programs, TensorBoard events beside."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from vistruct.checkpoint.save import write_text
from vistruct.checkpoint.tensors import no_room
from vistruct.engine.trackers import Tracking
from vistruct.errors import UserError


class RunLog:
    """The records of one run directory; with `quiet` (every rank but the first) it writes and says
    nothing, and unless `aloud` it speaks to train.log alone.

    One line of metrics.jsonl is one step: {"step": 10, "loss": ...}, where step counts the steps that are
    done. A number that is not finite is null there.
    """

    def __init__(self, out_dir: Path, *, quiet: bool = False, aloud: bool = True) -> None:
        self.out_dir, self.quiet, self.aloud = out_dir, quiet, aloud
        self._metrics: TextIO | None = None
        self._events: Any = None
        self._text: TextIO | None = None
        self._more: list[Tracking] = []

    def __enter__(self) -> Self:
        if not self.quiet:
            self._text = (self.out_dir / "train.log").open("a", encoding="utf-8")
        return self

    def open_at(self, step: int, open_more: Callable[[], list[Tracking]] = list) -> None:
        """Take metrics from `step` on; lines of later steps, which a resumed run takes again, are cut.

        Args:
            open_more: opens what gets the metrics too.
        """
        if self.quiet:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path = self.out_dir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if len(kept) < len(lines):
                write_text(path, "".join(f"{line}\n" for line in kept))
        self._metrics = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(self.out_dir), purge_step=step + 1)
        self._more = open_more()

    def say(self, text: str) -> None:
        """Tell the user on stderr, and train.log with the time."""
        if self._text is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            try:
                self._text.write("".join(f"{stamp}  {line}\n" for line in text.splitlines()))
                self._text.flush()
            except OSError as error:
                raise no_room(error, self.out_dir) from error
            if self.aloud:
                print(text, file=sys.stderr, flush=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.

        Raises:
            UserError: no room.
        """
        if self._metrics is None:
            return
        numbers = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            self._metrics.write(json.dumps({"step": step, **numbers}) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise no_room(error, self.out_dir) from error
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        for one in self._more:
            one.write(step, values)

    def flush(self) -> None:
        """Put all on disk; before a checkpoint, so that no step it contains is missing from the records."""
        if self._metrics is None:
            return
        os.fsync(self._metrics.fileno())
        self._events.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.aloud = False  # whoever called shows the error
        if isinstance(error, UserError):
            self.say(f"stopped: {error}")
        elif error is not None and not isinstance(error, SystemExit):
            self.say(f"stopped: {type(error).__name__}: {error}")
        for file in (self._metrics, self._events, self._text):
            if file is not None:
                file.close()
        for one in self._more:
            one.close(failed=error is not None)


def _step_of(line: str) -> float:
    """The step of a metrics line; infinity for one that was cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
