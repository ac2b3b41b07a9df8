"""Which streams a step learns from, and their batches one after the other: a pure function of the step's number.

Each stream has an order of its own (see `loader`), of which a step takes the next samples whenever the stream has its
turn. How often it had one before is counted from the numbers of the steps alone, so that resuming needs no state.

Source of drawing one task for a step, the same on every rank: Chen et al., ViSFT, arXiv:2401.10222.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from vistruct.config import Run
from vistruct.contracts import JointBatch, Sample, StreamBatch
from vistruct.data.loading.loader import Loader
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive


def streams_of(run: Run, step: int) -> list[str]:
    """The streams that optimiser step `step` (from 0) learns from, in their order."""
    names = list(run.streams)
    if run.draw == "every" or len(names) == 1:
        return names
    weights = np.array([run.streams[name].weight for name in names])
    place = np.random.default_rng(derive(run.seed, "stream", step)).choice(len(names), p=weights / weights.sum())
    return [names[int(place)]]


def turns_before(run: Run, step: int) -> dict[str, int]:
    """How often each stream had its turn in the steps before `step`."""
    if run.draw == "every" or len(run.streams) == 1:
        return dict.fromkeys(run.streams, step)
    turns = dict.fromkeys(run.streams, 0)
    for earlier in range(step):
        turns[streams_of(run, earlier)[0]] += 1
    return turns


def seed_of(run: Run, stream: str) -> int:
    """The seed of a stream's order and samples; two streams over the same data see it differently, but for those that
    have their samples in common."""
    return run.seed if len(run.streams) == 1 else derive(run.seed, "stream", run.streams[stream].samples or stream)


def learners(run: Run, stream: str) -> list[str]:
    """The streams that learn from the samples of `stream`, itself first."""
    return [stream, *(name for name, other in run.streams.items() if other.samples == stream)]


@dataclass(frozen=True, kw_only=True)
class JointCollator:
    """Samples -> JointBatch: what each of several tasks makes of the same samples."""

    collators: Mapping[str, Callable[[list[Sample]], Any]]  # by stream

    def __call__(self, samples: list[Sample]) -> JointBatch:
        made = [StreamBatch(stream=name, batch=collate(samples)) for name, collate in self.collators.items()]
        return JointBatch(parts=tuple(made))


def samples_in(run: Run, step: int) -> int:
    """Samples of a step, over all ranks and micro-batches."""
    return sum(run.streams[name].batch for name in streams_of(run, step) if not run.streams[name].samples)


class Streams:
    """Iterating gives, for each optimiser step, the micro-batches of this rank; it never ends.

    Args:
        loaders: of each stream that has samples of its own, at the turn that comes next.
        first_step: the step that the first item belongs to.
    """

    def __init__(self, run: Run, loaders: Mapping[str, Loader], first_step: int) -> None:
        self.run, self.loaders, self.first_step = run, loaders, first_step

    def __iter__(self) -> Generator[list[Any]]:
        with ExitStack() as stack:
            batches = {name: stack.enter_context(closing(iter(loader))) for name, loader in self.loaders.items()}
            for step in itertools.count(self.first_step):
                names = [name for name in streams_of(self.run, step) if name in self.loaders]
                turns = [self._named(name, next(batches[name])) for name in names]
                if self.run.one_pass:
                    yield [_joined(together) for together in zip(*turns, strict=True)]
                else:
                    yield [batch for own in turns for batch in own]

    def _named(self, name: str, batches: Iterable[Any]) -> list[Any]:
        """A model of several tasks must be told whose a batch is; a task alone takes it as it is."""
        if len(self.run.streams) == 1 or len(learners(self.run, name)) > 1:
            return list(batches)
        return [StreamBatch(stream=name, batch=batch) for batch in batches]

    @property
    def report(self) -> IssueCounter:
        """What was replaced, in all streams."""
        report = IssueCounter()
        for loader in self.loaders.values():
            report.merge(loader.report)
        return report


def _joined(batches: Sequence[StreamBatch | JointBatch]) -> JointBatch:
    parts = ((one,) if isinstance(one, StreamBatch) else one.parts for one in batches)
    return JointBatch(parts=tuple(itertools.chain.from_iterable(parts)))
