"""The order of samples, as a pure function of the step number.

Epochs are permutations (windows of large images near each other, see `visits`) laid end to end; optimiser step `s` owns
positions [s * batch, (s + 1) * batch) of that endless row, so every sample comes once an epoch, a step may span two
epochs, and the position of a loader is nothing but the step: resuming costs one permutation and decodes nothing that
was already seen. What happens to a sample depends on (run seed, epoch, index) alone, so neither the number of workers
nor the number of ranks changes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from vistruct.config import Pack
from vistruct.contracts import Costs, Dataset
from vistruct.data.loading.fetch import Collator, Fetch, Key, aloud, batches_of
from vistruct.data.loading.plan import balance, deal
from vistruct.data.loading.visits import Visits, visits_of
from vistruct.errors import UserError
from vistruct.issues import IssueCounter
from vistruct.ops.seeds import derive


class Order:
    """Which samples a step is made of."""

    def __init__(self, num_samples: int, batch: int, seed: int, visits: Visits | None = None) -> None:
        self.num_samples, self.batch, self.seed, self.visits = num_samples, batch, seed, visits
        self._shuffled: dict[int, torch.Tensor] = {}  # int64[num_samples] by epoch, the last two asked for

    def keys(self, step: int) -> list[Key]:
        """The `batch` (epoch, index) pairs of optimiser step `step`, over all ranks and micro-batches."""
        positions = range(step * self.batch, (step + 1) * self.batch)
        return [(p // self.num_samples, self._at(*divmod(p, self.num_samples))) for p in positions]

    def _at(self, epoch: int, offset: int) -> int:
        if epoch not in self._shuffled:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
            # Two, because a step may span two epochs, and workers are ahead of the loop.
            self._shuffled = dict([*self._shuffled.items()][-1:])
            self._shuffled[epoch] = (
                torch.randperm(self.num_samples, generator=generator)
                if self.visits is None
                else self.visits.shuffled(generator)
            )
        return int(self._shuffled[epoch][offset])


class Loader:
    """Iterating gives, for each optimiser step, the micro-batches of this rank; it never ends.

    With `costs` they are made by size (see `plan.balance`), and a step has as many as it needs; the samples of a step
    are the same in any case.

    Args:
        dataset: decodes; must be able to travel to a worker process where `workers` > 0.
        collator: samples -> Batch; draws no randomness of its own except from `Sample.seed`.
        batch: samples in a step over all ranks and micro-batches.
        accumulate: micro-batches in a step on each rank, where they are made by number.
        seed: the run's seed.
        workers: processes that decode for this rank; 0 decodes in this process.
        first_step: the step that the first item belongs to.
        costs: of every sample; None: micro-batches of equally many samples.
        work: float[N], how long each sample takes, in any unit; with `costs`.
        pack: the budget of a micro-batch; with `costs`.
        say: told once of each image that was replaced by another sample (see `fetch`).

    Raises:
        UserError: no samples; `batch` does not divide among ranks and micro-batches. While iterating:
            whatever the dataset or the collator raised, from a worker as from this process.
    """

    def __init__(
        self,
        dataset: Dataset,
        collator: Collator,
        *,
        batch: int,
        accumulate: int = 1,
        seed: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        first_step: int = 0,
        costs: Costs | None = None,
        work: np.ndarray | None = None,
        pack: Pack | None = None,
        say: Callable[[str], None] = aloud,
    ) -> None:
        if costs is None:
            check_split(batch, world=world, accumulate=accumulate)
        if len(dataset) == 0:
            raise UserError(
                "the data set has no samples", where="data", fix="vistruct check PATH says what was left out"
            )
        self.fetch = Fetch(dataset, collator, seed)
        self.order = Order(len(dataset), batch, seed, visits_of(dataset))
        self.accumulate, self.workers = accumulate, workers
        self.rank, self.world, self.first_step = rank, world, first_step
        self.costs, self.work, self.pack = costs, work, pack
        self.report, self.say = IssueCounter(), say

    def __iter__(self) -> Generator[list[Any]]:
        batches = batches_of(self.fetch, self._microbatches(), self.workers, self.report, self.say)
        for step in itertools.count(self.first_step):
            yield [next(batches) for _ in self.share(step)]

    def share(self, step: int) -> list[list[Key]]:
        """The micro-batches of this rank in a step; some may be empty where they are made by size."""
        keys = self.order.keys(step)
        if self.costs is None or self.work is None or self.pack is None:
            shares = deal(len(keys), world=self.world, accumulate=self.accumulate)
        else:
            indices = [index for _, index in keys]
            shares = balance(self.costs.of(indices), self.work[indices], world=self.world, pack=self.pack)
        return [[keys[place] for place in places] for places in shares[self.rank]]

    def _microbatches(self) -> Iterator[list[Key]]:
        for step in itertools.count(self.first_step):
            yield from self.share(step)


def eval_batches(
    dataset: Dataset,
    collator: Collator,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    among: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Any]]:
    """Once through every `world`-th sample in order, each with a seed of its own that no run seed changes.

    Args:
        among: indices of the samples to take; None: all.

    Yields:
        (indices of the samples, their Batch); the last one may be smaller than `batch`; nothing where the
        rank has no sample.

    Raises:
        UserError: as `Loader`.
    """
    indices = (range(len(dataset)) if among is None else among)[rank::world]
    parts = [list(indices[i : i + batch]) for i in range(0, len(indices), batch)]
    keys = ([(-1, index) for index in part] for part in parts)
    yield from zip(parts, batches_of(Fetch(dataset, collator, 0), keys, workers), strict=True)


def check_split(batch: int, *, world: int, accumulate: int, where: str = "batch") -> None:
    """Raise a UserError naming the nearest batch that divides evenly, if this one does not.

    Args:
        where: the setting that says it.
    """
    parts = world * accumulate
    if batch % parts:
        below, above = batch // parts * parts, (batch // parts + 1) * parts
        raise UserError(
            f"batch={batch} does not divide among {world} devices x {accumulate} micro-batches",
            where=where,
            fix=f"--set {where}={above}" + (f" or {where}={below}" if below else ""),
        )
