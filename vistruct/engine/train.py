"""The loop. Pretraining, fine-tuning and everything between differ in the task and the recipe, never here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from vistruct.checkpoint.save import save, write_json
from vistruct.config import Run
from vistruct.data.loader import Loader
from vistruct.distributed.gradients import sum_gradients
from vistruct.distributed.ranks import all_reduce_sum, any_rank, barrier, gather_objects, setup
from vistruct.engine.environment import autocast, peak_memory_mb
from vistruct.engine.evaluate import evaluate
from vistruct.engine.log import RunLog
from vistruct.engine.optim import set_learning_rate
from vistruct.engine.pictures import draw_first_batch, draw_predictions
from vistruct.engine.progress import tracking
from vistruct.engine.report import write_run_report
from vistruct.engine.run import State, build, resume
from vistruct.engine.run_dir import note_data, open_run_dir
from vistruct.engine.schedule import lr_factor
from vistruct.engine.ship import ship
from vistruct.engine.stop import EXIT_CODE, StopRequest
from vistruct.errors import UserError
from vistruct.ops.seeds import derive


class NonFiniteGradient(UserError):
    """The gradient of a step is NaN or infinite; the weights are still those of the step before."""


def train(
    run: Run,
    out_dir: Path,
    *,
    progress: Progress | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train from the start, or from where this run directory stands.

    Args:
        progress: a bar of a larger job to show the steps in; the run's words then go to train.log alone.
        on_step: told of each step done, with its metrics.

    Returns:
        `out_dir`, with `model/` and `backbone/` in it.

    Raises:
        UserError: whatever the user can mend; NonFiniteGradient is one.
        SystemExit: a SIGTERM came; the state is saved.
    """
    ranks = setup()
    open_run_dir(run, out_dir, ranks)
    barrier()
    with RunLog(out_dir, quiet=not ranks.is_main, aloud=progress is None) as log, StopRequest() as stop:
        state = build(run, out_dir, ranks)
        note_data(state.dataset.info, {k: d.info for k, d in state.eval_datasets.items()}, out_dir, ranks)
        introduce(state, log.say)
        resume(state, log.say)
        if ranks.is_main and state.step == 0:
            draw_first_batch(state)
        log.open_at(state.step)
        stopping = False
        bar = tracking(out_dir.name, state.step, run.steps, quiet=not ranks.is_main, progress=progress)
        with closing(iter(loader_of(state))) as batches, bar as show:
            while state.step < run.steps and not stopping:
                metrics = train_step(state, next(batches))
                show(state.step, f"loss {metrics['loss']:.4g}  {metrics['samples_per_second']:.3g} samples/s")
                if on_step is not None:
                    on_step(state.step, metrics)

                line: dict[str, float] = {}
                if due(state.step, run.log_every, last=run.steps):
                    line |= metrics
                if due(state.step, run.eval_every, last=run.steps):
                    line |= evaluate_all(state)
                if line:
                    log.write(state.step, line)
                stopping = any_rank(stop.requested)
                if stopping or due(state.step, run.save_every, last=run.steps):
                    log.flush()
                    save_state(state)
        if state.step < run.steps:
            log.say(f"SIGTERM: saved at step {state.step}; the same command goes on from there")
            raise SystemExit(EXIT_CODE)
        log.flush()
        if ranks.is_main:
            ship(state)
            draw_predictions(state)
            write_run_report(out_dir)
        barrier()
        log.say(f"finished: {out_dir}")
    return out_dir


