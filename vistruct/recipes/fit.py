"""How long the generic recipes learn, how often they are measured, and which of their weights are kept: said once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vistruct.config import Eval, Schedule
from vistruct.errors import UserError
from vistruct.recipes.tune import Tuning, tuned


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Options of every generic recipe, beside `steps`."""

    # Fine-tuning: full: everything is trainable; lora: the backbone is frozen but for adapters; head: it is frozen.
    tune: Tuning = "full"
    epochs: float | None = None  # passes over the training data, in place of steps; None: by the number of samples
    eval_every: int | None = None  # steps; None: an epoch or a tenth of the run, whichever is more
    keep_model: Literal["best", "last"] | None = None  # the weights shipped; None: best, where one evaluation can tell
    best_by: str | None = None  # EVALUATION/NUMBER that tells which are best; None: the usual one of the evaluation
    patience: int | None = None  # early stopping: evaluations without a better one that end the run; None: none do
    # Mixed precision; auto: bf16 where the machine is faster with it; fp16: for GPUs without bf16, gradients scaled.
    precision: Literal["auto", "bf16", "fp16", "float32"] | None = None
    log: tuple[Literal["wandb", "mlflow"], ...] = ()  # send metrics to Weights & Biases or MLflow too
    ema: float | None = None  # decay of a moving average (EMA) of the weights, which is measured and kept; 0.999, say


BatchSize = int | Literal["auto"]  # auto: as many as usual, in micro-batches that fit into memory
USUAL_BATCH = {
    "detect": 8, "oriented": 8, "segment": 8, "change": 8, "panoptic": 8,
    "classify": 64, "caption": 64, "ocr": 64, "identify": 16,
}  # fmt: skip


def in_pieces(recipe: str, batch: BatchSize) -> tuple[int, dict[str, Any]]:
    """Samples in a step, and how a `Run` says that they are cut by memory."""
    return (USUAL_BATCH[recipe], {"accumulate": "auto"}) if batch == "auto" else (batch, {})


BY_DATA = Fit()
HEAD_ONLY = Fit(tune="head")


def fitted(fit: Fit, steps: int | None, evals: Mapping[str, Eval], task: Any) -> dict[str, Any]:
    """What they are in a `Run`.

    Args:
        task: its config, of several one.

    Raises:
        UserError: steps and epochs, or fewer than one of either; something that needs an evaluation, and there is none.
    """
    if steps is not None and fit.epochs is not None:
        what = f"{steps} steps and {fit.epochs:g} epochs both say how long to train"
        raise UserError(what, where=f"--steps {steps} --epochs {fit.epochs:g}", fix="give one of them, or neither")
    if steps is not None and steps < 1:
        raise UserError(f"{steps} steps", where="--steps", fix="1 or more; without --steps the data decide")
    if not evals:
        asked = {"--keep-model": fit.keep_model == "best", "--best-by": fit.best_by is not None}
        asked |= {"--patience": fit.patience is not None, "--eval-every": fit.eval_every is not None}
        for option in (one for one, is_asked in asked.items() if is_asked):
            fix = "give data to measure on: --val PATH, or --val-split NAME"
            raise UserError("nothing is measured that could tell", where=option, fix=fix)
    can_tell = len(evals) == 1 or (fit.best_by is not None and bool(evals))
    return {
        "steps": steps or 0,
        "epochs": fit.epochs,
        "schedule": Schedule(warmup_steps=None),
        "eval_every": "auto" if fit.eval_every is None else fit.eval_every,
        "keep_model": fit.keep_model or ("best" if can_tell else "last"),
        "best_by": fit.best_by or "",
        "patience": fit.patience,
        "ema": fit.ema,
        "log": fit.log,
        **({} if fit.precision is None else {"amp": "off" if fit.precision == "float32" else fit.precision}),
        "trainable": tuned(fit.tune, task),
    }
