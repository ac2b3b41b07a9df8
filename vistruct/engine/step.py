"""One optimiser step: the gradient of the mean loss over every unit of the batch, however the batch was
split.

Each micro-batch is differentiated as a *sum* over its units (tokens, locations, images); the sums of all
micro-batches and ranks are added up and divided once by all units. A mean of means would weigh a rank with
three objects like one with three hundred.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vistruct.checkpoint.save import write_json
from vistruct.distributed.ranks import all_reduce_sum, gather_objects
from vistruct.distributed.shard import is_sharded, local, reach_all
from vistruct.engine.environment import autocast, explained_memory, peak_memory_mb
from vistruct.engine.optim import set_learning_rate
from vistruct.engine.run import State
from vistruct.engine.schedule import lr_factor
from vistruct.errors import UserError
from vistruct.ops.seeds import derive


class NonFiniteGradient(UserError):
    """The gradient of a step is NaN or infinite; the weights are still those of the step before."""


def train_step(state: State, microbatches: Sequence[Any]) -> dict[str, float]:
    """Take a step; `state.step` is one more afterwards, and the gradients are still there to look at.

    Args:
        microbatches: those of this rank, as the loader gives them.

    Returns:
        loss, grad_norm (before clipping), lr, seconds, samples_per_second, peak_memory_mb, and means of the
        task's own metrics; of all ranks.

    Raises:
        NonFiniteGradient: on every rank alike; the weights are untouched.
        UserError: the accelerator is too small, or the loss depends on nothing that trains.
    """
    run, start = state.run, time.perf_counter()
    # All randomness of a step comes from its number, so that a resumed run needs no saved random state.
    torch.manual_seed(derive(run.seed, "step", state.step, state.ranks.rank))
    lr = run.optim.lr * lr_factor(state.step, run.steps, run.schedule)
    set_learning_rate(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)

    totals, counts, metrics = [], [], []
    for number, batch in enumerate(microbatches, 1):
        with explained_memory(state.device), autocast(state.amp, state.device):
            out = state.task(batch.to(state.device))
            total = reach_all(state.task, out.total)
        if number == len(microbatches) and state.gradients is not None:
            state.gradients.start()
        if total.requires_grad:  # not where the micro-batch had nothing to learn from
            with explained_memory(state.device):
                total.backward()
        totals.append(out.total.detach().double())
        counts.append(float(out.count))
        metrics.append(dict(out.metrics))

    named = [(n, p) for g in state.optimizer.param_groups for n, p in zip(g["names"], g["params"], strict=True)]
    reached = any(p.grad is not None for _, p in named)
    if state.gradients is not None:
        state.gradients.finish()
    # The first wait for the device in a step.
    sums = torch.tensor([float(sum(totals)), sum(counts), float(reached)], dtype=torch.float64)
    total, count, reached = all_reduce_sum(sums).tolist()
    if count > 0 and not reached:
        raise UserError(
            "the loss depends on nothing that trains", where="move", fix="let a part move that the task uses"
        )
    named = [(name, p) for name, p in named if p.grad is not None]
    gradients = [local(p.grad) for _, p in named]
    norms = [norm / max(count, 1.0) for norm in gradient_norms(gradients, spread=is_sharded(state.task))]
    loss, grad_norm = total / max(count, 1.0), math.hypot(*norms)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        broken = [name for (name, _), norm in zip(named, norms, strict=True) if not math.isfinite(norm)]
        raise _non_finite(state, microbatches, loss, grad_norm, broken)
    clip = math.inf if run.clip_norm is None else run.clip_norm
    torch._foreach_div_(gradients, max(count, 1.0) * max(1.0, (grad_norm + 1e-6) / clip))
    for (_, p), norm in zip(named, norms, strict=True):
        if norm == 0.0:  # nothing in the whole batch used it: no decay and no momentum, on however many devices
            p.grad = None
    state.optimizer.step()
    state.step += 1

    seconds = time.perf_counter() - start
    return {
        **_mean_metrics(counts, metrics),
        "loss": loss,
        "grad_norm": grad_norm,
        "lr": lr,
        "seconds": seconds,
        "samples_per_second": run.batch / seconds,
        "peak_memory_mb": peak_memory_mb(state.device),
    }


def gradient_norms(gradients: Sequence[Tensor], *, spread: bool) -> list[float]:
    """The Euclidean norm of each gradient, over all ranks if each holds some `spread` rows of it."""
    if not gradients:
        return []
    norms = torch.stack(torch._foreach_norm(list(gradients))).double()
    return (all_reduce_sum(norms.square()).sqrt() if spread else norms).tolist()


def without_gradient(state: State) -> list[str]:
    """Names of parameters that are meant to move and got no gradient in the last step."""
    return [
        name
        for group in state.optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        if parameter.grad is None
    ]


def _mean_metrics(counts: list[float], metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Each metric's mean over the units of all micro-batches and ranks that gave it."""
    sums: dict[str, list[float]] = {}
    numbers = [{name: float(value) for name, value in values.items()} for values in metrics]  # waits for the device
    for all_counts, all_metrics in gather_objects((counts, numbers)):
        for count, values in zip(all_counts, all_metrics, strict=True):
            for name, value in values.items():
                weighted = sums.setdefault(name, [0.0, 0.0])
                weighted[0] += value * count
                weighted[1] += count
    return {name: total / max(count, 1.0) for name, (total, count) in sums.items()}


def _non_finite(
    state: State, microbatches: Sequence[Any], loss: float, grad_norm: float, parameters: list[str]
) -> NonFiniteGradient:
    """Write down which samples and parameters, and say it."""
    step = state.step + 1
    ids = [i for part in gather_objects([i for batch in microbatches for i in batch.ids]) for i in part]
    found = {
        "step": step,
        "loss": str(loss),
        "grad_norm": str(grad_norm),
        "samples": ids,
        "parameters": parameters,
    }
    file = state.out_dir / f"non_finite_step_{step:08d}.json"
    if state.ranks.is_main:
        write_json(file, found)
    return NonFiniteGradient(
        f"step {step}: loss {loss:g}, gradient norm {grad_norm:g}; the weights are untouched",
        where=f"samples {', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''} (all in {file})",
        fix="look at these samples; or lower optim.lr, lengthen the warm-up, or set amp=off",
    )
