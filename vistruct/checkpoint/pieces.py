"""What one rank writes of a model and its optimiser, and a copy of it that training may go on beside.

Every tensor is written once. What is spread over the ranks (FSDP), each writes its rows of; what all hold alike (DDP,
step counters) is dealt out by size; buffers, which may differ, are those of rank 0.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vistruct.checkpoint.manifest import Held, num_rows
from vistruct.distributed.shard import first_row, local


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a tensor that this rank writes; none at all, if its part of the tensor is empty."""

    held: Held
    values: Tensor


def named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All that a checkpoint holds, by name, and further names of tied weights -> the name they are stored under."""
    first: dict[int, str] = {}  # name by identity of the parameter or buffer
    aliases: dict[str, str] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            kept = first.setdefault(id(tensor), name)
            if kept != name:
                aliases[f"model/{name}"] = f"model/{kept}"
    state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors = {name: tensor for name, tensor in state.items() if name not in aliases}
    aliases = {name: kept for name, kept in aliases.items() if name in state}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_state(optimizer).items()}
    return tensors, aliases


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of each parameter as `<parameter name>/<what>`."""
    return {
        f"{name}/{what}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def rows_of(tensors: dict[str, Tensor], buffers: set[str], *, rank: int, world: int) -> Iterator[Rows]:
    """The share of `rank`; the shares of all ranks together are every row once.

    Args:
        tensors: as `named_tensors` gives them.
        buffers: names of those that ranks need not hold alike.
    """
    alike = {name: t for name, t in tensors.items() if not isinstance(t, DTensor) and name not in buffers}
    mine = _dealt(alike, world)
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor) and mine.get(name, 0) != rank:
            continue
        values = local(tensor).detach()
        held = Held(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            offset=first_row(tensor),
            rows=num_rows(values.shape) if values.numel() else 0,
        )
        yield Rows(held=held, values=values)


def _dealt(tensors: dict[str, Tensor], world: int) -> dict[str, int]:
    """A rank for each tensor, so that all have equally many bytes: the largest first, to whoever has least."""
    loads = [(0, rank) for rank in range(world)]
    owner: dict[str, int] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        load, rank = heapq.heappop(loads)
        owner[name] = rank
        heapq.heappush(loads, (load + tensor.nbytes, rank))
    return owner


class Snapshot:
    """Copies in the main memory, whose place is kept from one save to the next.

    On CUDA the copies are queued on the device between two steps, into pinned memory: the device copies before it
    goes on, and the process does not wait for it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, rows: list[Rows]) -> None:
        """Copy; the rows of the last time must not be in use any more."""
        before, self._kept = self._kept, {}
        for part in rows:
            name, values = part.held.name, part.values
            if not part.held.rows:
                continue
            place = before.get(name)
            if place is None or place.shape != values.shape or place.dtype != values.dtype:
                place = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
            self._kept[name] = place.copy_(values, non_blocking=True)
        if any(part.values.is_cuda for part in rows):
            self._copied = torch.cuda.Event()
            self._copied.record()

    def tensors(self) -> dict[str, Tensor]:
        """The copies by name, once they are complete; from any thread."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._kept
