"""A model that lies spread over the ranks: each holds some rows of every tensor (FSDP2).

A block's weights come together when it is called and fall apart again afterwards, so every rank must call every block
equally often: as many micro-batches, and in each as many calls. Weights outside of blocks (embeddings, projector,
heads) are together from the task's forward to the end of its backward pass.

Source: Zhao et al., PyTorch FSDP, arXiv:2304.11277; `torch.distributed.fsdp.fully_shard`.
Differs: gradients are summed over ranks and not averaged.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from vistruct.contracts import Described, StepOutput, TaskTraits
from vistruct.errors import UserError

# The loss must be found in what a task returns, or the weights outside of blocks would never hear of its gradient.
pytree.register_pytree_node(
    StepOutput,
    lambda out: (list(out.terms.values()), (tuple(out.terms), out.metrics)),
    lambda values, rest: StepOutput(terms=dict(zip(rest[0], values, strict=True)), metrics=rest[1]),
)


def blocks_of(task: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a task's parts, each of which is gathered by itself.

    A part at any depth names them in its `traits`. What says nothing is gathered with what it is part of.
    """
    described = [part for part in task.modules() if isinstance(part, Described)]
    return list(dict.fromkeys(block for part in described for block in part.traits.repeated_blocks))


def shard(task: nn.Module, device: torch.device, amp: torch.dtype | None) -> None:
    """Spread a task over all ranks, in place; its parameters become DTensors with the names and values they had.

    Args:
        task: the same on every rank, on `device`.
        amp: dtype of the arithmetic; weights are gathered in it on CUDA, kept and summed in float32.

    Raises:
        UserError: a parameter without a dimension to cut; blocks that are not called equally often for every batch.
    """
    told = [part.traits for part in task.modules() if isinstance(part, Described)]
    uneven = [traits.uneven_calls for traits in told if isinstance(traits, TaskTraits) and traits.uneven_calls]
    if uneven:
        raise UserError(
            f"{uneven[0]}; devices would wait for each other for ever",
            where="parallel=fsdp",
            fix="change that, or --set parallel=ddp",
        )
    uncut = [name for name, p in task.named_parameters() if p.ndim == 0]
    if uncut:
        raise UserError(
            f"{uncut[0]} is a single number, which cannot be spread over devices",
            where="parallel=fsdp",
            fix="--set parallel=ddp",
        )
    policy = MixedPrecisionPolicy()
    if amp is not None and device.type == "cuda":
        # Inputs stay as they are: autocast decides, as it does where every rank has the whole model.
        policy = MixedPrecisionPolicy(param_dtype=amp, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks_of(task):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(task, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in _sharded(task):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(task, "predict")


def is_sharded(task: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return isinstance(task, FSDPModule)


def reach_all(task: nn.Module, total: Tensor) -> Tensor:
    """`total` with a gradient of zero for each weight outside of blocks, if the task is sharded.

    Ranks send all of these as one tensor, so that a batch without objects must not leave some of them out.
    """
    if not is_sharded(task):
        return total
    gathered = [p for p in task.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    return _Reach.apply(total, *gathered)


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, *parameters: Tensor) -> Tensor:
        ctx.like = [(p.shape, p.dtype, p.device) for p in parameters]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        # One zero seen everywhere: takes no memory of its own.
        zeros = (torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.like)
        return gradients[0], *zeros


@contextmanager
def gathered(task: nn.Module) -> Generator[None]:
    """Inside, every rank holds all weights and may call the task as often as it likes, or not at all.

    To measure and to predict: ranks have different numbers of samples, and answers different lengths. All ranks enter
    and leave together. The weights are those of the arithmetic (see `shard`) and must not be changed.
    """
    if not is_sharded(task):
        yield
        return
    modules = _sharded(task)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not task, recurse=False)


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds, sharing memory; all of a tensor that is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The number, within the whole tensor, of the first of the rows that this rank holds.

    Source: `torch.chunk`'s rule, by which `fully_shard` cuts: equal parts rounded up, the last ones shorter or empty.
    """
    if not isinstance(tensor, DTensor):
        return 0
    rows, world = tensor.shape[0], tensor.device_mesh.size()
    size = -(-rows // world)
    first = min(tensor.device_mesh.get_local_rank() * size, rows)
    assert len(tensor.to_local()) == min(size, rows - first)
    return first


def on_main(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on rank 0's CPU where they were spread; nothing on other ranks. All ranks call it together.

    A tensor that stands under several names comes together once.
    """
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    kept: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, tensor in state.items():
        other = first.setdefault(id(tensor), name)
        if other != name:
            kept |= {name: kept[other]} if is_main else {}
            continue
        tensor = tensor.detach()
        whole = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if is_main:
            kept[name] = whole
    return kept


def _sharded(task: nn.Module) -> list[FSDPModule]:
    return [module for module in task.modules() if isinstance(module, FSDPModule)]
