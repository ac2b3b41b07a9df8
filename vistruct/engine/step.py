"""One optimiser step: the gradient of the loss over every unit of the batch, however the batch was split.

The loss is a sum of terms, each a *sum* over units of its own (tokens, locations, images, pixels). How many units the
micro-batches of all ranks have together is counted first, from the truth alone; then each micro-batch's part of a term
is divided by that. A mean of means would weigh a rank with three objects like one with three hundred, and a sum of
sums a task with nine locations like nothing beside one with six thousand pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vistruct.checkpoint.save import write_json
from vistruct.contracts import StepOutput
from vistruct.data.loading.streams import samples_in, streams_of
from vistruct.distributed.precision import autocast
from vistruct.distributed.ranks import all_reduce_sum, gather_objects
from vistruct.distributed.shard import is_sharded, local, reach_all
from vistruct.engine.environment import out_of_memory, peak_memory_mb
from vistruct.engine.memory import kept_buffers, put_back
from vistruct.engine.optim import set_learning_rate, set_weight_decay
from vistruct.engine.run import State
from vistruct.engine.schedule import decay_at, lr_factor
from vistruct.errors import UserError
from vistruct.ops.seeds import derive, on_rank
from vistruct.tasks.joint import learned

LEAST_SCALE = 1.0  # of gradients of fp16; one that overflows here would in float32


class NonFiniteGradient(UserError):
    """The gradient of a step is NaN or infinite; the weights are still those of the step before."""


def train_step(state: State, microbatches: Sequence[Any]) -> dict[str, float]:
    """Take a step; `state.step` is one more afterwards, and the gradients are still there to look at.

    Args:
        microbatches: those of this rank, as the loader gives them.

    Returns:
        loss, grad_norm (before clipping; of a stream that was drawn also by its name), lr, seconds,
        samples_per_second, peak_memory_mb, and means of the task's own metrics; of all ranks.

    Raises:
        NonFiniteGradient: on every rank alike; the weights are untouched.
        UserError: the accelerator is too small, or the loss depends on nothing that trains.
    """
    run, start = state.run, time.perf_counter()
    # All randomness of a step comes from its number, so that a resumed run needs no saved random state.
    torch.manual_seed(on_rank(derive(run.seed, "step", state.step), state.ranks.rank))
    samples = samples_in(run, state.step)
    lr = run.optim.lr * lr_factor(state.step, run.steps, run.schedule)
    set_learning_rate(state.optimizer, lr)
    set_weight_decay(state.optimizer, decay_at(state.step, run.steps, run.optim))
    state.optimizer.zero_grad(set_to_none=True)

    taking_part = [state.sources[name].task.traits for name in streams_of(run, state.step)]
    for traits in taking_part:
        if traits.before_step is not None:
            traits.before_step(state.step, run.steps)
    outs, units, microbatches = learned_in_parts(state, microbatches)
    named = [(n, p) for g in state.optimizer.param_groups for n, p in zip(g["names"], g["params"], strict=True)]
    reached = any(p.grad is not None for _, p in named)
    if state.gradients is not None:
        state.gradients.finish()
    figures, reached = step_figures(outs, units, state.loss_weights, reached)
    if any(units.values()) and not reached:
        raise UserError(
            "the loss depends on nothing that trains", where="trainable", fix="make a part trainable that the task uses"
        )
    named = [(name, p) for name, p in named if p.grad is not None]
    gradients = [local(p.grad) for _, p in named]
    scaler = state.scaler if gradients else None
    if scaler is not None:
        scaler.unscale_(state.optimizer)
    norms = gradient_norms(gradients, spread=is_sharded(state.model))
    loss, grad_norm = figures["loss"], math.hypot(*norms)
    overflows = scaler is not None and math.isfinite(loss) and not math.isfinite(grad_norm)
    if overflows and scaler is not None and scaler.get_scale() <= LEAST_SCALE:
        overflows = False  # no scale is small enough: the gradient itself is broken
    if not overflows and not (math.isfinite(loss) and math.isfinite(grad_norm)):
        broken = [name for (name, _), norm in zip(named, norms, strict=True) if not math.isfinite(norm)]
        raise _non_finite(state, microbatches, loss, grad_norm, broken)
    clip = math.inf if run.clip_norm is None else run.clip_norm
    if not overflows and grad_norm + 1e-6 > clip:
        torch._foreach_mul_(gradients, clip / (grad_norm + 1e-6))
    for (_, p), norm in zip(named, norms, strict=True):
        if norm == 0.0:  # nothing in the whole batch used it: no decay and no momentum, on however many devices
            p.grad = None
    if not overflows:
        state.optimizer.step()
    if scaler is not None:
        scaler.update()
    for traits in taking_part:
        if traits.after_step is not None:
            traits.after_step()
    state.step += 1
    if state.average is not None:
        state.average.update(state.step)

    seconds = time.perf_counter() - start
    return {
        **figures,
        "grad_norm": grad_norm,
        **({} if scaler is None else {"loss_scale": scaler.get_scale(), "overflow": float(overflows)}),
        **({f"{streams_of(run, state.step - 1)[0]}.grad_norm": grad_norm} if run.draw == "one" else {}),
        "lr": lr,
        "seconds": seconds,
        "samples_per_second": samples / seconds,
        "peak_memory_mb": peak_memory_mb(state.device),
    }


def learned_in_parts(
    state: State, microbatches: Sequence[Any]
) -> tuple[list[StepOutput], dict[str, float], Sequence[Any]]:
    """Forward and backward of all micro-batches; in smaller ones, from the beginning, where memory runs out and the run
    may cut them.

    Returns:
        what the task made of each, the units of all ranks, and the micro-batches as they were in the end.

    Raises:
        UserError: the accelerator is too small.
    """
    seed = on_rank(derive(state.run.seed, "step", state.step), state.ranks.rank)
    while True:
        kept = kept_buffers(state.model) if state.smaller is not None else []
        error = ""
        try:
            moved = [batch.to(state.device) for batch in microbatches]
            units = all_units([state.model.units(batch) for batch in moved])  # ty: ignore[not-callable]
            return _learned(state, moved, units), units, microbatches
        except torch.OutOfMemoryError as caught:
            error = str(caught)
        # Out of the handler: what the failed pass holds is free by now.
        again = None if state.smaller is None else state.smaller()
        if again is None:
            raise out_of_memory(error, state.device)
        moved, microbatches = [], again
        state.optimizer.zero_grad(set_to_none=True)
        put_back(state.model, kept)
        torch.manual_seed(seed)
        if state.device.type == "cuda":
            torch.cuda.empty_cache()


def _learned(state: State, moved: Sequence[Any], units: Mapping[str, float]) -> list[StepOutput]:
    model: Any = state.model
    outs: list[StepOutput] = []
    for number, batch in enumerate(moved, 1):
        with autocast(state.amp, state.device):
            out = learned(model, batch, state.maps)
            total = reach_all(model, loss_of(out.terms, units, state.loss_weights))
        if number == len(moved) and state.gradients is not None:
            state.gradients.start()
        if total.requires_grad:  # not where the micro-batch had nothing to learn from
            (total if state.scaler is None else state.scaler.scale(total)).backward()
        outs.append(StepOutput(terms={k: v.detach() for k, v in out.terms.items()}, metrics=out.metrics))
    return outs


def gradient_norms(gradients: Sequence[Tensor], *, spread: bool) -> list[float]:
    """The Euclidean norm of each gradient, over all ranks if each holds some `spread` rows of it."""
    if not gradients:
        return []
    norms = torch.stack(torch._foreach_norm(list(gradients))).double()
    return (all_reduce_sum(norms.square()).sqrt() if spread else norms).tolist()


def without_gradient(state: State) -> list[str]:
    """Names of parameters that are trainable and got no gradient in the last step."""
    return [
        name
        for group in state.optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        if parameter.grad is None
    ]


def all_units(parts: Sequence[Mapping[str, float | Tensor]]) -> dict[str, float]:
    """The units of each term over all micro-batches and ranks.

    Args:
        parts: of each micro-batch of this rank; those of every rank together name the same terms.
    """
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, number in part.items():
            found.setdefault(name, []).append(torch.as_tensor(number).double())
    names = sorted(found)
    table = [torch.stack(found[name]).sum() for name in names]
    return dict(zip(names, all_reduce_sum(torch.stack(table).cpu()).tolist(), strict=True))


def loss_of(terms: Mapping[str, Tensor], units: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """float[], what a micro-batch adds to the loss of the whole step.

    Args:
        terms: of the micro-batch.
        units: of the whole step, by term; of terms that other micro-batches have, too.
        weights: of terms that do not count once.

    Raises:
        ValueError: a term whose units nobody has counted.
    """
    unknown = sorted(terms.keys() - units.keys())
    if unknown:
        raise ValueError(f"the loss has a term {unknown[0]!r}, and units were counted of {sorted(units)}")
    parts = [weights.get(name, 1.0) * term / (units[name] or 1.0) for name, term in terms.items()]
    return torch.stack(parts).sum()


def loss_name(term: str) -> str:
    """What a term is called among the figures: `loss_box`, and `boxes.loss_box` where it is one of a stream's."""
    stream, point, name = term.rpartition(".")
    return f"{stream}{point}loss_{name}"


