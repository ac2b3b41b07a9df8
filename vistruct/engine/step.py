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

from vistruct.checkpoint.save import write_json
from vistruct.distributed.gradients import sum_gradients
from vistruct.distributed.ranks import all_reduce_sum, gather_objects
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
    for batch in microbatches:
        with explained_memory(state.device), autocast(state.amp, state.device):
            out = state.task(batch.to(state.device))
        if out.total.requires_grad:  # not where the micro-batch had nothing to learn from
            with explained_memory(state.device):
                out.total.backward()
        totals.append(out.total.detach().double())
        counts.append(float(out.count))
        metrics.append(dict(out.metrics))

    # The first wait for the device in a step.
    total, count = all_reduce_sum(torch.tensor([float(sum(totals)), sum(counts)], dtype=torch.float64)).tolist()
    moving = [p for group in state.optimizer.param_groups for p in group["params"]]
    sum_gradients(moving)
    gradients = [p.grad for p in moving if p.grad is not None]
    if count > 0 and not gradients:
        raise UserError(
            "the loss depends on nothing that trains", where="move", fix="let a part move that the task uses"
        )
    torch._foreach_div_(gradients, max(count, 1.0))
    norm = torch.nn.utils.get_total_norm(gradients)
    loss, grad_norm = total / max(count, 1.0), float(norm)
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise _non_finite(state, microbatches, loss, grad_norm)
    if run.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(moving, run.clip_norm, norm)
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


def _non_finite(state: State, microbatches: Sequence[Any], loss: float, grad_norm: float) -> NonFiniteGradient:
    """Write down which samples and parameters, and say it."""
    step = state.step + 1
    ids = [i for part in gather_objects([i for batch in microbatches for i in batch.ids]) for i in part]
    named = state.task.named_parameters()
    found = {
        "step": step,
        "loss": str(loss),
        "grad_norm": str(grad_norm),
        "samples": ids,
        "parameters": [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()],
    }
    file = state.out_dir / f"non_finite_step_{step:08d}.json"
    if state.ranks.is_main:
        write_json(file, found)
    return NonFiniteGradient(
        f"step {step}: loss {loss:g}, gradient norm {grad_norm:g}; the weights are untouched",
        where=f"samples {', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''} (all in {file})",
        fix="look at these samples; or lower optim.lr, lengthen the warm-up, or set amp=off",
    )
