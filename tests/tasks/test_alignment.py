"""Images aligned with the words of their answers: against formulas in numpy, and whatever way a step is split."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_vlm import assorted, build, sample

from vistruct.tasks.alignment import Aligned, Alignment, joined_answers
from vistruct.vlm.tiling import Tiling
from vistruct.vlm.vrl import Vrl

CONFIG = Alignment(image_temperature=0.1, text_temperature=0.05, rate=0.25)


def aligning(vrl: Any = "off") -> Any:
    """As after some steps."""
    task = build(vrl, alignment=CONFIG).train()
    draw = torch.Generator().manual_seed(3)
    task.alignment.centre.copy_(0.02 * torch.randn(len(task.alignment.centre), generator=draw))
    task.alignment.said.copy_(torch.rand(len(task.alignment.centre), generator=draw))
    return task


def of_length_1(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(values: Any) -> Any:
    grown = np.exp(values - values.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("vrl", ["paper", Vrl(drop_ratio=0.5, drop_at="patches")])
def test_the_term_is_that_of_numpy(vrl: Any) -> None:
    task = aligning(vrl)
    samples = [sample("a"), sample("text", images=0), sample("b", seed=2, answer="no"), sample("wide", size=56)]
    samples[3].images = [samples[3].images[0].repeat(1, 1, 2)]  # two tiles and a thumbnail
    batch = task.collator(samples)
    reading = task.read(batch)
    table = of_length_1(task.language.get_output_embeddings().weight.detach().double().numpy())
    total = 0.0
    with torch.no_grad():
        visual = task.see(batch, reading).visual
        tile = torch.arange(len(batch.tiles)).repeat_interleave(task.tokens_per_tile)
        if reading.cells is not None:
            tile = reading.cells.nonzero()[:, 0]
        for owner, text, whole in ((0, "twelve trees", 0), (2, "no", 1), (3, "twelve trees", 4)):
            assert batch.whole_tiles[owner] == whole
            ids = torch.tensor([task.tokenizer.encode(text)])
            states = task.language.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
            near = of_length_1(states.last_hidden_state[0].double().numpy().mean(axis=0)) @ table.T
            told = softmax((near - task.alignment.centre.double().numpy()) / 0.05)
            seen = of_length_1(visual[tile == whole].double().numpy().mean(axis=0)) @ table.T
            total -= (told * np.log(softmax(seen / 0.1))).sum()
    out = task(batch)
    assert out.terms["alignment"].item() == pytest.approx(total, rel=1e-4)
    assert task.units(batch)["alignment"] == 3.0
    assert (
        list(task.eval()(batch).terms) == ["answers"] == list(task.units(batch))
    )  # what is measured is the plain loss


def test_halves_add_up_with_their_gradients_and_the_balance() -> None:
    found = []
    for parts in ([slice(0, 6)], [slice(0, 2), slice(2, 6)]):
        task = aligning("paper").double()
        task.before_step(3, 10)
        outs = [task(task.collator(assorted()[part])).terms["alignment"] for part in parts]
        total = torch.stack(outs).sum()
        total.backward()
        task.after_step()
        grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        found.append((total.detach(), task.alignment.centre, task.alignment.said, grads))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)
    reached = {name.partition(".")[0] for name, grad in found[0][3].items() if grad.abs().sum() > 0}
    assert reached == {"backbone", "projector"}  # the language model says where words are and does not move for it


def test_balance_ends_where_sinkhorn_does_with_the_words_of_the_answers() -> None:
    """On the same texts in each step, against rounds over rows and columns."""
    rng = np.random.default_rng(0)
    texts, table = rng.normal(size=(5, 8)), rng.normal(size=(6, 8))
    words = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 5])
    due = np.bincount(words.numpy(), minlength=6) / len(words)
    shares = np.exp(of_length_1(texts) @ of_length_1(table).T / 0.5)
    for _ in range(500):
        shares *= due / shares.mean(axis=0)
        shares /= shares.sum(axis=1, keepdims=True)
    part = Aligned(Alignment(text_temperature=0.5, rate=0.5), 6).train()
    one, rows = torch.from_numpy(texts).float(), torch.from_numpy(table).float()
    for _ in range(200):
        part.before_step()
        part(one, one, rows, words)
        part.after_step()
    near = of_length_1(texts) @ of_length_1(table).T
    np.testing.assert_allclose(softmax((near - part.centre.numpy()) / 0.5), shares, atol=1e-4)


def test_answers_of_a_sample_are_joined_and_what_has_no_image_or_word_is_left_out() -> None:
    task = aligning()
    many = assorted()[5]
    batch = dataclasses.replace(task.collator, independent=True)([many, sample("t", images=0), sample("e", answer="")])
    kept, words = joined_answers(batch, task.end_token)
    assert kept == [0]
    said = "".join(turn.text for turn in many.turns if turn.role == "assistant")
    assert task.tokenizer.decode(words[0]) == said
    nothing = task.collator([sample("t", images=0)])
    out = task(nothing)
    assert out.terms["alignment"].item() == 0.0 == task.units(nothing)["alignment"]


def test_tiles_of_which_none_shows_the_whole_image_are_refused() -> None:
    with pytest.raises(ValidationError, match="thumbnail"):
        build(alignment=CONFIG, tiling=Tiling(size=56, max_tiles=4, thumbnail=False))
