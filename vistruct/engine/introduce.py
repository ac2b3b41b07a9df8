"""What a run says in words: before its first step, after it, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vistruct.config import Run
from vistruct.contracts import Dataset, OutsideTeacher, Sample
from vistruct.data.loading.streams import Streams, learners, streams_of
from vistruct.data.statistics import in_words
from vistruct.distributed.ranks import gather_objects
from vistruct.distributed.shard import is_sharded
from vistruct.engine.average import ema_in_words
from vistruct.engine.evaluate import asked_of
from vistruct.engine.kept_maps import Shown, announce
from vistruct.engine.length import length_in_words
from vistruct.engine.run import State
from vistruct.engine.step import without_gradient
from vistruct.issues import IssueCounter


def introduce(state: State, say: Callable[[str], None]) -> None:
    """Say what is about to train: the data and what was left out of it, the length, the starting weights, what is
    trainable."""
    say("\n".join(length_in_words(state.run, {name: len(one.dataset) for name, one in state.sources.items()})))
    for name, source in state.sources.items():
        info = source.dataset.info
        if source.stream.samples:
            say(f"{name}: the samples of {source.stream.samples}")
            continue
        if info.class_names:
            several = "es" if len(info.class_names) > 1 else ""
            say(("" if len(state.sources) == 1 else f"{name}: ") + f"{len(info.class_names)} class{several}")
        if info.pixels != "uint8" or info.mean is not None:
            say(in_words(info))
        for reason, number in info.dropped.items():
            say(f"  {number} x {reason}")
    for name, source in state.sources.items():
        for line in source.task.traits.remarks:
            say(line if len(state.sources) == 1 else f"{name}: {line}")
    if len(state.sources) > 1:
        say(drawn_in_words(state.run))
    told: list[Dataset] = []  # several tasks may be measured on the same
    for name, measured in state.run.evals.items():
        when, dataset = " at the end" if measured.at_end else "", state.eval_datasets[name]
        say(f"evaluation {name}{when}: {asked_of(measured, dataset)}")
        if not any(dataset is one for one in told):
            for reason, number in dataset.info.dropped.items():
                say(f"  {number} x {reason}")
        told.append(dataset)
    for coverage in (*state.coverages(), *(one.coverage for one in state.teachers)):
        say("\n".join(coverage.lines()))
    say("\n".join(["trainable parameters:", *state.plan.lines()]))
    streams = state.run.streams.values()
    is_fresh = state.run.init is None and not any(one.start or one.start_parts for one in streams)
    if is_fresh and any(one.pattern.startswith("backbone") and one.mode != "full" for one in state.run.trainable):
        say("WARNING: the backbone is frozen and has random weights: it never learns (--backbone FILE, or --tune full)")
    if state.run.ema is not None:
        say(f"measured and shipped: {ema_in_words(state.run.ema)}")
    spread = ", spread over them" if is_sharded(state.model) else ""
    precision = {None: "float32", torch.float16: "fp16, gradients scaled"}.get(state.amp, "bf16")
    say(f"device: {state.ranks.world} x {state.device.type}, precision: {precision}{spread}")


def announce_maps(state: State, say: Callable[[str], None]) -> None:
    """Say how much room the maps that are kept will take.

    Raises:
        UserError: more than is free.
    """
    if state.maps is not None:
        sources = [source for source in state.sources.values() if not source.stream.samples]
        shown = [Shown(dataset=s.dataset, images=partial(_seen_by_backbone, s.task, state.device)) for s in sources]
        announce(state.maps, shown, say)
    for one in state.teachers:
        if one.maps is not None:
            images = partial(_seen_by, one.teacher, state.device)
            announce(one.maps, [Shown(dataset=state.sources[one.stream].dataset, images=images)], say)


def _seen_by_backbone(task: Any, device: torch.device, samples: list[Sample]) -> Tensor:
    return task.images(task.collator(samples).to(device))


def _seen_by(teacher: OutsideTeacher, device: torch.device, samples: list[Sample]) -> Tensor:
    return teacher.seen(torch.stack([sample.images[0] for sample in samples]).to(device))


def drawn_in_words(run: Run) -> str:
    """How the streams of a run take part in its steps."""
    if run.draw == "every":
        told = {n: n + (f" (loss x {s.weight:g})" if s.weight != 1 else "") for n, s in run.streams.items()}
        parts = (
            f"{s.batch} of {' and '.join(told[one] for one in learners(run, name))}"
            for name, s in run.streams.items()
            if not s.samples
        )
        passed = ", in one pass of the backbone" if run.one_pass else ""
        return f"each step learns from every stream{passed}: {', '.join(parts)}"
    whole = sum(s.weight for s in run.streams.values())
    parts = (f"{name} {s.weight / whole:.1%} ({s.batch} samples)" for name, s in run.streams.items())
    return f"each step learns from one stream, drawn: {', '.join(parts)}"


def tell_unused(state: State, say: Callable[[str], None]) -> None:
    """Say which parts are trainable and had no share in the first step's loss, whose streams had their turn in it."""
    drawn = streams_of(state.run, state.step - 1)
    waiting = tuple(f"tasks.{name}." for name in state.run.streams if name not in drawn)
    # Of a fresh adapter B is zero, and so is the first gradient of A.
    names = [n for n in without_gradient(state) if not n.endswith(".lora_A") and not n.startswith(waiting)]
    if names:
        rest = ", ..." if len(names) > 4 else ""
        why = "no part in the loss, or behind a layer that begins at zero"
        say(f"{len(names)} trainable tensors had no gradient in the first step ({why}): {', '.join(names[:4])}{rest}")


def tell_replaced(loader: Streams, say: Callable[[str], None]) -> None:
    """Say how many samples others stood in for, on all ranks, since this process began."""
    report = IssueCounter()
    for part in gather_objects(loader.report):
        report.merge(part)
    for line in report.lines():
        say(line)
