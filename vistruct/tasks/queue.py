"""Vectors of earlier steps, as negatives that no split of a step can change.

Source: the queue of MoCo (arXiv:1911.05722), which begins full of noise; KoLeo, the entropy that distances to nearest
    neighbours estimate, of Sablayrolles et al. (arXiv:1806.03198).
Differs: a vector of the same owner is no negative; what a step adds is put in order by the samples' seeds, so that
    every split over micro-batches and ranks leaves the same.
Shapes: N queries against Q vectors of E numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.distributed.ranks import gather_objects
from vistruct.ops.contrast import are_first, softmax_loss

NEAREST = 1e-6  # added to a squared distance: of what is nearer than 0.001 hardly anything is asked


class Queue(nn.Module):
    """The latest vectors, of length 1, the newest first; equal on all ranks."""

    vectors: Tensor  # float32[Q, E]
    owners: Tensor  # int64[Q], whose each is; -1: noise of the start

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("owners", torch.full((size,), -1))
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(self, vectors: Tensor, owners: Tensor, seeds: Tensor) -> None:
        """Of a micro-batch, for the steps that follow: float[N, E], int64[N] from 0, and int64[N] that orders them."""
        self._new.append((vectors.detach().float().cpu(), owners.cpu(), seeds.cpu()))

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in what the micro-batches of all ranks have kept; the oldest leave."""
        new = [part for own in gather_objects(self._new) for part in own]
        self._new = []
        if not new:
            return
        vectors, owners, seeds = (torch.cat(column) for column in zip(*new, strict=True))
        order = seeds.argsort(stable=True)
        for own, added in ((self.vectors, vectors), (self.owners, owners)):
            own.copy_(torch.cat([added[order].to(own.device), own])[: len(own)])

    def koleo(self, vectors: Tensor, owners: Tensor) -> Tensor:
        """float[], minus the logarithm of each vector's distance to the nearest vector of others, summed.

        Noise of the start is nobody's: a vector that nothing else is left for adds 0.

        Args:
            vectors: float[N, E], of length 1.
            owners: int64[N], whose they are.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            is_other = (self.owners >= 0) & (self.owners != owners[:, None])  # [N, Q]
            nearest = (vectors.float() @ self.vectors.T).masked_fill(~is_other, -1.0).amax(dim=1)
            squared = (2 - 2 * nearest).clamp(min=0) + NEAREST
            return -0.5 * (squared.log() * is_other.any(dim=1)).sum()

    def loss(self, queries: Tensor, keys: Tensor, owners: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each query's key among all vectors of others (InfoNCE).

        Args:
            queries: float[N, E], of length 1.
            keys: float[N, E], the right one of each query, of length 1.
            owners: int64[N], whose the queries are.

        Returns:
            float[], the sum over queries; and int64[], how many are nearest to their key.
        """
        with torch.autocast(queries.device.type, enabled=False):
            right = (queries.float() * keys.float()).sum(dim=1) / temperature
            wrong = queries.float() @ self.vectors.T / temperature  # [N, Q]
            is_own = self.owners == owners[:, None]
            return softmax_loss(right, wrong, is_own), are_first(right, wrong, is_own).sum()
