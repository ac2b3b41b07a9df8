"""Gradients summed over ranks that each hold the whole model, while the backward pass still runs.

Not torch's DistributedDataParallel: its average is over ranks where ours is over units (two ranks rarely supervise
equally many tokens), it wraps the task so that names change, and it hangs or needs a graph search as soon as a rank's
batch leaves a parameter out (a text-only batch, an image without objects). Here what a rank did not use counts as
zero, so that every rank always sends the same buckets in the same order, whatever its batch.

The order is fixed by the model alone and never learned from a run: how a sum is cut decides its last bits, and a
resumed run has to end with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES: int = 25 << 20


@dataclass
class _Bucket:
    """Parameters of one dtype that travel as one tensor."""

    parameters: list[nn.Parameter]
    room: int  # bytes left
    missing: int = 0  # parameters whose gradient is not complete yet
    flat: Tensor | None = None  # on its way
    work: dist.Work | None = None

    def send(self) -> None:
        gradients = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in self.parameters]
        self.flat = torch.cat(gradients)
        self.work = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        assert self.flat is not None
        assert self.work is not None
        self.work.wait()
        for p, summed in zip(self.parameters, self.flat.split([p.numel() for p in self.parameters]), strict=True):
            p.grad = summed.view_as(p)
        self.flat = self.work = None


class GradientSum:
    """Adds up the gradients of parameters over ranks; in one process it does nothing.

    Args:
        parameters: those that train, in the model's order; the same ones on every rank. They are sent from the last
            to the first, as the backward pass reaches them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.buckets: list[_Bucket] = []
        if not dist.is_initialized():
            return
        self._armed, self._next = False, 0
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        for p in reversed(list(parameters)):
            self._bucket_of[p] = self._put(p)
            p.register_post_accumulate_grad_hook(self._complete)

    def _put(self, p: nn.Parameter) -> _Bucket:
        size = p.numel() * p.element_size()
        last = self.buckets[-1] if self.buckets else None
        if last is None or size > last.room or last.parameters[0].dtype != p.dtype:
            last = _Bucket([], BUCKET_BYTES)
            self.buckets.append(last)
        last.parameters.append(p)
        last.room -= size
        return last

    def start(self) -> None:
        """Before the backward pass of the last micro-batch: from now on a gradient is complete when it is there."""
        self._armed, self._next = bool(self.buckets), 0
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)

    def _complete(self, p: nn.Parameter) -> None:
        if not self._armed:
            return
        self._bucket_of[p].missing -= 1
        # In order, even if a later bucket is complete first: ranks must not disagree on which sum is which.
        while self._next < len(self.buckets) and self.buckets[self._next].missing == 0:
            self.buckets[self._next].send()
            self._next += 1

    def finish(self) -> None:
        """Afterwards, on every rank: send what is left and wait for all of it.

        Every `grad` is then the sum over ranks, zero where no rank used the parameter.
        """
        for bucket in self.buckets[self._next :] if self.buckets else ():
            bucket.send()
        for bucket in self.buckets:
            bucket.receive()
        self._armed, self._next = False, 0


def broadcast_weights(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if not dist.is_initialized():
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)
