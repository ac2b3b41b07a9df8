from __future__ import annotations

import pytest
import torch
from toy_engine import ToyDataConfig, ToyMetricConfig, ToyTask, ToyTaskConfig, toy_eval, toy_run

from vistruct.config import Eval, Move
from vistruct.engine.evaluate import evaluate
from vistruct.engine.run import build
from vistruct.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def task(tmp_path) -> ToyTask:
    return build(toy_run(), tmp_path).task


@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_do_not_depend_on_the_batch_or_the_workers(task, workers):
    whole = evaluate(task, toy_eval(), CPU, batch=7)
    assert evaluate(task, toy_eval(), CPU, batch=3, workers=workers) == pytest.approx(whole)
    assert whole["number"] == 7.0
    assert whole["ordered"] == 1.0


def test_a_metric_of_losses_gets_the_loss_of_the_whole_set(task):
    whole = evaluate(task, toy_eval(losses=True), CPU, batch=7)
    assert evaluate(task, toy_eval(losses=True), CPU, batch=2)["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_dropout_is_off_while_measuring_and_each_module_has_its_mode_afterwards(tmp_path):
    state = build(toy_run(move=(Move(pattern="backbone", mode="frozen"),)), tmp_path)
    before = {name: module.training for name, module in state.task.named_modules()}
    assert evaluate(state.task, toy_eval(), CPU, 2) == evaluate(state.task, toy_eval(), CPU, 2)
    assert {name: module.training for name, module in state.task.named_modules()} == before
    assert set(before.values()) == {True, False}


def test_measuring_builds_no_graph(task, monkeypatch):
    monkeypatch.setattr(ToyTask, "predict", lambda self, batch: [torch.is_grad_enabled()] * len(batch.ids))
    monkeypatch.setattr(ToyMetricConfig, "build", lambda self, dataset: Any_())
    assert evaluate(task, toy_eval(), CPU, 4) == {"enabled": 0.0}


class Any_:
    def update(self, predictions: list[bool]) -> None:
        self.enabled = any(predictions)

    def compute(self) -> dict[str, float]:
        return {"enabled": float(self.enabled)}


def test_a_task_that_forgets_a_sample_is_caught(task, monkeypatch):
    monkeypatch.setattr(ToyTask, "predict", lambda self, batch: batch.ids[1:])
    with pytest.raises(ValueError, match="predictions for"):
        evaluate(task, toy_eval(), CPU, 4)


def test_a_task_that_is_asked_otherwise_than_trained_gets_its_own_batches(task, monkeypatch):
    trained = task.collator
    seen = []

    def asking(samples):
        seen.extend(sample.id for sample in samples)
        return trained(samples)

    monkeypatch.setattr(ToyTask, "predict_collator", property(lambda self: asking), raising=False)
    evaluate(task, toy_eval(), CPU, 4)
    assert len(seen) == 7
    evaluate(task, toy_eval(losses=True), CPU, 4)
    assert len(seen) == 7


def test_an_empty_data_set_is_refused():
    toy_run()
    task = ToyTask(ToyTaskConfig())
    with pytest.raises(UserError, match="no samples"):
        evaluate(task, Eval(data=ToyDataConfig(size=0), metric=ToyMetricConfig()), CPU, 4)
