"""Tokens that the text alone tells count less: against the formula in numpy, and whatever way a step is split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_pointing import pointing, pointing_run, pointing_task, squares
from toy_vlm import assorted, build, logits, losses, sample
from whole_loss import task_loss

from vistruct.checkpoint.load import load_model
from vistruct.checkpoint.tensors import read_tensors, sha256
from vistruct.checkpoint.whole import _grown, load_start
from vistruct.engine.train import train
from vistruct.tasks.token_weights import TokenWeighing, TokenWeights, prior_weights
from vistruct.vlm.chat import IGNORE
from vistruct.vlm.reading import text_alone


class Interrupted(Exception):
    pass


PRIOR = TokenWeights(gamma=2.0, rate=0.25)


def weighed(vrl: Any = "off", earlier: float = 0.4, **settings: Any) -> Any:
    """As after some steps whose tokens weighed `earlier` in the mean."""
    task = build(vrl, token_weights=PRIOR, **settings).train()
    task.token_weights.summed.copy_(torch.tensor([earlier * 50, 50.0]))
    with torch.no_grad():  # sure of something, right or wrong
        task.language.get_output_embeddings().weight.mul_(30)
    return task


def numpy_losses(values: Any, targets: Any) -> Any:
    values = values.detach().double().numpy()
    values = values - values.max(axis=1, keepdims=True)
    return np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(targets)), targets]


@pytest.mark.parametrize("vrl", ["off", "paper"])
def test_the_loss_is_that_of_numpy_with_the_image_cut_out_of_each_row(vrl: str) -> None:
    task = weighed(vrl)
    samples = [sample("a", images=2), sample("b", answer="no"), sample("c", images=0)]
    total = 0.0
    for one in samples:  # each alone, and its text as a row that never had an image
        batch = task.collator([one])
        reading = task.read(batch)
        seen = logits(task, batch, reading)
        is_text = batch.input_ids != task.image_token
        text = batch.input_ids[is_text]
        bare = task.language(
            input_ids=text[None],
            attention_mask=torch.ones(1, len(text)),
            position_ids=torch.arange(len(batch.input_ids))[is_text][None],
            use_cache=False,
        ).logits[0]
        answer = reading.labels[1:] != IGNORE
        target = reading.labels[1:][answer].numpy()
        unseen = np.exp(-numpy_losses(bare[:-1][batch.labels[is_text][1:] != IGNORE], target))
        total += ((1 - unseen) ** 2 / 0.4 * numpy_losses(seen[:-1][answer], target)).sum()
    batch = task.collator(samples)
    assert task_loss(task, batch).total.item() == pytest.approx(total, rel=1e-5)
    measured = task.eval()(batch).terms["answers"]  # is not weighed
    assert measured.item() == pytest.approx(sum(losses(task, batch)), rel=1e-5)


def test_gamma_0_is_the_plain_loss_and_likely_tokens_weigh_less() -> None:
    likelihood = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert prior_weights(likelihood, 0.0).tolist() == [1.0] * 4
    assert prior_weights(likelihood, 2.0).tolist() == [1.0, 0.5625, 0.25, 0.0]
    task, plain = build(token_weights=TokenWeights(gamma=0.0)).train(), build().train()
    batch = task.collator(assorted())
    torch.testing.assert_close(task(batch).terms["answers"], plain(batch).terms["answers"])


def test_halves_add_up_with_their_gradients_and_the_average() -> None:
    samples = assorted()
    found = []
    for parts in ([samples], [samples[:1], samples[1:]]):
        task = weighed("paper").double()
        task.before_step(3, 10)
        outs = [task_loss(task, task.collator(part)) for part in parts]
        total = torch.stack([out.total for out in outs]).sum()
        total.backward()
        task.after_step()
        grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        found.append((total.detach(), task.token_weights.summed, grads))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert found[0][1][1] == pytest.approx(0.75 * 50 + 0.25 * task.units(task.collator(samples))["answers"])


def test_weights_are_1_in_the_mean_of_earlier_steps_and_never_above_20() -> None:
    weighing = TokenWeighing(TokenWeights(rate=0.5)).train()
    for step in range(3):
        weighing.before_step()
        weights = weighing(torch.tensor([0.2, 0.6]))
        assert weights.tolist() == pytest.approx([0.8, 0.4] if step == 0 else [0.8 / 0.6, 0.4 / 0.6])
        weighing.after_step()
    weighing.summed.copy_(torch.tensor([1e-6, 1.0]))
    assert weighing(torch.tensor([0.0])).item() == pytest.approx(20.0)
    before = weighing.summed.clone()
    weighing.before_step()  # a step that was broken off, and one without a token
    weighing.after_step()
    assert torch.equal(weighing.summed, before)


def test_the_text_alone_has_neither_visual_tokens_nor_regions_and_keeps_its_places() -> None:
    task = pointing(token_weights=PRIOR).train()
    batch = task.collator([squares("a"), squares("b", 1)])
    reading = task.read(batch)
    text = text_alone(reading)
    assert len(reading.regions) > 0
    assert len(text.input_ids) == len(reading.input_ids) - len(reading.regions) - len(reading.places)
    assert task.image_token not in text.input_ids
    assert int((text.labels != IGNORE).sum()) == int((reading.labels != IGNORE).sum())
    assert (text.input_ids[text.objects] == task.pointing.object_token).all()
    assert set(text.positions.tolist()) < set(reading.positions.tolist())
    changed = dataclasses.replace(batch, tiles=255 - batch.tiles)
    again = task.likelihood(text_alone(task.read(changed)))
    torch.testing.assert_close(task.likelihood(text), again, atol=0, rtol=0)
    assert torch.isfinite(task_loss(task, batch).total)


def test_a_run_that_was_cut_off_ends_bit_identical(tmp_path: Path) -> None:
    task = pointing_task("paper", token_weights=PRIOR)
    run = pointing_run(tmp_path / "data", task, steps=3, save_every=2)

    def interrupt(step: int, _: dict[str, float]) -> None:
        if step == 3:  # behind the checkpoint
            raise Interrupted

    train(run, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(run, tmp_path / "cut", on_step=interrupt)
    train(run, tmp_path / "cut")
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert sha256(one) == sha256(other)
    assert read_tensors(one)["token_weights.summed"][1] > 0
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["text_likelihood"] < 1

    model, _ = load_model(tmp_path / "whole")  # goes on without weights; and a plain model with them
    model.token_weights = None
    assert load_start(model, tmp_path / "whole", "main", "").unexpected == ("token_weights.summed",)
    grown = _grown(build(token_weights=PRIOR), build().state_dict())[1]
    assert grown["fresh"] == ("token_weights.summed",)