def train_step(state: State, microbatches: Sequence[Any]) -> dict[str, float]:
    """One optimiser step: the gradient of the mean loss over all units of all micro-batches and ranks.

    Returns:
        loss, grad_norm (before clipping), lr, seconds, samples_per_second, peak_memory_mb, and the task's own
        metrics.

    Raises:
        NonFiniteGradient: loss or gradient are not finite, on every rank alike; the weights are untouched.
    """
    run, start = state.run, time.perf_counter()
    # All randomness of a step comes from its number, so that a resumed run needs no saved random state.
    torch.manual_seed(derive(run.seed, "step", state.step, state.ranks.rank))
    lr = run.optim.lr * lr_factor(state.step, run.steps, run.schedule)
    set_learning_rate(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)

    outputs = []
    for batch in microbatches:
        with autocast(state.amp, state.device):
            out = state.task(batch.to(state.device))
        if out.total.requires_grad:  # not where the micro-batch had nothing to learn from
            out.total.backward()
        outputs.append((float(out.total.detach()), float(out.count), dict(out.metrics)))

    total, count = all_reduce_sum(
        torch.tensor([[t, c] for t, c, _ in outputs], dtype=torch.float64).sum(dim=0)
    ).tolist()
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
    if not torch.isfinite(torch.tensor([loss, grad_norm])).all():
        raise _non_finite(state, microbatches, loss, grad_norm)
    if run.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(moving, run.clip_norm, norm)
    state.optimizer.step()
    state.step += 1

    seconds = time.perf_counter() - start
    return {
        **mean_metrics(outputs),
        "loss": loss,
        "grad_norm": grad_norm,
        "lr": lr,
        "seconds": seconds,
        "samples_per_second": run.batch / seconds,
        "peak_memory_mb": peak_memory_mb(state.device),
    }


def due(step: int, every: int | None, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and after the last one, happens after `step`."""
    return step == last or (every is not None and step % every == 0)


def loader_of(state: State) -> Loader:
    """The training batches of this rank from the state's step on."""
    run = state.run
    return Loader(
        state.dataset,
        state.task.collator,
        batch=run.batch,
        accumulate=run.accumulate,
        seed=run.seed,
        workers=run.workers,
        rank=state.ranks.rank,
        world=state.ranks.world,
        first_step=state.step,
    )


def introduce(state: State, say: Callable[[str], None]) -> None:
    """Say what is about to train: the data and what was left out of it, the starting weights, what moves."""
    info = state.dataset.info
    say(
        f"{len(state.dataset):,} training samples"
        + (f" of {len(info.class_names)} classes" if info.class_names else "")
    )
    for reason, number in info.dropped.items():
        say(f"  {number} x {reason}")
    if state.coverage is not None:
        say("\n".join(state.coverage.lines()))
    say("\n".join(["what moves:", *state.plan.lines()]))
    say(f"on {state.ranks.world} x {state.device.type}, {'float32' if state.amp is None else 'bf16'}")


def evaluate_all(state: State) -> dict[str, float]:
    """`<evaluation>/<metric>` of each evaluation of the run."""
    return {
        f"{name}/{metric}": value
        for name, measured in state.run.evals.items()
        for metric, value in evaluate(
            state.task,
            measured,
            state.device,
            state.microbatch,
            state.run.workers,
            dataset=state.eval_datasets[name],
            amp=state.amp,
        ).items()
    }


def save_state(state: State) -> None:
    """Checkpoint the state; rank 0 writes."""
    if state.ranks.is_main:
        root = state.out_dir / "checkpoints"
        save(root, step=state.step, model=state.task, optimizer=state.optimizer, keep=state.run.keep)


def mean_metrics(outputs: Sequence[tuple[float, float, dict[str, float]]]) -> dict[str, float]:
    """Each metric's mean over the units of all micro-batches and ranks that gave it."""
    sums: dict[str, list[float]] = {}
    for _, count, metrics in [entry for part in gather_objects(list(outputs)) for entry in part]:
        for name, value in metrics.items():
            weighted = sums.setdefault(name, [0.0, 0.0])
            weighted[0] += value * count
            weighted[1] += count
    return {name: total / max(count, 1.0) for name, (total, count) in sums.items()}


def _non_finite(
    state: State, microbatches: Sequence[Any], loss: float, grad_norm: float
) -> NonFiniteGradient:
    ids = [i for part in gather_objects([i for batch in microbatches for i in batch.ids]) for i in part]
    bad = [
        name
        for name, p in state.task.named_parameters()
        if p.grad is not None and not p.grad.isfinite().all()
    ]
    file = state.out_dir / f"non_finite_step_{state.step + 1:08d}.json"
    if state.ranks.is_main:
        found = {
            "step": state.step + 1,
            "loss": str(loss),
            "grad_norm": str(grad_norm),
            "samples": ids,
            "parameters": bad,
        }
        write_json(file, found)
    return NonFiniteGradient(
        f"step {state.step + 1}: loss {loss:g}, gradient norm {grad_norm:g}; the weights are untouched",
        where=f"samples {', '.join(ids[:4])}{', ...' if len(ids) > 4 else ''} (all in {file})",
        fix="look at these samples; or lower optim.lr, lengthen the warm-up, or set amp=off",
    )
