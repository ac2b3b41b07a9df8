"""From a Run, which is data, to a State, which can be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import copy_assets, is_ours, model_dir
from vistruct.checkpoint.restore import restore
from vistruct.checkpoint.save import newest_good, sweep
from vistruct.checkpoint.weights import Coverage, load_backbone
from vistruct.config import Run
from vistruct.contracts import Dataset
from vistruct.data.account import check_left_out
from vistruct.data.chat.costs import admit
from vistruct.data.checks.groups import check_groups
from vistruct.data.loading.loader import check_split
from vistruct.data.loading.plan import Costs
from vistruct.data.statistics import with_statistics_of_pixels
from vistruct.distributed.gradients import GradientSum, broadcast_weights
from vistruct.distributed.ranks import Ranks, barrier, main_first
from vistruct.distributed.shard import shard
from vistruct.engine.environment import amp_dtype
from vistruct.engine.optim import build_optimizer
from vistruct.engine.schedule import check_schedule
from vistruct.engine.trainable import Plan, apply_moves, set_train_mode
from vistruct.errors import UserError
from vistruct.ops.seeds import derive


@dataclass(kw_only=True)
class State:
    """Everything a run is made of, at one moment."""

    run: Run
    out_dir: Path
    ranks: Ranks
    dataset: Dataset
    costs: Costs | None = None  # of each of its samples, where the task can tell
    eval_datasets: dict[str, Dataset] = field(default_factory=dict)
    task: Any  # nn.Module, Task
    plan: Plan
    optimizer: torch.optim.AdamW
    gradients: GradientSum | None = None  # of all ranks; None: a spread model adds up its own
    coverage: Coverage | None = None  # of the starting weights
    amp: torch.dtype | None = None  # autocast dtype; None: float32
    step: int = 0  # optimiser steps done

    @property
    def device(self) -> torch.device:
        """Where the task is."""
        return self.ranks.device

    @property
    def microbatch(self) -> int:
        """Samples in one forward pass; with `pack`, as many as usually fit the budget."""
        if self.run.pack is None or self.costs is None:
            return self.run.batch // (self.ranks.world * self.run.accumulate)
        return max(1, int(self.run.pack.tokens / max(self.costs.tokens.mean(), 1)))


def build(run: Run, out_dir: Path, ranks: Ranks | None = None) -> State:
    """Read the data, make the task, load its starting weights, decide what moves. The run's seed decides the
    weights.

    Args:
        out_dir: the run directory; `out_dir/model` gets the files that a task makes of its data (a
            tokenizer).
        ranks: by default one process on the CPU.

    Raises:
        UserError: settings that do not fit each other, data that cannot be read, weights that do not fit.
    """
    ranks = ranks or Ranks()
    if run.pack is None:
        check_split(run.batch, world=ranks.world, accumulate=run.accumulate)
    elif run.accumulate != 1:
        raise UserError(
            f"accumulate={run.accumulate} and pack both say what a micro-batch is",
            where="pack",
            fix="leave accumulate at 1: with pack each step has as many micro-batches as it needs",
        )
    check_schedule(run.schedule, run.steps)
    task_part: Any = run.task
    index = out_dir / "index"
    with main_first(ranks):
        dataset = _data(run.data, index, run.max_left_out)
        if "data" in task_part.model_dump(include={"mean", "std"}).values():
            dataset = with_statistics_of_pixels(dataset, index)
        names = dataset.info.class_names
        eval_datasets = {
            name: _data(for_classes(e.data, names), index, run.max_left_out) for name, e in run.evals.items()
        }
        check_groups(dataset, eval_datasets)

    assets = out_dir / "model"
    with main_first(ranks):
        assets.mkdir(parents=True, exist_ok=True)
        if run.start is not None and not run.start.is_file() and is_ours(run.start):
            copy_assets(model_dir(run.start), assets)
        torch.manual_seed(derive(run.seed, "init"))
        task = task_part.build(dataset.info, assets)
    with main_first(ranks):
        dataset, costs = admit(dataset, getattr(task, "measurer", None), max_left_out=run.max_left_out, cache=index)
    if run.pack is not None and costs is None:
        raise UserError(
            f"{type(task).__name__} cannot tell what a sample costs before it is decoded",
            where="pack",
            fix="leave pack out: micro-batches then have equally many samples",
        )
    coverage = _start(run, task)
    plan = apply_moves(task, run.move)
    task.to(ranks.device)
    broadcast_weights(task)
    amp = amp_dtype(run.amp, ranks.device)
    is_spread = run.parallel == "fsdp" and ranks.world > 1
    if is_spread:
        shard(task, ranks.device, amp)
    set_train_mode(task, plan)
    return State(
        run=run,
        out_dir=out_dir,
        ranks=ranks,
        dataset=dataset,
        costs=costs,
        eval_datasets=eval_datasets,
        task=task,
        plan=plan,
        optimizer=build_optimizer(task, run.optim, plan),
        gradients=None if is_spread else GradientSum(p for p in task.parameters() if p.requires_grad),
        coverage=coverage,
        amp=amp,
    )


def resume(state: State, say: Callable[[str], None]) -> None:
    """Go to where the newest intact checkpoint left off, if there is one.

    Raises:
        UserError: there are checkpoints and none is intact, or they are of another model.
    """
    root = state.out_dir / "checkpoints"
    if state.ranks.is_main:
        for orphan in sweep(root):
            say(f"removed {orphan}, left by a save that was cut short")
    barrier()
    newest = newest_good(root, say)
    if newest is not None:
        state.step = restore(newest, model=state.task, optimizer=state.optimizer)
        say(f"going on from step {state.step}")


def _start(run: Run, task: Any) -> Coverage | None:
    """Put the starting weights in place: those of the whole model first, then the backbone's."""
    whole = None
    if run.start is not None:
        # It brings language models along, which most tasks have no use for.
        from vistruct.checkpoint.whole import load_start

        whole = load_start(task, run.start)
    if run.init is None:
        return whole
    return replace(load_backbone(task.backbone, run.init), before=whole)


def for_classes(part: Any, class_names: tuple[str, ...]) -> Any:
    """Data read with a model's classes in their order, where it does not say its own: a part of a data set need not
    have an object of every class."""
    if getattr(part, "classes", ()) is not None or not class_names:
        return part
    return part.model_copy(update={"classes": class_names})


def _data(part: Any, cache: Path, max_left_out: float) -> Dataset:
    dataset = part.build(cache=cache)
    check_left_out(getattr(dataset, "accounts", ()), max_left_out)
    return dataset
