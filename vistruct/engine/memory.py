"""Micro-batches that fit into memory (`accumulate: auto`): found before the first step, and halved where they do not.

The samples of a step are the same however they are cut, and so is their gradient but for rounding. On CUDA sizes are
tried, the largest first, with the room that the optimiser will want held; elsewhere they are the largest that take
at most half of the memory that is left, by what one sample keeps for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.distributed.precision import autocast
from vistruct.distributed.ranks import any_rank, gather_objects
from vistruct.engine.environment import out_of_memory
from vistruct.engine.run import Source, State
from vistruct.engine.teachers import fetch
from vistruct.errors import UserError
from vistruct.files.memory import available_bytes
from vistruct.ops.seeds import derive

MEMORY_SHARE = 0.5  # of what is left, that micro-batches may take where nothing is tried


def fit_to_memory(state: State, say: Callable[[str], None], *, tries: bool | None = None) -> None:
    """Cut the steps of a run that leaves it open; of any other run nothing happens. All ranks call it together.

    Args:
        tries: whether micro-batches are tried; None: on CUDA alone.

    Raises:
        UserError: a single sample does not fit; a run that cannot be tried.
    """
    if state.run.accumulate != "auto":
        return
    _check(state)
    possible = splits(state)
    tries = state.device.type == "cuda" if tries is None else tries
    if tries:
        chosen = next((number for number in possible if not any_rank(not _goes_through(state, number))[0]), None)
        if chosen is None:
            fix = "a smaller --size or backbone, or --tune lora or head"
            raise UserError(f"one sample does not fit into the memory of {state.device}", where="accumulate", fix=fix)
    else:
        room = (available_bytes() or math.inf) * MEMORY_SHARE
        try:
            with as_it_was(state.model):
                needed = {name: activation_bytes(state, source) for name, source in state.sources.items()}
        except torch.OutOfMemoryError as error:
            raise out_of_memory(str(error), state.device) from error
        fits = (number for number in possible if max(_sizes(state, number, needed)) <= room)
        chosen = max(gather_objects(next(fits, possible[-1])))
    how = "tried on the device" if tries else "by what a sample needs of the memory that is free"
    state.run, state.cuts_again = state.run.model_copy(update={"accumulate": chosen}), state.ranks.world == 1
    sizes = ", ".join(f"{one.stream.batch // (state.ranks.world * chosen)}" for one in state.sources.values())
    say(f"micro-batches of {sizes}, {chosen} in a step ({how}); the batch is the same")


def splits(state: State) -> list[int]:
    """Numbers of micro-batches that every stream's batch can be cut into on each rank, few first."""
    share = math.gcd(*(one.stream.batch // state.ranks.world for one in state.sources.values()))
    return [number for number in range(1, share + 1) if share % number == 0]


def next_split(state: State) -> int | None:
    """At least twice as many micro-batches as now; None: each is one sample already."""
    return next((number for number in splits(state) if number >= 2 * state.run.pieces), None)


@contextmanager
def as_it_was(model: nn.Module) -> Generator[None]:
    """Afterwards the buffers are those from before (running statistics of norms), and no gradient is there."""
    kept = kept_buffers(model)
    try:
        yield
    finally:
        put_back(model, kept)
        model.zero_grad(set_to_none=True)


def kept_buffers(model: nn.Module) -> list[Tensor]:
    """Copies of a model's buffers, in their order."""
    return [buffer.detach().clone() for buffer in model.buffers()]


@torch.no_grad()
def put_back(model: nn.Module, kept: Sequence[Tensor]) -> None:
    """What `kept_buffers` has kept."""
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)


def _check(state: State) -> None:
    where, fix = "accumulate=auto", "--set accumulate=N, or a --batch as a number"
    if state.run.parallel == "fsdp" and state.ranks.world > 1:
        raise UserError("a spread model cannot be tried on one device alone", where=where, fix=fix)
    for name, source in state.sources.items():
        if source.stream.pack is not None:
            what = f"{name} is packed by size: its micro-batches have a budget"
            raise UserError(what, where=where, fix="accumulate=1; the budget is pack.tokens")
        if source.task.traits.before_step is not None or source.task.traits.after_step is not None:
            raise UserError(f"{name} keeps what it saw from one step to the next", where=where, fix=fix)


def _sizes(state: State, number: int, needed: dict[str, int]) -> list[float]:
    world = state.ranks.world
    return [needed[name] * one.stream.batch / (world * number) for name, one in state.sources.items()]


def _goes_through(state: State, number: int) -> bool:
    """Whether a micro-batch of each stream goes forward and back with the optimiser's moments beside it."""
    fits = False
    try:
        with as_it_was(state.model):
            held = [] if state.optimizer.state else [torch.empty_like(p) for p in _trained(state) for _ in range(2)]
            for source in state.sources.values():
                _once(state, source, source.stream.batch // (state.ranks.world * number))
            del held
        fits = True
    except torch.OutOfMemoryError:
        pass  # what the error holds goes with it
    if state.device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _trained(state: State) -> list[Tensor]:
    return [p for group in state.optimizer.param_groups for p in group["params"]]


def _once(state: State, source: Source, number: int) -> None:
    fetch(source.task, state.device)
    seed = derive(state.run.seed, 0, 0)
    torch.manual_seed(seed)
    samples = [source.dataset.sample(index % len(source.dataset), seed) for index in range(number)]
    batch: Any = source.task.collator(samples).to(state.device)
    with autocast(state.amp, state.device):
        total = torch.stack(list(source.task(batch).terms.values())).sum()
    if total.requires_grad:
        total.backward()


def activation_bytes(state: State, source: Source) -> int:
    """Bytes that the forward pass of one sample of a stream keeps for the backward pass, weights apart.

    Two go through it where a batch has as many: norms over a batch know nothing of a single one.
    """
    own = {t.untyped_storage().data_ptr() for t in state.model.state_dict().values()}
    kept: dict[int, int] = {}  # by address: what several operations keep is there once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seed = derive(state.run.seed, 0, 0)
    torch.manual_seed(seed)
    samples = [source.dataset.sample(0, seed)] * min(2, source.stream.batch)
    batch = source.task.collator(samples).to(state.device)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(state.amp, state.device),
    ):
        output = source.task(batch)  # held while counting, so that no address is used twice
        size = sum(kept.values()) // len(samples)
    del output
    return size
