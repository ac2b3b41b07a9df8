"""Whether what a run leaves is what it trained: both are given the same sample, and must have the same loss.

The shipped model is read as a user's would be, from its folder alone. The trained one is the one in memory, adapters
and all, so that a weight which was merged wrongly, or under one of its names only, is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vistruct.checkpoint.load import load_model
from vistruct.contracts import Sample
from vistruct.distributed.shard import gathered, is_sharded
from vistruct.engine.evaluate import eval_mode
from vistruct.engine.run import Source, State
from vistruct.engine.teachers import fetch
from vistruct.errors import UserError
from vistruct.ops.seeds import derive

APART = 5e-3  # of a term: merged adapters round otherwise, and what is drawn by a rank of scores may change with that
APART_IN_HALF = 0.1  # where the trained weights lie spread over devices in half precision
TRIED = 20  # samples, until one can be read


def asked(state: State, source: Source) -> dict[str, float]:
    """The loss of the task in memory on one of its samples; empty where none can be read.

    All ranks call it together; rank 0 alone has the answer.
    """
    state.optimizer.zero_grad(set_to_none=True)  # the shipped model takes their room
    with gathered(state.model):
        return _loss(state, source, source.task, state.device) if state.ranks.is_main else {}


def prove(state: State, source: Source, folder: Path, expected: Mapping[str, float]) -> None:
    """Ask the model in `folder` what `asked` has asked; one that answers otherwise is not left there as a model.

    Raises:
        UserError: it answers otherwise, or cannot be read.
    """
    if not expected:
        return
    is_spread = is_sharded(state.model)
    device = torch.device("cpu") if is_spread else state.device  # no device may have room for all of it
    try:
        shipped_task = load_model(folder, device)[0]
        fetch(shipped_task, device)
        found = _loss(state, source, shipped_task, device)
        allowed = APART_IN_HALF if is_spread and state.amp is not None else APART
        for term, trained in expected.items():
            shipped = found[term]
            if not math.isclose(trained, shipped, rel_tol=allowed, abs_tol=1e-3) and math.isfinite(trained):
                raise UserError(
                    f"the model that would be shipped is not the one that was trained: {term} of one sample is "
                    f"{shipped:.4g} there and {trained:.4g} here",
                    where=folder,
                    fix=f"report this; the trained weights are whole, in {state.out_dir / 'checkpoints'}",
                )
    except UserError:
        (folder / "model.json").unlink(missing_ok=True)
        raise


@torch.no_grad()
def _loss(state: State, source: Source, task: Any, device: torch.device) -> dict[str, float]:
    """Terms of the loss, a mean over their units, of the first sample of a stream."""
    seed = derive(state.run.seed, "shipped")
    sample = _sample(source, seed)
    if sample is None:
        return {}
    batch = source.task.collator([sample]).to(device)
    with eval_mode(task), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        terms, units = task(batch).terms, task.units(batch)
    return {name: float(term) / (float(units[name]) or 1.0) for name, term in terms.items()}


def _sample(source: Source, seed: int) -> Sample | None:
    for index in range(min(len(source.dataset), TRIED)):
        try:
            return source.dataset.sample(index, seed)
        except UserError:  # a file that broke since the run began; others stood in for it
            continue
    return None
