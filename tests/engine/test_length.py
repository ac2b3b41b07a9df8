"""Steps from the number of samples, and a run directory that knows them."""

from __future__ import annotations

from typing import Any

import pytest
from toy_engine import ToyDataConfig, toy_eval, toy_run

from vistruct.cli.dry_run import describe
from vistruct.config import Run, Schedule, Stream, read_run
from vistruct.engine.length import length_in_words, settled
from vistruct.engine.schedule import lr_factor
from vistruct.engine.train import train
from vistruct.errors import UserError


def counted(samples: int, **changes: Any) -> Run:
    return settled(toy_run(**{"steps": 0, "schedule": Schedule(warmup_steps=None)} | changes), {"main": samples})


@pytest.mark.parametrize(
    ("samples", "batch", "steps"),
    [
        (8, 8, 300),  # 300 steps, and no sample more than 300 times for that
        (8, 64, 38),  # ceil(300 * 8 / 64)
        (100, 8, 1250),  # 100 epochs
        (1000, 8, 12_500),
        (4000, 8, 25_000),  # 50 epochs: half as many of four times the samples
        (4000, 64, 3125),
        (100_000, 16, 75_000),  # 12 epochs at least
        (10_000_000, 8, 100_000),  # that would be for ever
    ],
)
def test_the_number_of_samples_decides_the_steps(samples, batch, steps):
    run = counted(samples, batch=batch)
    assert (run.steps, run.epochs, run.schedule.warmup_steps) == (steps, None, min(250, steps // 10))


def test_epochs_are_passes_of_the_stream_that_takes_longest():
    streams = {name: Stream(task=toy_run().only.task, data=ToyDataConfig(), batch=8, weight=w) for name, w in
               (("a", 1.0), ("b", 3.0))}  # fmt: skip
    asked = Run(streams=streams, epochs=2)
    assert settled(asked, {"a": 80, "b": 400}).steps == 100
    drawn = asked.model_copy(update={"draw": "one"})
    assert (
        settled(drawn, {"a": 80, "b": 400}).steps == round(2 * max(80 / 8 * 4, 400 / 8 * 4 / 3)) + 1
    )  # 133.3 rounds up
    told = length_in_words(settled(drawn, {"a": 80, "b": 400}), {"a": 80, "b": 400})
    assert "a: 80 samples, batch 8, 134 steps: 3.35 epochs" in told
    assert "2.01 epochs" in told[1]


def test_evaluations_are_an_epoch_or_a_tenth_of_the_run_apart():
    asked = {"eval_every": "auto", "evals": {"val": toy_eval()}}
    assert counted(800, epochs=20, **asked).eval_every == 200  # a tenth
    assert counted(800, epochs=5, **asked).eval_every == 100  # an epoch
    assert counted(800, epochs=1, **asked).eval_every is None  # the end
    assert counted(800, epochs=1, patience=2, **asked).eval_every == 100


def test_a_counted_warm_up_is_the_one_that_is_written():
    run = counted(1000, epochs=1)
    rates = [lr_factor(step, run.steps, Schedule(warmup_steps=None)) for step in range(run.steps)]
    assert rates == [lr_factor(step, run.steps, run.schedule) for step in range(run.steps)]


def test_run_yaml_says_steps_and_the_same_command_resumes(tmp_path):
    asked = toy_run(steps=0, epochs=2.0, eval_every="auto", evals={"val": toy_eval()}, keep_model="best")
    out = train(asked, tmp_path / "run")
    written = read_run(out / "run.yaml")
    assert (written.steps, written.epochs, written.eval_every) == (6, None, 3)
    assert "24 samples, batch 8, 6 steps: 2 epochs" in (out / "train.log").read_text().splitlines()[0]
    train(asked, out)
    train(written, out)
    assert read_run(out / "run.yaml") == written
    with pytest.raises(UserError, match="steps: 6 -> 9"):
        train(asked.model_copy(update={"epochs": 3.0}), out)
    assert read_run(out / "run.yaml") == written


def test_a_dry_run_tells_the_length_and_is_a_run_file(tmp_path):
    text = describe(toy_run(steps=0, epochs=2.0))
    assert "# 24 samples, batch 8, 6 steps: 2 epochs" in text
    (tmp_path / "run.yaml").write_text(text)
    assert read_run(tmp_path / "run.yaml").steps == 6


def test_so_many_epochs_that_it_learns_by_heart_are_said():
    told = length_in_words(toy_run(steps=80_000), {"main": 8})
    assert any(line.startswith("WARNING") and "80,000 times" in line for line in told)
