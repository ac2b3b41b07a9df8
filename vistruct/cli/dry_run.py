"""What `train --dry-run` prints: the resolved run as YAML, with all that was found out about it as comments.

The output is itself a run file. Nothing is assumed: the data is read, the task is built, and one sample goes
through it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistruct.config import Run
    from vistruct.engine.run import State

MIB = 2**20
ADAM_BYTES = 4 + 4 + 4  # for each number that trains: its gradient and AdamW's two moments, in float32


def describe(run: Run, devices: int = 1) -> str:
    """The text of a dry run.

    Args:
        run: the resolved run.
        devices: processes that would share the batch.

    Raises:
        UserError: whatever would stop training before its first step.
    """
    from vistruct.config import run_to_yaml
    from vistruct.distributed.ranks import Ranks
    from vistruct.engine.run import build

    with tempfile.TemporaryDirectory() as folder:
        state = build(run, Path(folder), Ranks())
        run = state.run  # its steps are counted
        lines = ["", *_data(state), "", *state.plan.lines()]
        for coverage in (*state.coverages(), *(one.coverage for one in state.teachers)):
            lines += ["", *coverage.lines()]
        lines += ["", *_memory(state, devices)]
    return run_to_yaml(run) + "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _data(state: State) -> list[str]:
    from vistruct.data.statistics import in_words
    from vistruct.engine.introduce import drawn_in_words
    from vistruct.engine.length import length_in_words

    run = state.run
    lines = length_in_words(run, {name: len(source.dataset) for name, source in state.sources.items()})
    for name, source in state.sources.items():
        info, whose = source.dataset.info, "" if len(state.sources) == 1 else f"{name}: "
        if info.class_names:
            lines.append(f"{whose}classes: {', '.join(info.class_names)}")
        if info.pixels != "uint8" or info.mean is not None:
            lines.append(in_words(info))
        lines += [f"{count} x {reason}" for reason, count in info.dropped.items()]
    return lines if len(state.sources) == 1 else [*lines, drawn_in_words(run)]


def _memory(state: State, devices: int) -> list[str]:
    """Weights and optimiser from their sizes; activations measured on one sample."""
    from vistruct.engine.memory import activation_bytes

    run = state.run
    parts = devices if run.parallel == "fsdp" else 1  # that weights and optimiser are cut into
    own = {t.data_ptr(): t.numel() * t.element_size() for t in state.model.state_dict().values()}  # shared ones once
    weights = sum(own.values()) // parts
    optimiser = state.plan.trainable * ADAM_BYTES // parts
    sizes = {name: source.stream.batch // (devices * run.pieces) for name, source in state.sources.items()}
    bytes_of = {name: activation_bytes(state, source) for name, source in state.sources.items()}
    largest = max(sizes, key=lambda name: sizes[name] * bytes_of[name])  # one micro-batch after the other
    one, samples = bytes_of[largest], sizes[largest]
    average = 0 if run.ema is None else state.plan.trainable * 4 // parts
    total = weights + optimiser + average + one * samples
    return [
        "memory on each device (estimate):",
        f"  weights              {weights / MIB:>10,.1f} MiB",
        f"  gradients and AdamW  {optimiser / MIB:>10,.1f} MiB",
        *([] if run.ema is None else [f"  averages (EMA)       {average / MIB:>10,.1f} MiB"]),
        f"  activations          {one * samples / MIB:>10,.1f} MiB  (measured on one sample, x {samples})",
        f"  total                {total / MIB:>10,.1f} MiB, plus framework overhead",
    ]
