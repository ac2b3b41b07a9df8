from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from several_processes import in_ranks
from toy_engine import ToyDataConfig, ToyMetricConfig, ToyTask, ToyTaskConfig, collate, toy_eval, toy_run

from vistruct.config import Eval, Trainable
from vistruct.engine.evaluate import asked_of, evaluate, few
from vistruct.engine.run import build
from vistruct.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def task(tmp_path) -> ToyTask:
    return build(toy_run(), tmp_path).model


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
    state = build(toy_run(trainable=(Trainable(pattern="backbone", mode="frozen"),)), tmp_path)
    before = {name: module.training for name, module in state.model.named_modules()}
    assert evaluate(state.model, toy_eval(), CPU, 2) == evaluate(state.model, toy_eval(), CPU, 2)
    assert {name: module.training for name, module in state.model.named_modules()} == before
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


class SeveralEach(ToyTask):
    """Gives the sample with the number n in its id n % 3 + 1 predictions."""

    @property
    def traits(self):
        return replace(super().traits, predict_collator=owned)

    def predict(self, batch):
        before = [batch.owners[:row].count(owner) for row, owner in enumerate(batch.owners)]
        return [(batch.ids[owner], at) for owner, at in zip(batch.owners, before, strict=True)]


def owned(samples):
    batch = collate(samples)
    batch.owners = [n for n, name in enumerate(batch.ids) for _ in range(int(name[1:]) % 3 + 1)]
    return batch


class Kept:
    def update(self, predictions):
        self.got = predictions

    def compute(self):
        return {"got": self.got}


EXPECTED = [(f"s{n}", at) for n in range(7) for at in range(n % 3 + 1)]


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_several_predictions_of_a_sample_stay_together_and_in_their_order(task, monkeypatch, batch):
    monkeypatch.setattr(ToyMetricConfig, "build", lambda self, dataset: Kept())
    assert evaluate(SeveralEach(ToyTaskConfig()), toy_eval(), CPU, batch)["got"] == EXPECTED


def test_several_ranks_give_the_numbers_of_one(tmp_path):
    assert in_ranks(2, measure_in_a_rank, str(tmp_path)) == [0, 0]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [list(pair) for pair in EXPECTED]


def measure_in_a_rank(folder: str) -> None:
    toy_run()
    ToyMetricConfig.build = lambda self, dataset: Kept()
    got = evaluate(SeveralEach(ToyTaskConfig()), toy_eval(), CPU, 2)["got"]
    Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(got))


def test_a_metric_of_a_few_samples_gets_the_same_ones_in_order_whatever_the_batch(task, monkeypatch):
    monkeypatch.setattr(ToyMetricConfig, "build", lambda self, dataset: Kept())
    of_four = toy_eval().model_copy(update={"metric": ToyMetricConfig(limit=4)})
    names = [name for name, _ in evaluate(task, of_four, CPU, batch=3)["got"]]
    assert len(set(names)) == 4
    assert names == sorted(names)
    assert [name for name, _ in evaluate(task, of_four, CPU, batch=1)["got"]] == names
    assert "4 samples of 7" in asked_of(of_four, ToyDataConfig(size=7).build())


def test_a_few_of_less_are_all_and_a_few_of_many_are_spread_over_them():
    assert list(few(5, None)) == list(few(5, 9)) == list(range(5))
    drawn = few(10_000, 100)
    assert len(set(drawn)) == 100
    assert drawn[0] < 1000 < 9000 < drawn[-1]


def test_a_task_that_is_asked_otherwise_than_trained_gets_its_own_batches(task, monkeypatch):
    trained = task.collator
    seen = []

    def asking(samples):
        seen.extend(sample.id for sample in samples)
        return trained(samples)

    traits = replace(task.traits, predict_collator=asking)
    monkeypatch.setattr(ToyTask, "traits", property(lambda self: traits))
    evaluate(task, toy_eval(), CPU, 4)
    assert len(seen) == 7
    evaluate(task, toy_eval(losses=True), CPU, 4)
    assert len(seen) == 7


def test_an_empty_data_set_is_refused():
    toy_run()
    task = ToyTask(ToyTaskConfig())
    with pytest.raises(UserError, match="no samples"):
        evaluate(task, Eval(data=ToyDataConfig(size=0), metric=ToyMetricConfig()), CPU, 4)
