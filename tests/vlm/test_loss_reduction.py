"""Long answers do not drown short ones: against the formula in numpy, answer by answer, and however a step is split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_vlm import assorted, build, gradients, logits
from whole_loss import task_loss

from vistruct.vlm.chat import IGNORE
from vistruct.vlm.loss_reduction import LossReduction, token_weights

POWERS: dict[LossReduction, float] = {"token": 0.0, "square": 0.5, "sample": 1.0}


@pytest.mark.parametrize("reduction", list(POWERS))
def test_an_answers_tokens_count_by_its_length_and_others_not(reduction: LossReduction) -> None:
    labels = torch.tensor([7, IGNORE, IGNORE, 3, 3, 3, 3, IGNORE, 5, 5])
    n = np.array([1, np.inf, np.inf, 4, 4, 4, 4, np.inf, 2, 2])
    expected = np.where(np.isinf(n), 0.0, n ** -POWERS[reduction])
    np.testing.assert_allclose(token_weights(labels, reduction), expected)
    assert token_weights(torch.full((3,), IGNORE), reduction).tolist() == [0, 0, 0]
    assert token_weights(labels[:0], reduction).tolist() == []


@pytest.mark.parametrize("vrl", ["off", "paper"])
@pytest.mark.parametrize("reduction", list(POWERS))
def test_the_loss_is_the_weighted_mean_of_the_answers_losses(reduction: LossReduction, vrl: str) -> None:
    task = build(vrl, loss_reduction=reduction).train()
    batch = task.collator(assorted())
    reading = task.read(batch)
    values = logits(task, batch, reading).detach().double().numpy()
    ends = np.cumsum(reading.lengths)
    total = weight = 0.0
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        row, labels = values[first:end], reading.labels[first:end].numpy()
        taught = [at for at in range(1, len(labels)) if labels[at] != IGNORE]
        answers = np.split(taught, np.flatnonzero(np.diff(taught) > 1) + 1)
        for answer in answers:
            before = row[answer - 1]
            nats = np.log(np.exp(before).sum(1)) - before[np.arange(len(answer)), labels[answer]]
            total += nats.sum() * len(answer) ** -POWERS[reduction]
            weight += len(answer) ** (1 - POWERS[reduction])
    whole = task_loss(task, batch)
    assert whole.count == pytest.approx(weight)
    assert whole.total.item() == pytest.approx(total, rel=1e-5)


def test_a_split_step_has_the_same_gradient() -> None:
    task, samples = build(loss_reduction="square").train(), assorted()
    together = gradients(task, [task.collator(samples)])
    apart = gradients(task, [task.collator(samples[:2]), task.collator(samples[2:])])
    for name, gradient in together.items():
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_word_counts_as_much_as_a_map_by_sample_only() -> None:
    labels = torch.tensor([IGNORE, *range(37), IGNORE, 1, 2])
    shares = [float(token_weights(labels, one)[-2:].sum() / token_weights(labels, one).sum()) for one in POWERS]
    assert shares == pytest.approx([2 / 39, 2**0.5 / (2**0.5 + 37**0.5), 0.5])
