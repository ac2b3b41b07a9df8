"""How long a run is: from the number of its samples to epochs, and from epochs to steps, before the first one.

A run that says neither steps nor epochs gets 100 epochs of up to 1,000 samples, fewer of more (as one over the square
root of their number, 12 at least), in 300 to 100,000 steps; few samples are never seen more than 300 times for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vistruct.config import Run, Stream
from vistruct.engine.schedule import warmup_of

MOST_EPOCHS, LEAST_EPOCHS, MANY_SAMPLES = 100, 12, 1000
LEAST_STEPS, MOST_STEPS = 300, 100_000
REPEATED = 300  # times that a sample is seen at most for the sake of LEAST_STEPS
TOO_OFTEN = 2000  # epochs; the longest published pretraining on a data set of any size is 1,600


def settled(run: Run, samples: Mapping[str, int]) -> Run:
    """The same run with its steps, its warm-up and the steps between evaluations as numbers.

    Args:
        samples: of each stream, as training sees them.

    Raises:
        UserError: what it says does not fit its steps.
    """
    epoch = steps_of_epoch(run, samples)
    steps = run.steps or max(1, math.ceil(epoch * (run.epochs or usual_epochs(run, samples))))
    if not run.steps and run.epochs is None:
        steps = min(steps, MOST_STEPS)
    every = run.eval_every
    if every == "auto":
        every = max(math.ceil(epoch), math.ceil(steps / 10))
        every = every if every < steps or run.patience is not None else None
    schedule = run.schedule.model_copy(update={"warmup_steps": warmup_of(run.schedule, steps)})
    told = {"steps": steps, "epochs": None, "eval_every": every, "schedule": schedule}
    if all(vars(run)[name] == value for name, value in told.items()):
        return run
    return Run.model_validate(dict(run) | told)


def steps_of_epoch(run: Run, samples: Mapping[str, int]) -> float:
    """Steps in which every sample is seen once, of the stream that takes longest."""
    return max(_steps_of_epoch(run, stream, samples[name]) for name, stream in run.streams.items())


def _steps_of_epoch(run: Run, stream: Stream, samples: int) -> float:
    turns = 1.0 if run.draw == "every" else stream.weight / sum(one.weight for one in run.streams.values())
    return samples / (stream.batch * turns)


def usual_epochs(run: Run, samples: Mapping[str, int]) -> float:
    """As many as the samples of the stream that takes longest ask for, before steps have a bound above."""
    name = max(samples, key=lambda one: _steps_of_epoch(run, run.streams[one], samples[one]))
    epochs = MOST_EPOCHS * min(1.0, math.sqrt(MANY_SAMPLES / max(1, samples[name])))
    short = LEAST_STEPS / max(steps_of_epoch(run, samples), 1e-9)  # epochs that so few steps are
    return max(epochs, LEAST_EPOCHS, min(short, REPEATED))


def length_in_words(run: Run, samples: Mapping[str, int]) -> list[str]:
    """For each stream: its samples, epochs and steps; and what is to be thought of them."""
    lines = []
    for name, stream in run.streams.items():
        if stream.samples:
            continue
        epochs = run.steps / max(_steps_of_epoch(run, stream, samples[name]), 1e-9)
        whose = "" if len(run.streams) == 1 else f"{name}: "
        lines.append(
            f"{whose}{samples[name]:,} samples, batch {stream.batch}, {run.steps:,} steps: {epochs:,.3g} epochs"
        )
        if epochs > TOO_OFTEN:
            lines.append(
                f"WARNING: every sample is learned from {epochs:,.0f} times: it will be known by heart; fewer steps "
                "(--epochs), or more data"
            )
    warmup = warmup_of(run.schedule, run.steps)
    every = f"measured every {run.eval_every:,} steps and at the end" if run.eval_every else "measured at the end"
    return [*lines, (f"{warmup:,} steps of warm-up; " if warmup else "") + (every if run.evals else "never measured")]
