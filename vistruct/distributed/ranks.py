"""Who this process is among several, and what they tell each other. Alone, every function is a no-op.

Started by torchrun, by SLURM's srun (with MASTER_ADDR and MASTER_PORT set), or by `distributed.launch`.
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


def setup(timeout_s: float = 1800) -> Ranks:
    """Join the group that the environment names, once; alone there is nothing to join.

    Args:
        timeout_s: seconds after which waiting for another rank is an error instead of a hang. Long enough for
            rank 0 to prepare the data while the others wait.

    Raises:
        UserError: more processes on this machine than devices.
    """
    rank, world, local = _place()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local + 1} on a machine with {torch.cuda.device_count()} devices",
                where="--devices",
                fix=f"--devices {torch.cuda.device_count()}",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))
    return Ranks(rank=rank, world=world, local=local, device=device)


def leave() -> None:
    """Leave the group in good order, at the end of a process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0"))
    # A shell inside an allocation has SLURM's variables too; only with an address is a group really meant.
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1 and "MASTER_ADDR" in env:
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(env.get("SLURM_LOCALID", "0"))
    return 0, 1, 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, in place; every rank gets the same bits."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: T) -> list[T]:
    """Every rank's value, by rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait for all."""
    if dist.is_initialized():
        gather_objects(None)  # over gloo on CPU and NCCL alike, without the device guess of dist.barrier


@contextmanager
def main_first(ranks: Ranks) -> Generator[None]:
    """Rank 0 does the block alone, then the others: what it writes is there for them to read."""
    if not ranks.is_main:
        barrier()
    yield
    if ranks.is_main:
        barrier()
    barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on at least one rank; the same answer on all."""
    return any(gather_objects(flag))
