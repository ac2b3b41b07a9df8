"""Gradients summed over ranks.

A plain all-reduce of flattened gradients, not torch's DistributedDataParallel: its average is over ranks
where ours is over units (two ranks rarely supervise equally many tokens), it wraps the task so that names
change, and it hangs or needs a graph search as soon as a rank's batch leaves a parameter out (a text-only
batch, an image without objects). What it would buy, sending while the backward pass still runs, is worth a
few percent on fast links.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vistruct.distributed.ranks import all_reduce_sum

BUCKET_BYTES = 64 << 20


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up each parameter's gradient over ranks, in place.

    A parameter that only some ranks used counts as zero on the others; one that no rank used keeps `grad`
    None, so that the optimiser leaves it alone exactly as in one process.

    Args:
        parameters: the same ones, in the same order, on every rank.
    """
    if not dist.is_initialized() or not parameters:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    all_reduce_sum(used)
    live = [p for p, n in zip(parameters, used.tolist(), strict=True) if n > 0]
    for p in live:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in _buckets([p.grad for p in live if p.grad is not None]):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        all_reduce_sum(flat)
        for g, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            g.copy_(summed.view_as(g))


def broadcast_weights(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if not dist.is_initialized():
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Cut into runs of one dtype and at most BUCKET_BYTES (or one larger tensor)."""
    buckets: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if not buckets or size > room or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(tensor)
        room -= size
    return buckets
