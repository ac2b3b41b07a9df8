"""Who this process is among several, and what they tell each other. Alone, every function is a no-op.

Started by torchrun, by SLURM's srun, or by `distributed.launch`.

There are two groups. Tensors go through the first, which gives up soon: between two sums of gradients nobody has a
reason to be late for long. Words (`from_main`, `gather_objects`, `barrier`) go through the second, which is patient:
rank 0 may be indexing a million samples meanwhile. A process that ends closes its connections and so ends the waiting
of the others within seconds, in both; the limits are for machines that fall silent.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from vistruct.distributed import slurm
from vistruct.distributed.launch import end_with_launcher
from vistruct.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place: `rank` of `world`, `local` on this machine, and the device it computes on."""

    rank: int = 0
    world: int = 1
    local: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Only this one writes files and speaks."""
        return self.rank == 0


TIMEOUT = "VISTRUCT_TIMEOUT_S"  # environment: seconds until a rank that does not answer is an error
TIMEOUT_S = 600.0
PATIENCE_S = 24 * 3600.0  # likewise, where one rank works and the others wait

_words: dist.ProcessGroup | None = None


def setup() -> Ranks:
    """Join the groups that the environment names, once; alone there is nothing to join.

    Raises:
        UserError: more processes on this machine than devices.
    """
    global _words
    rank, world, local = _place()
    if world > 1 and not dist.is_initialized():
        end_with_launcher()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _device_index(local, torch.cuda.device_count()))
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=_timeout_s()))
        _words = patient_group()
    return Ranks(rank=rank, world=world, local=local, device=device)


def patient_group() -> dist.ProcessGroup:
    """A further group of all ranks, over gloo, in which one may keep the others waiting; all must make it together.

    Patience begins when it is made: whoever dies on the way there is missed soon.
    """
    if _words is None:
        all_reduce_sum(torch.zeros(()))
    else:
        barrier()  # a connection that ends is noticed at once; an address that never comes only after the timeout
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=_timeout_s()))
    assert isinstance(group, dist.ProcessGroup)  # this rank is in it
    set_timeout = getattr(dist, "set_timeout", None) or vars(distributed_c10d)["_set_pg_timeout"]  # of older torch
    set_timeout(timedelta(seconds=PATIENCE_S), group)
    return group


def _timeout_s() -> float:
    return float(os.environ.get(TIMEOUT, TIMEOUT_S))


def leave() -> None:
    """Leave the groups in good order, at the end of a process."""
    global _words
    if dist.is_initialized():
        _words = None
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
    in_step = slurm.place(env)
    if in_step is None:
        return 0, 1, 0
    env["MASTER_ADDR"], env["MASTER_PORT"] = slurm.address(env)
    return in_step


def _device_index(local: int, devices: int) -> int:
    """Which of the devices that this process sees is its own.

    Raises:
        UserError: there are fewer than processes.
    """
    if local < devices:
        return local
    if devices == 1 and "RANK" not in os.environ:  # SLURM can show every task nothing but a device of its own
        return 0
    raise UserError(
        f"process {local + 1} on a machine with {devices} devices", where="--devices", fix=f"--devices {devices}"
    )


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    """This one's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place; every rank gets the same bits."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, by rank, on every rank; through `group` where it must not meet other words."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group or _words)
    return values


def from_main(value: T, group: dist.ProcessGroup | None = None) -> T:
    """Rank 0's value, on every rank; through `group` as in `gather_objects`."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=group or _words)
    return values[0]


def barrier() -> None:
    """Wait for all."""
    if dist.is_initialized():
        gather_objects(None)  # over gloo on CPU and CUDA alike, without the device guess of dist.barrier


@contextmanager
def main_first(ranks: Ranks) -> Generator[None]:
    """Rank 0 does the block alone, then the others: what it writes is there for them to read."""
    if not ranks.is_main:
        barrier()
    yield
    if ranks.is_main:
        barrier()
    barrier()


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Of each flag, whether it is set on at least one rank; the same answer on all."""
    return tuple(any(column) for column in zip(*gather_objects(flags), strict=True))
