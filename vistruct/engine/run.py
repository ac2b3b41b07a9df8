"""From a Run, which is data, to a State, which can be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import copy_assets, load_exactly, model_dir, restore
from vistruct.checkpoint.save import newest_good, sweep
from vistruct.checkpoint.tensors import read_tensors
from vistruct.checkpoint.weights import Coverage, load_backbone
from vistruct.config import Run
from vistruct.contracts import Dataset
from vistruct.data.loader import check_split
from vistruct.distributed.gradients import broadcast_weights
from vistruct.distributed.ranks import Ranks, from_main, main_first
from vistruct.engine.environment import amp_dtype
from vistruct.engine.optim import build_optimizer
from vistruct.engine.schedule import check_schedule
from vistruct.engine.trainable import Plan, apply_moves, set_train_mode
from vistruct.ops.seeds import derive


@dataclass(kw_only=True)
class State:
    """Everything a run is made of, at one moment."""

    run: Run
    out_dir: Path
    ranks: Ranks
    dataset: Dataset
    eval_datasets: dict[str, Dataset] = field(default_factory=dict)
    task: Any  # nn.Module, Task
    plan: Plan
    optimizer: torch.optim.AdamW
    coverage: Coverage | None = None  # of the starting weights
    amp: torch.dtype | None = None  # autocast dtype; None: float32
    step: int = 0  # optimiser steps done

    @property
    def device(self) -> torch.device:
        """Where the task is."""
        return self.ranks.device

    @property
    def microbatch(self) -> int:
        """Samples in one forward pass."""
        return self.run.batch // (self.ranks.world * self.run.accumulate)


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
    check_split(run.batch, world=ranks.world, accumulate=run.accumulate)
    check_schedule(run.schedule, run.steps)
    task_part: Any = run.task
    dataset = _data(run.data)
    eval_datasets = {name: _data(e.data) for name, e in run.evals.items()}

    assets = out_dir / "model"
    with main_first(ranks):
        assets.mkdir(parents=True, exist_ok=True)
        if run.start is not None:
            copy_assets(model_dir(run.start), assets)
        torch.manual_seed(derive(run.seed, "init"))
        task = task_part.build(dataset.info, assets)
    if run.start is not None:
        start = model_dir(run.start)
        load_exactly(task, read_tensors(start / "model.safetensors"), start)
    coverage = load_backbone(task.backbone, run.init) if run.init is not None else None
    plan = apply_moves(task, run.move)
    task.to(ranks.device)
    broadcast_weights(task)
    set_train_mode(task, plan)
    return State(
        run=run,
        out_dir=out_dir,
        ranks=ranks,
        dataset=dataset,
        eval_datasets=eval_datasets,
        task=task,
        plan=plan,
        optimizer=build_optimizer(task, run.optim, plan),
        coverage=coverage,
        amp=amp_dtype(run.amp, ranks.device),
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
    newest = from_main(newest_good(root, say) if state.ranks.is_main else None)
    if newest is not None:
        state.step = restore(newest, model=state.task, optimizer=state.optimizer)
        say(f"going on from step {state.step}")


def _data(part: Any) -> Dataset:
    return part.build()
