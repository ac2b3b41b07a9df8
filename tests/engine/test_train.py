from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from toy_engine import ToyBackboneConfig, ToyDataConfig, ToyDataset, ToyTaskConfig, toy_eval, toy_run
from whole_loss import task_loss

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.restore import read_weights
from vistruct.checkpoint.save import steps
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.config import Run, Trainable, read_run
from vistruct.engine.run import State, build
from vistruct.engine.step import NonFiniteGradient, train_step, without_gradient
from vistruct.engine.train import loader_of, train
from vistruct.errors import UserError
from vistruct.runs import train_and_report

CALM = ToyTaskConfig(dropout=0.0, backbone=ToyBackboneConfig(dropout=0.0))


def gradients_after_a_step(state: State) -> dict[str, torch.Tensor]:
    train_step(state, next(iter(loader_of(state))))
    return {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}


def metrics_of(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def weights_of(out_dir: Path) -> str:
    return sha256(out_dir / "model" / "model.safetensors")


class Interrupted(Exception):
    pass


def interrupt_at(step: int):
    def on_step(done: int, _metrics: dict[str, float]) -> None:
        if done == step:
            raise Interrupted

    return on_step


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_gradient_does_not_depend_on_how_a_batch_is_split(tmp_path, accumulate):
    run = toy_run(task=CALM, clip_norm=None)
    whole = gradients_after_a_step(build(run, tmp_path))
    split = gradients_after_a_step(build(run.model_copy(update={"accumulate": accumulate}), tmp_path))
    assert whole.keys() == split.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_the_mean_over_all_units(tmp_path):
    state = build(toy_run(task=CALM, clip_norm=None, accumulate=4), tmp_path)
    batches = next(iter(loader_of(state)))
    outputs = [task_loss(state.model, batch) for batch in batches]
    assert len({out.count for out in outputs}) > 1  # unequal, so that a mean of means would be another number
    loss = sum(out.total for out in outputs) / sum(out.count for out in outputs)
    expected = torch.autograd.grad(loss, state.model.head.weight)[0]
    metrics = train_step(state, batches)
    torch.testing.assert_close(state.model.head.weight.grad, expected, rtol=1e-6, atol=1e-7)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_step_that_has_nothing_to_learn_from_is_harmless(tmp_path):
    state = build(toy_run(task=CALM, batch=1, data=ToyDataConfig(size=1)), tmp_path)  # sample 0 has no label
    metrics = train_step(state, next(iter(loader_of(state))))
    assert metrics["loss"] == metrics["grad_norm"] == 0.0


def test_clipping_bounds_the_norm_and_reports_it_as_it_was(tmp_path):
    free = build(toy_run(task=CALM, clip_norm=None), tmp_path)
    metrics = train_step(free, next(iter(loader_of(free))))
    clipped = build(toy_run(task=CALM, clip_norm=0.01), tmp_path)
    assert train_step(clipped, next(iter(loader_of(clipped))))["grad_norm"] == metrics["grad_norm"] > 0.01
    norm = torch.stack([p.grad.norm() for p in clipped.model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_training_learns_and_leaves_the_whole_run_directory(tmp_path):
    run = toy_run(steps=60, save_every=50, optim={"lr": 3e-2}, evals={"val": toy_eval()})
    out = train_and_report(run, tmp_path / "run")
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert lines[-1]["val/number"] == 7.0
    assert not any("val/number" in line for line in lines[:-1])
    for name in (
        *("run.yaml", "env.json", "data.json", "train.log", "report.html", "samples/first_batch.png"),
        *("model/model.safetensors", "model/model.json", "model/README.md"),
        *("backbone/backbone.safetensors", "backbone/backbone.json"),
    ):
        assert (out / name).stat().st_size > 0, name
    assert list(out.glob("events.out.tfevents*"))
    assert [path.name for path in steps(out / "checkpoints")] == ["step_00000060", "step_00000050"]
    assert json.loads((out / "data.json").read_text())["train"]["main"]["counts"] == {"toy": 24}


def test_the_shipped_model_answers_as_the_trained_one(tmp_path):
    run = toy_run(trainable=(Trainable(pattern="backbone.blocks", mode="lora"),))
    out = train(run, tmp_path / "run")
    task, card = load_model(out)
    assert card.run == run
    assert card.info.class_names == ("toy",)
    trained = build(run, tmp_path / "again")
    trained.model.load_state_dict(read_weights(steps(out / "checkpoints")[0]))
    batch = next(iter(loader_of(trained)))[0]
    answers = zip(task.predict(batch), trained.model.eval().predict(batch), strict=True)
    assert all(ours == pytest.approx(theirs, rel=1e-4) for (_, ours), (_, theirs) in answers)


def test_a_run_starts_from_the_backbone_of_another(tmp_path):
    first = train(toy_run(steps=3), tmp_path / "first")
    state = build(toy_run(init=first), tmp_path / "second")
    kept = read_tensors(first / "backbone" / "backbone.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.model.backbone.state_dict().items())
    assert state.coverage is not None
    assert len(state.coverage.matched) == len(kept)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_cut_off_ends_bit_identical(tmp_path, workers):
    run = toy_run(workers=workers, evals={"val": toy_eval()}, eval_every=5)
    train(run, tmp_path / "whole")
    for cut in (6, 11):  # in between two checkpoints
        with pytest.raises(Interrupted):
            train(run, tmp_path / "cut", on_step=interrupt_at(cut))
    train(run, tmp_path / "cut")
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")
    timing = {"seconds", "samples_per_second", "peak_memory_mb"}
    whole, cut = (
        [{k: v for k, v in m.items() if k not in timing} for m in metrics_of(tmp_path / d)] for d in ("whole", "cut")
    )
    assert cut == whole


def test_sigterm_finishes_the_step_saves_and_goes_on_exactly(tmp_path):
    run = toy_run(save_every=100)
    before = signal.getsignal(signal.SIGTERM)

    def on_step(done: int, _metrics: dict[str, float]) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        train(run, tmp_path / "cut", on_step=on_step)
    assert caught.value.code == 143
    assert [path.name for path in steps(tmp_path / "cut" / "checkpoints")] == ["step_00000005"]
    assert signal.getsignal(signal.SIGTERM) is before
    train(run, tmp_path / "cut")
    train(run, tmp_path / "whole")
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_a_gradient_that_is_not_finite_stops_before_the_weights_and_names_the_samples(tmp_path):
    run = toy_run(data=ToyDataConfig(poison=7), save_every=1)
    seen: dict[int, dict[str, float]] = {}
    with pytest.raises(NonFiniteGradient) as caught:
        train(run, tmp_path, on_step=seen.__setitem__)
    step = len(seen) + 1
    (file,) = tmp_path.glob("non_finite_step_*.json")
    report = json.loads(file.read_text())
    assert f"step {step}" in caught.value.what
    assert report["step"] == step
    assert "s7" in report["samples"]
    assert len(report["samples"]) == 8
    for path in steps(tmp_path / "checkpoints"):
        assert all(t.isfinite().all() for t in read_weights(path).values())
    assert not (tmp_path / "model" / "model.json").exists()
    assert "not" in (tmp_path / "train.log").read_text()


def test_the_weights_are_untouched_by_a_gradient_that_is_not_finite(tmp_path):
    state = build(toy_run(data=ToyDataConfig(size=8, poison=3)), tmp_path)
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    with pytest.raises(NonFiniteGradient):
        train_step(state, next(iter(loader_of(state))))
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())
    assert state.step == 0


def test_a_users_mistake_in_the_data_stops_the_run_as_it_is(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        train(toy_run(data=ToyDataConfig(broken=5)), tmp_path)


def test_training_a_finished_run_again_changes_nothing(tmp_path):
    out = train(toy_run(), tmp_path)
    weights, lines = weights_of(out), metrics_of(out)
    train(toy_run(), tmp_path)
    assert (weights_of(out), metrics_of(out)) == (weights, lines)


def test_the_run_file_of_a_run_is_that_run(tmp_path):
    run = toy_run(evals={"val": toy_eval()}, trainable=(Trainable(pattern="head", lr_factor=2.0),))
    assert read_run(train(run, tmp_path) / "run.yaml") == run


def refused(run: Run, out_dir: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        train(run, out_dir)
    return caught.value


def test_the_directory_of_a_different_run_is_refused_with_the_difference(tmp_path):
    train(toy_run(steps=2), tmp_path)
    error = refused(toy_run(steps=2, seed=9, optim={"lr": 0.5}), tmp_path)
    assert "optim.lr: 0.01 -> 0.5" in error.what
    assert "seed: 0 -> 9" in error.what
    assert "--out" in error.fix


def test_what_does_not_touch_the_weights_may_change(tmp_path):
    train(toy_run(steps=2), tmp_path)
    train(toy_run(steps=2, workers=1, log_every=3, save_every=7, keep=1), tmp_path)
    assert read_run(tmp_path / "run.yaml").log_every == 3


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    assert "not a run directory" in refused(toy_run(), tmp_path).what
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file" in refused(toy_run(), tmp_path / "file").what


def test_data_that_changed_since_the_run_began_is_refused(tmp_path, monkeypatch):
    train(toy_run(steps=2), tmp_path)
    monkeypatch.setattr(ToyDataConfig, "build", lambda self, cache: ToyDataset(self.size, fingerprint="f" * 64))
    assert "has changed" in refused(toy_run(steps=2), tmp_path).what


def test_a_loss_that_depends_on_nothing_that_trains_is_refused(tmp_path, monkeypatch):
    state = build(toy_run(trainable=(Trainable(pattern="*", mode="frozen"), Trainable(pattern="head.bias"))), tmp_path)
    monkeypatch.setattr(type(state.model), "_answer", lambda self, batch: batch.images.mean(1) * 2)
    with pytest.raises(UserError, match="depends on nothing"):
        train_step(state, next(iter(loader_of(state))))


def test_a_part_that_should_move_and_is_not_used_is_named(tmp_path, monkeypatch):
    state = build(toy_run(task=CALM), tmp_path)
    monkeypatch.setattr(type(state.model), "_answer", lambda self, batch: self.head(self.backbone(batch.images))[:, 0])
    train_step(state, next(iter(loader_of(state))))
    assert without_gradient(state) == ["scale"]


def test_memory_that_runs_out_is_a_setting_that_can_be_mended(tmp_path, monkeypatch):
    state = build(toy_run(), tmp_path)

    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nand much more")

    monkeypatch.setattr(type(state.model), "forward", full)
    with pytest.raises(UserError) as caught:
        train_step(state, next(iter(loader_of(state))))
    assert "Tried to allocate 20 GiB" in caught.value.what
    assert "accumulate" in caught.value.fix


def test_run_that_goes_on_from_another_starts_with_all_of_its_weights(tmp_path):
    first = train(toy_run(steps=3), tmp_path / "first")
    (first / "model" / "words.txt").write_text("made at build time")
    state = build(toy_run(steps=1, start=first, seed=5), tmp_path / "second")
    kept = read_tensors(first / "model" / "model.safetensors")
    own = state.model.state_dict()
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in own)
    assert (tmp_path / "second" / "model" / "words.txt").read_text() == "made at build time"
    assert not (tmp_path / "second" / "model" / "model.json").exists()  # that says a run has finished
