"""Numbers for a task on a data set, the same for any number of ranks, workers and samples in a batch."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vistruct.checkpoint.save import write_json
from vistruct.config import Eval
from vistruct.contracts import Dataset, Ratio, StepOutput, Watching
from vistruct.data.chat.costs import admit
from vistruct.data.loading.loader import eval_batches
from vistruct.distributed.precision import autocast
from vistruct.distributed.ranks import from_main, gather_objects, setup
from vistruct.engine.teachers import fetch
from vistruct.errors import UserError
from vistruct.files.json_files import read_cached
from vistruct.ops.seeds import derive


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation has found."""

    numbers: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)  # what no single number can say, as plain json


def evaluate(
    task: Any,
    eval: Eval,
    device: torch.device,
    batch: int,
    workers: int = 0,
    *,
    dataset: Dataset | None = None,
    amp: torch.dtype | None = None,
) -> dict[str, float]:
    """The numbers of `measure`."""
    return measure(task, eval, device, batch, workers, dataset=dataset, amp=amp).numbers


def measurable(task: Any, eval: Eval, dataset: Dataset, max_left_out: float = 1.0) -> Dataset:
    """The samples that the task can be asked about; the others are counted in its info.

    Raises:
        UserError: more than this part of a data set is left out.
    """
    measurer = task.traits.measurer if asks_as_trained(eval, dataset) else task.traits.predict_measurer
    return admit(dataset, measurer, max_left_out=max_left_out)[0]


def asks_as_trained(eval: Eval, dataset: Dataset) -> bool:
    """Whether the samples are put before the task as in training, for its loss, and not for its predictions."""
    metric_part: Any = eval.metric
    return _needs_loss(metric_part.build(dataset))


def _needs_loss(metric: Any) -> bool:
    # As `measure` says of what it asks for.
    return getattr(metric, "needs_loss", False)


# Not inference_mode: what a module caches there (positions, anchors) could not be trained with later.
@torch.no_grad()
def measure(
    task: Any,
    eval: Eval,
    device: torch.device,
    batch: int,
    workers: int = 0,
    *,
    dataset: Dataset | None = None,
    amp: torch.dtype | None = None,
) -> Measured:
    """Ask the task about every sample once, in eval mode, and measure the answers.

    A metric with `needs_loss = True` is given the StepOutput of each batch, and the units of its terms, instead of
    predictions; one with a method
    `condense` gets what that makes of each prediction, where it was made: less to keep and to send. The task's
    modes are afterwards as before. The global random state is set. A sample may have several predictions: they stay in
    their order.

    Args:
        eval: what on, and measured how.
        batch: samples in a forward pass on one device.
        workers: loader processes for each device.
        dataset: what `eval.data` builds, if it is already there.
        amp: autocast dtype; None: float32.

    Returns:
        numbers by name and the metric's details, the same on every rank.

    Raises:
        UserError: a data set without samples, or one that cannot be read.
    """
    ranks = setup()
    data_part: Any = eval.data
    metric_part: Any = eval.metric
    dataset = data_part.build() if dataset is None else dataset
    if len(dataset) == 0:
        raise UserError(
            "nothing to evaluate on: the data set has no samples", where="evals", fix="check its annotations"
        )
    metric = metric_part.build(dataset)
    needs_loss = _needs_loss(metric)
    if needs_loss:
        fetch(task, device)
    # A metric needs two verbs, `update` and `compute`; what else it has is asked for here, and nowhere else.
    condense = getattr(metric, "condense", lambda prediction: prediction)  # what it keeps of each, on its rank
    torch.manual_seed(derive(0, "eval"))
    # Some tasks are asked otherwise than trained: without the answers.
    collator = task.collator if needs_loss else task.traits.predict_collator or task.collator
    among = few(len(dataset), vars(metric_part).get("limit"))
    found: list[tuple[int, Any]] = []  # by index of the (first) sample
    with eval_mode(task):
        for indices, samples in eval_batches(dataset, collator, batch, ranks.rank, ranks.world, workers, among):
            moved = samples.to(device)
            with autocast(amp, device):
                answer = task(moved) if needs_loss else task.predict(moved)
            if needs_loss:
                units = {name: float(number) for name, number in task.units(moved).items()}
                found.append((indices[0], (_on_cpu(answer), units)))
            else:
                # Only batches of conversations have several rows of one sample.
                owners = getattr(samples, "owners", range(len(indices)))
                if len(answer) != len(owners) or set(owners) != set(range(len(indices))):
                    raise ValueError(
                        f"{type(task).__name__}.predict gave {len(answer)} predictions for {len(indices)} samples"
                    )
                found += zip((indices[owner] for owner in owners), map(condense, answer), strict=True)
    everything = sorted((pair for part in gather_objects(found) for pair in part), key=lambda pair: pair[0])
    measured = Measured(numbers={})
    if ranks.is_main:
        metric.update([answer for _, answer in everything])
        numbers = metric.compute()
        details = metric.details() if hasattr(metric, "details") else {}  # some have more to say than numbers
        measured = Measured(numbers=numbers, details=details)
    return from_main(measured)


def keep_measured(path: Path, metric: str, step: int | None, measured: Measured) -> None:
    """Write `{"metric", "step", "numbers", "details"}` as json; numbers that are not finite become null.

    Args:
        metric: the kind of the metric.
        step: of the run; None: it is finished.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: value if math.isfinite(value) else None for name, value in measured.numbers.items()}
    write_json(path, {"metric": metric, "step": step, "numbers": numbers, "details": measured.details})


def watched(path: Path, metric: Any, measured: Measured) -> Measured:
    """With `first` and `alarms` in its details, where the metric's config watches over a run.

    Args:
        path: where the run's earlier measurement of the same lies, if there was one.
    """
    if not isinstance(metric, Watching):
        return measured
    earlier = read_cached(path, dict[str, Any]) if path.exists() else None
    first = (earlier or {}).get("details", {}).get("first", {})
    alarms = metric.alarms(measured.numbers, first)
    own = {name: value if math.isfinite(value) else None for name, value in measured.numbers.items()}
    return replace(measured, details={**measured.details, "first": first or own, "alarms": alarms})


def asked_of(eval: Eval, dataset: Dataset) -> str:
    """In words: how many of a data set's samples an evaluation takes."""
    metric: Any = eval.metric
    taken = len(few(len(dataset), vars(metric).get("limit")))
    share = "" if taken == len(dataset) else f" of {len(dataset):,}, drawn once and for all"
    split = vars(eval.data).get("split")  # data sets of one piece have none
    return f"{metric.kind} on {taken:,} samples{share}" + (f" ({split})" if split else "")


def few(total: int, most: int | None) -> Sequence[int]:
    """Indices of `most` of `total` samples in their order, always the same ones; all of them where `most` is None."""
    if most is None or most >= total:
        return range(total)
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(derive(0, "eval", "few")))
    return sorted(drawn[:most].tolist())


def _on_cpu(out: StepOutput) -> StepOutput:
    metrics = {name: Ratio(total=float(one.total), count=float(one.count)) for name, one in out.metrics.items()}
    return StepOutput(terms={name: term.detach().double().cpu() for name, term in out.terms.items()}, metrics=metrics)


@contextmanager
def eval_mode(task: nn.Module) -> Generator[None]:
    """Eval mode, and afterwards each module's own mode again (frozen parts keep eval mode in training)."""
    modes = [(module, module.training) for module in task.modules()]
    task.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
