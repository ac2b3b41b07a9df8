"""What a step of training works on, what it costs and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from vistruct.contracts.truth import Record


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one record will cost a task, known without decoding a pixel."""

    tokens: int  # of all its rows together, before any are dropped at random; left out: of its longest, if that is why
    visual: int  # of those, visual tokens
    supervised: int  # of those, tokens of answers
    tiles: int  # images that go through the backbone
    reason: str = ""  # why it cannot be trained on, or what is cut from it; "": nothing
    is_left_out: bool = False  # whether `reason` leaves it out as a whole


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What each sample of a data set costs a task, as measured before training; int32[N] each."""

    tokens: np.ndarray  # of all rows of the sample, before any are dropped at random
    visual: np.ndarray  # of those, visual tokens
    supervised: np.ndarray  # of those, tokens of answers
    tiles: np.ndarray  # images that go through the backbone

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, indices: Sequence[int]) -> Costs:
        """Those of some samples."""
        at = np.asarray(indices, dtype=np.int64)
        return Costs(**{name: column[at] for name, column in vars(self).items()})


class Measurer(Protocol):
    """Records -> measures; a pure function that may travel to a worker process."""

    @property
    def key(self) -> str:
        """A digest of everything that decides the measures, so that they can be kept for the next start."""
        ...

    def __call__(self, record: Record, sizes_hw: Sequence[tuple[int, int]]) -> Measure:
        """`sizes_hw` are those of the record's images, in pixels."""
        ...


class Batch(Protocol):
    """Padded or packed tensors of several samples."""

    ids: list[str]

    def to(self, device: torch.device) -> Self: ...


@dataclass(frozen=True, kw_only=True)
class StreamBatch:
    """A batch, and the stream whose task it is for: what a model of several tasks is given."""

    stream: str
    batch: Batch

    @property
    def ids(self) -> list[str]:
        """Names of its samples."""
        return self.batch.ids

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return replace(self, batch=self.batch.to(device))


@dataclass(frozen=True, kw_only=True)
class JointBatch:
    """Batches of several streams whose images go through the backbone together."""

    parts: tuple[StreamBatch, ...]

    @property
    def ids(self) -> list[str]:
        """Names of the samples, each once."""
        return list(dict.fromkeys(one for part in self.parts for one in part.ids))

    def to(self, device: torch.device) -> Self:
        """The same batches with their tensors on `device`."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))


def named_term(stream: str, name: str) -> str:
    """What a term, metric or figure of one of several streams is called."""
    return f"{stream}.{name}"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A figure for the log as what it is made of, so that those of several batches add up to that of all."""

    total: float | Tensor
    count: float | Tensor  # 0: nothing to say


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one forward pass of a task is worth: the terms of its loss, each *summed* over its own units.

    Images, supervised tokens and matched locations differ by factors of a thousand, so that terms are not added up
    before each is divided by its units in the whole step, which `Task.units` says before the backward pass. Then the
    gradient is the same however a step was split over micro-batches and ranks.
    """

    terms: Mapping[str, Tensor]  # float[] each, with its graph; 0 where there was nothing to learn from
    metrics: Mapping[str, Ratio] = field(default_factory=dict)  # for the log