def step_figures(
    outs: Sequence[StepOutput], units: Mapping[str, float], weights: Mapping[str, float], reached: bool
) -> tuple[dict[str, float], bool]:
    """`loss`, `loss_TERM` where there are several, what each of several streams adds to it (`STREAM.loss`), and the
    tasks' own metrics, over all micro-batches and ranks.

    Args:
        reached: whether the backward pass came to something that trains; on any rank, as the second of what comes back.
    """
    sums = dict.fromkeys(units, 0.0)
    ratios: dict[str, tuple[float, float]] = {}
    for out in outs:  # waits for the device
        for name, term in out.terms.items():
            sums[name] += float(term)
        for name, ratio in out.metrics.items():
            total, count = ratios.get(name, (0.0, 0.0))
            ratios[name] = total + float(ratio.total), count + float(ratio.count)
    everyone = gather_objects((sums, ratios, reached))
    terms = {name: sum(own[name] for own, _, _ in everyone) / (units[name] or 1.0) for name in units}
    found = {"loss": sum(weights.get(name, 1.0) * value for name, value in terms.items())}
    if len(terms) > 1:
        found |= {loss_name(name): value for name, value in terms.items()}
    for name, value in terms.items():
        stream, point, _ = name.rpartition(".")
        if point:  # what the stream adds to the loss
            found[f"{stream}.loss"] = found.get(f"{stream}.loss", 0.0) + weights.get(name, 1.0) * value
    for name in dict.fromkeys(name for _, own, _ in everyone for name in own):
        pairs = [own[name] for _, own, _ in everyone if name in own]
        found[name] = sum(total for total, _ in pairs) / (sum(count for _, count in pairs) or 1.0)
    return found, any(one for _, _, one in everyone)


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
