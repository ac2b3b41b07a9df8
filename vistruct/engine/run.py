"""From a Run, which is data, to a State, which can be trained."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistruct.checkpoint.load import copy_assets, is_ours, model_dir, stopped_run
from vistruct.checkpoint.manifest import Standing, read_manifest
from vistruct.checkpoint.parts import load_parts
from vistruct.checkpoint.restore import restore
from vistruct.checkpoint.save import newest_good, sweep
from vistruct.checkpoint.weights import Coverage, load_backbone
from vistruct.config import Run, Stream, Trainable, flat
from vistruct.contracts import Costs, Dataset, MapTask, Task, named_term
from vistruct.data.chat.costs import admit
from vistruct.data.checks.counted import check_counted, is_named
from vistruct.data.checks.groups import check_groups
from vistruct.data.loading.loader import check_split
from vistruct.data.loading.streams import learners
from vistruct.distributed.gradients import GradientSum, broadcast_weights
from vistruct.distributed.precision import amp_dtype
from vistruct.distributed.ranks import Ranks, barrier, main_first
from vistruct.distributed.shard import shard
from vistruct.engine.average import Averaged, averages
from vistruct.engine.data_sets import learned_from, measured_on
from vistruct.engine.evaluate import measurable
from vistruct.engine.kept_maps import KeptMaps, kept_maps
from vistruct.engine.length import settled
from vistruct.engine.lora import begin_with
from vistruct.engine.optim import build_optimizer
from vistruct.engine.schedule import check_schedule
from vistruct.engine.teachers import Present, kept, present
from vistruct.engine.trainable import Plan, apply_rules, set_train_mode
from vistruct.errors import UserError, closest
from vistruct.ops.seeds import derive
from vistruct.tasks.joint import Joint, share_trunk


@dataclass(frozen=True, kw_only=True)
class Source:
    """A stream of a run, ready: its samples, and the task that learns from them."""

    name: str
    stream: Stream
    dataset: Dataset
    task: Any  # nn.Module, Task
    costs: Costs | None = None  # of each sample, where the task can tell
    coverage: Coverage | None = None  # of the weights that the task started from

    def microbatch(self, world: int, accumulate: int) -> int:
        """Samples in one forward pass; with `pack`, as many as usually fit the budget."""
        if self.stream.pack is None or self.costs is None:
            return self.stream.batch // (world * accumulate)
        return max(1, int(self.stream.pack.tokens / max(self.costs.tokens.mean(), 1)))


@dataclass(kw_only=True)
class State:
    """Everything a run is made of, at one moment."""

    run: Run
    out_dir: Path
    ranks: Ranks
    sources: dict[str, Source]  # by the name of their stream
    eval_datasets: dict[str, Dataset] = field(default_factory=dict)
    model: nn.Module  # the task, or several of them over one backbone
    plan: Plan
    optimizer: torch.optim.AdamW
    gradients: GradientSum | None = None  # of all ranks; None: a spread model adds up its own
    coverage: Coverage | None = None  # of the backbone's starting weights
    teachers: tuple[Present, ...] = ()  # frozen, outside of the model
    loss_weights: dict[str, float] = field(default_factory=dict)  # of terms that do not count once
    amp: torch.dtype | None = None  # autocast dtype; None: float32
    scaler: torch.amp.GradScaler | None = None  # of fp16, whose small gradients would be zero
    average: Averaged | None = None  # EMA of the weights, in whose place they are measured and shipped
    maps: KeptMaps | None = None  # of a frozen backbone, kept on disk; None: it looks at every batch
    step: int = 0  # optimiser steps done
    cuts_again: bool = False  # smaller micro-batches may be taken where memory runs out
    # The samples of this step in more micro-batches; None: they cannot be cut further.
    smaller: Callable[[], Sequence[Any] | None] | None = None
    standing: Standing = field(default_factory=Standing)  # by the number that the run is judged by

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.ranks.device

    @property
    def only(self) -> Source:
        """The source of a run that has one; as `Run.only`."""
        return self.sources[next(name for name, stream in self.run.streams.items() if stream is self.run.only)]

    def asked(self, evaluation: str) -> Source:
        """The source whose task an evaluation asks."""
        return self.sources[self.run.task_of(self.run.evals[evaluation])]

    def coverages(self) -> list[Coverage]:
        """Of all starting weights, in the order in which they were put in place."""
        own = [source.coverage for source in self.sources.values()]
        return [one for one in (*own, self.coverage) if one is not None]


def build(run: Run, out_dir: Path, ranks: Ranks | None = None, index: Path | None = None) -> State:
    """Read the data, count the steps, make the tasks, load their starting weights, decide what is trainable. The run's
    seed decides the weights.

    Args:
        out_dir: the run directory; `out_dir/model` gets the files that a task makes of its data (a
            tokenizer).
        ranks: by default one process on the CPU.
        index: folder for what is found out about the data, which several runs may have in common; None:
            `out_dir/index`.

    Raises:
        UserError: settings that do not fit each other, data that cannot be read, weights that do not fit.
    """
    ranks = ranks or Ranks()
    _check(run, ranks)
    index = index or out_dir / "index"
    with main_first(ranks):
        datasets = learned_from(run, index)
        eval_datasets = measured_on(run, datasets, index)
        evals = {name: (run.task_of(e), eval_datasets[name]) for name, e in run.evals.items()}
        check_counted(datasets, evals, {name: is_named(stream.data) for name, stream in run.streams.items()})
        check_groups(datasets, evals)
        for name, e in run.evals.items():  # what cannot be measured is told now, not after the last step
            e.metric.build(eval_datasets[name])
    with main_first(ranks):
        tasks = _tasks(run, datasets, out_dir)
        for name, e in run.evals.items():
            asked = tasks[run.task_of(e)]
            eval_datasets[name] = measurable(asked, e, eval_datasets[name], run.max_left_out)
    with main_first(ranks):
        sources = {
            name: _admitted(name, stream, datasets[name], tasks[name], run.max_left_out, index)
            for name, stream in run.streams.items()
        }
    run = settled(run, {name: len(source.dataset) for name, source in sources.items()})
    check_schedule(run.schedule, run.steps)
    sources = _started(sources)
    model = next(iter(tasks.values())) if len(tasks) == 1 else Joint(tasks)
    backbone: Any = model.backbone
    coverage = None if run.init is None else load_backbone(backbone, run.init)
    teachers = present(tasks)
    plan = apply_rules(model, (*run.trainable, *_still(tasks)))
    if run.adapters is not None:
        started = (one.coverage for one in sources.values() if one.coverage is not None)
        already = [record for one in (*started, *([coverage] if coverage else [])) for record in one.adapters]
        coverage = begin_with(model, run.adapters, coverage, already)
    model.to(ranks.device)
    broadcast_weights(model)
    amp = amp_dtype(run.amp, ranks.device)
    is_spread = run.parallel == "fsdp" and ranks.world > 1
    if is_spread and amp == torch.float16:
        what = "gradients of fp16 are not scaled where they lie spread"
        raise UserError(what, where="amp", fix="amp=bf16, or parallel=ddp")
    if is_spread:
        shard(model, ranks.device, amp)
    set_train_mode(model, plan)
    if run.ema is not None:
        _check_averaged(tasks)
    return State(
        run=run,
        out_dir=out_dir,
        ranks=ranks,
        sources=sources,
        eval_datasets=eval_datasets,
        model=model,
        plan=plan,
        optimizer=build_optimizer(model, run.optim, plan),
        gradients=None if is_spread else GradientSum(p for p in model.parameters() if p.requires_grad),
        coverage=coverage,
        teachers=teachers if run.cache_maps is None else kept(teachers, run, ranks, amp),
        loss_weights=loss_weights(run, {name: task.traits.terms for name, task in tasks.items()}),
        amp=amp,
        scaler=torch.amp.GradScaler(ranks.device.type) if amp == torch.float16 else None,
        average=None if run.ema is None else Averaged.of(model, run.ema),
        maps=None if run.cache_maps is None or teachers else kept_maps(run, model, tasks, ranks, amp),
    )


def _check(run: Run, ranks: Ranks) -> None:
    """Refuse settings that do not fit each other, before anything is read."""
    first = next(iter(run.streams))
    for name, stream in run.streams.items():
        if stream.pack is None:
            where = "batch" if len(run.streams) == 1 else f"streams.{name}.batch"
            check_split(stream.batch, world=ranks.world, accumulate=run.pieces, where=where)
        elif run.accumulate != 1 and len(run.streams) == 1:
            raise UserError(
                f"accumulate={run.accumulate} and pack both say what a micro-batch is",
                where="pack",
                fix="leave accumulate at 1: with pack each step has as many micro-batches as it needs",
            )
        mine, others = (
            flat(run.streams[one].task.model_dump(mode="json").get("backbone") or {}) for one in (name, first)
        )
        for key in dict.fromkeys([*mine, *others]):
            if mine.get(key) != others.get(key):
                what = (
                    f"streams have one backbone, and {key} is {others.get(key)} in {first}, {mine.get(key)} in {name}"
                )
                raise UserError(
                    what, where=f"streams.{name}.task.backbone", fix="describe the same backbone in all tasks"
                )
    if run.steps:
        check_schedule(run.schedule, run.steps)


def _check_averaged(tasks: Mapping[str, Task]) -> None:
    for name, task in tasks.items():
        if task.traits.ships != "backbone":
            what = f"ema averages what learns, and {name} ships {task.traits.ships}, an average of its own"
            raise UserError(what, where="ema", fix="leave ema out: what is shipped is averaged already")


def _still(tasks: Mapping[str, Task]) -> list[Trainable]:
    """What never trains, whatever the rules say."""
    alone = len(tasks) == 1
    return [
        Trainable(pattern=module if alone else f"tasks.{name}.{module}", mode="frozen")
        for name, task in tasks.items()
        for module in task.traits.still
    ]


def _tasks(run: Run, datasets: Mapping[str, Dataset], out_dir: Path) -> dict[str, Any]:
    """The task of each stream, in order; the first builds the backbone, the others are handed it."""
    torch.manual_seed(derive(run.seed, "init"))
    tasks: dict[str, Any] = {}
    for name, stream in run.streams.items():
        assets = model_place(run, out_dir, name)
        assets.mkdir(parents=True, exist_ok=True)
        if stream.start is not None and not stream.start.is_file() and is_ours(stream.start):
            start = stream.start
            kept = next((p for p in (start / "model" / name, start / "model") if p.is_dir()), start)
            copy_assets(kept if stopped_run(start) else model_dir(start, name), assets)
        part: Any = stream.task
        backbone = next((task.backbone for task in tasks.values()), None)
        tasks[name] = part.build(datasets[name].info, assets, backbone)
    for name, stream in run.streams.items():
        if stream.trunk:
            share_trunk(tasks[name], tasks[stream.trunk], f"streams.{name}.trunk")
        together = run.one_pass or len(learners(run, stream.samples or name)) > 1
        if together and not isinstance(tasks[name], MapTask):
            what = f"a task of kind {stream.task.kind} learns from more than the backbone's maps"
            fix = "one_pass=false, and samples of its own"
            raise UserError(what, where=f"streams.{name}.task", fix=fix)
    return tasks


def _admitted(name: str, stream: Stream, dataset: Dataset, task: Any, max_left_out: float, cache: Path) -> Source:
    """The samples of a stream that its task can learn from."""
    dataset, costs = admit(dataset, task.traits.measurer, max_left_out=max_left_out, cache=cache)
    if stream.pack is not None and costs is None:
        raise UserError(
            f"{type(task).__name__} cannot tell what a sample costs before it is decoded",
            where="pack",
            fix="leave pack out: micro-batches then have equally many samples",
        )
    return Source(name=name, stream=stream, dataset=dataset, task=task, costs=costs)


def _started(sources: Mapping[str, Source]) -> dict[str, Source]:
    """With the weights that each task starts from in place; they must agree about what tasks have in common.

    Raises:
        UserError: two of them bring different backbones, or a trunk that they share.
    """
    started = dict(sources)
    brought: dict[int, tuple[str, Tensor]] = {}  # by where it lies in memory: who brought it, and what
    starts = {name: source.stream.start for name, source in sources.items() if source.stream.start is not None}
    for name, start in starts.items():
        source = sources[name]
        # It brings language models along, which most tasks have no use for.
        from vistruct.checkpoint.whole import load_start

        started[name] = replace(source, coverage=load_start(source.task, start, name, source.stream.start_set))
        if len(starts) == 1:
            break
        for key, value in source.task.state_dict().items():
            other, there = brought.setdefault(value.data_ptr(), (name, value.clone()))
            if value.numel() and not torch.equal(there, value):
                what = f"{other} and {name} start from different weights of {key}, which they have in common"
                fix = "start from runs over the same frozen backbone, or one of them alone"
                raise UserError(what, where=f"streams.{name}.start", fix=fix)
    for name, source in started.items():
        if source.stream.start_parts:
            found = load_parts(source.task, source.stream.start_parts, source.coverage)
            started[name] = replace(source, coverage=found)
    return started


def loss_weights(run: Run, terms: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Factors of the terms of the loss that do not count once, by their names in a step.

    Args:
        terms: of each stream's task.

    Raises:
        UserError: a factor on a term that the task does not have.
    """
    found: dict[str, float] = {}
    for name, stream in run.streams.items():
        for term in stream.loss_weights:
            if not (term == "*" or fnmatch.filter(terms[name], term)):
                where = "loss_weights" if len(run.streams) == 1 else f"streams.{name}.loss_weights"
                raise UserError(f"the loss has no term {term!r}", where=where, fix=closest(term, terms[name]))
        whole = stream.weight if run.draw == "every" else 1.0
        for term in terms[name]:
            own = [value for pattern, value in stream.loss_weights.items() if fnmatch.fnmatchcase(term, pattern)]
            factor = whole * math.prod(own)
            found[term if len(run.streams) == 1 else named_term(name, term)] = factor
    return {term: factor for term, factor in found.items() if factor != 1.0}


def model_place(run: Run, out_dir: Path, stream: str) -> Path:
    """Where a run leaves the model of a stream: `model/`, or `model/STREAM` where there are several."""
    return out_dir / "model" if len(run.streams) == 1 else out_dir / "model" / stream


def started_from(state: State, source: Source) -> str:
    """Where the weights of a task came from that the run began with."""
    paths = [str(path) for path in (source.stream.start, state.run.init) if path]
    weights = ", then the backbone of ".join(paths) or "random weights"
    weights += "".join(f", {part} of {path}" for part, path in source.stream.start_parts.items())
    return weights + (f", and the adapters of {state.run.adapters}" if state.run.adapters else "")


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
        state.step = restore(newest, model=state.model, optimizer=state.optimizer, average=averages(state.average))
        manifest = read_manifest(newest)
        state.standing = manifest.standing or state.standing
        if state.scaler is not None and manifest.scaler is not None:
            state.scaler.load_state_dict(dict(manifest.scaler))
        say(f"resuming from step {state.step}")
