"""A language model that points: what is learned from each object token, and what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from toy_pointing import BOX, POINTING, pointing, squares
from toy_vlm import gradients
from whole_loss import task_loss

from vistruct.config import Eval
from vistruct.data.dataset import ChatDataConfig
from vistruct.engine.evaluate import evaluate, measurable
from vistruct.errors import UserError
from vistruct.metrics.grounded import GroundedConfig, Grounding
from vistruct.metrics.loss import MeanLossConfig
from vistruct.pictures.grounded import draw_grounded_sample
from vistruct.tasks.pointing import Recall
from vistruct.vlm.vrl import Vrl


def test_every_object_token_asks_for_the_object_it_stands_for() -> None:
    task = pointing()
    samples = [squares("a", 1, 2), squares("b", 2, 3)]
    batch = task.collator(samples)
    assert [[(aim.row, aim.unit, aim.group) for aim in row] for row in batch.pointed.aims] == [
        [(0, "box", 0), (1, "box", 0)],
        [(1, "box", 1)],
        [(0, "box", 0), (1, "box", 0), (2, "box", 0)],
        [(2, "box", 1)],
    ]
    asked = batch.pointed.asked("box")
    assert asked.groups == ((2,), (1,), (3,), (1,))
    assert asked.places == ((0, 1), (2,), (3, 4, 5), (6,))
    targets = asked.targets(batch.pointed)
    torch.testing.assert_close(targets[2].boxes_xyxy, samples[1].objects.boxes_xyxy)
    assert len(task.read(batch).objects) == 7
    assert len(task.read(batch).regions) == 4 * task.config.pointing.regions.tokens_per_region


def test_it_learns_in_terms_of_their_own() -> None:
    task = pointing()
    batch = task.collator([squares("a", 1), squares("b", 2)])
    out = task.train()(batch)
    assert set(out.terms) == set(task.traits.terms) == set(task.units(batch))
    assert task.units(batch)["box.l1"] == 6
    grads = gradients(task, [batch])
    for name in ("backbone.", "language.", "pointing.decoders.box.", "pointing.regions."):
        assert any(key.startswith(name) and grad.abs().sum() > 0 for key, grad in grads.items()), name


def test_splitting_a_step_changes_nothing() -> None:
    task = pointing()
    samples = [squares("a", 1, 2), squares("b", 2, 3), squares("c", 3, 1)]
    whole = task.collator(samples)
    units = task.units(whole)

    def gradient(batches: list[Any]) -> dict[str, torch.Tensor]:
        task.zero_grad()
        for batch in batches:
            sum(term / units[name] for name, term in task(batch).terms.items()).backward()
        return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}

    parts = gradient([task.collator([one]) for one in samples])
    for name, grad in gradient([whole]).items():
        torch.testing.assert_close(parts[name], grad, atol=1e-4, rtol=2e-3, msg=name)


def test_a_row_without_objects_costs_nothing_and_hurts_nothing() -> None:
    task = pointing()
    plain = squares("a", 1)
    plain.turns = plain.turns[2:4]
    batch = task.collator([plain])
    out = task(batch)
    assert out.terms["box.l1"].item() == 0
    task_loss(task, batch).total.backward()


@pytest.mark.parametrize("recall", [False, True])
def test_answers_point_at_what_the_model_wrote(monkeypatch: Any, recall: bool) -> None:
    """Tokens that are written, then drawn: as if the model had said the truth."""
    task = pointing(POINTING.model_copy(update={"recall": recall})).eval()
    samples = [squares("a", 1, 2), squares("b", 2, 3)]
    asked = task.traits.predict_collator(samples)
    still = replace(task.collator, pointer=replace(task.collator.pointer, vary=False))  # a click in the middle
    learned = still(samples)
    from vistruct.tasks import instruct
    from vistruct.vlm.grammar import write_answer

    def says(_: Any, rows: Any, most: int, listen: Any = None) -> list[list[int]]:
        return [task.tokenizer.encode(write_answer(turn, task.config.pointing.grammar).text) for turn in asked.answers]

    monkeypatch.setattr(instruct, "answer_tokens", says)
    found = task.predict(asked)
    assert [len(one.found.objects) for one in found] == [2, 0, 1, 3, 0, 1]
    assert found[0].found.phrases[0].text == "trees"
    assert found[0].truth.phrases == found[0].found.phrases
    assert found[1].found.words == "a tree" == found[1].truth.words
    torch.testing.assert_close(found[3].truth.objects.boxes_xyxy, samples[1].objects.boxes_xyxy)
    assert all(0 <= score <= 1 for one in found for score in one.found.objects.scores)
    # the same boxes as the decoders draw in training, for the last answer of a row sees all that is before it
    reading = task.read(learned)
    seen = task.see(learned, reading)
    embedded = task.embed(learned, reading, seen)
    hidden = task.hidden(embedded, reading)
    states = task.pointing.queries(hidden, embedded, reading.objects, reading.regions, reading.lengths)
    pointed = learned.pointed
    decoder = task.pointing.decoders["box"]
    output = task.pointing.ask(decoder, states, pointed.asked("box"), pointed, seen, learned.whole_tiles)
    drawn = decoder.decode(output, (56, 56))
    torch.testing.assert_close(
        found[2].found.objects.boxes_xyxy[0], drawn[1].boxes_xyxy[0].clamp(0, 56), atol=1e-3, rtol=1e-3
    )


def test_the_unit_of_a_decoder_of_one_s_own_is_known(monkeypatch: Any) -> None:
    from vistruct.tasks import instruct

    task = pointing(POINTING.model_copy(update={"decoders": {"crown": BOX}})).eval()
    text = "<Phrase>tree</Phrase>(<Unit>crown</Unit>[0]<object>)"
    monkeypatch.setattr(instruct, "answer_tokens", lambda *_: [task.tokenizer.encode(text)] * 3)
    found = task.predict(task.traits.predict_collator([squares("a", 1)]))[0].found
    assert found.defects == ("no plan",)
    assert [(phrase.unit, phrase.rows) for phrase in found.phrases] == [("crown", (0,))]


def test_what_it_answers_is_measured_and_drawn() -> None:
    task = pointing(max_new_tokens=24).eval()
    samples = [squares("a", 1, 2), squares("b", 2, 3)]
    found = task.predict(task.traits.predict_collator(samples))
    assert all(one.size_hw == tuple(samples[0].images[0].shape[1:]) for one in found)
    metric = Grounding(GroundedConfig(published=True))
    metric.update([metric.condense(one) for one in found])
    numbers = metric.compute()
    assert 0 <= numbers["f1_50"] <= 1
    assert numbers["questions"] == len(found)
    assert json.loads(json.dumps(metric.details()))["per_image"].keys() >= {"f1_50", "count", "plan"}
    assert draw_grounded_sample(samples[0], found[:3]).height > 0


def test_asking_together_is_asking_one_by_one() -> None:
    task = pointing(max_new_tokens=24).eval()
    samples = [squares("a", 1, 2), squares("b", 2, 3)]
    together = task.predict(task.traits.predict_collator(samples))
    alone = [one for sample in samples for one in task.predict(task.traits.predict_collator([sample]))]
    assert [one.answer for one in together] == [one.answer for one in alone]


def test_vrl_drops_words_and_leaves_the_decoders_all_they_look_at() -> None:
    for where in ("tokens", "patches"):
        task = pointing(vrl=Vrl(drop_at=where)).train()
        batch = task.collator([squares("a", 1)])
        reading = task.read(batch)
        assert len(reading.places) == 1 if where == "tokens" else len(reading.places) < task.tokens_per_tile
        assert task.see(batch, reading).maps[0].shape[2:] == (4, 4)
        assert len(reading.objects) == 3
        task(batch)


def test_a_cut_row_points_at_the_first_of_its_objects() -> None:
    task = pointing()
    whole = task.collator([squares("a", 1, 3)])
    at = (whole.input_ids == task.pointing.object_token).nonzero().flatten().tolist()
    task = pointing(max_tokens=at[1] + 1)
    batch = task.collator([squares("a", 1, 3)])
    assert list(map(len, batch.pointed.aims)) == [2]
    task(batch)


def test_blind_models_cannot_point() -> None:
    with pytest.raises(ValueError, match="never reads its own answer"):
        pointing(POINTING, answer_dropout=1.0)


@pytest.mark.parametrize("metric", [GroundedConfig(), MeanLossConfig()])
def test_what_cannot_be_asked_or_compared_with_is_left_out_of_an_evaluation(tmp_path: Path, metric: Any) -> None:
    PIL.Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    objects = {"boxes": [[4, 4, 16, 16], [30, 4, 50, 16]]}
    good: list[dict[str, Any]] = [
        {"from": "human", "value": "<image>What is <region>?", "points": [[0]]},
        {"from": "gpt", "value": "<Phrase>A tree</Phrase><object>", "points": [[1]], "units": ["box"]},
    ]
    bad_question = {**good[0], "prompts": ["mask"]}  # of an object without one
    bad_answer = {**good[1], "value": "a tree <object>"}  # of no phrase
    turns = [good, [bad_question, good[1]], [good[0], bad_answer]]
    lines = [{"image": "a.png", "objects": objects, "conversations": one} for one in turns]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = ChatDataConfig(jsonl=tmp_path / "talk.jsonl")
    task, evaluation = pointing(max_new_tokens=4), Eval(data=data, metric=metric)
    kept = measurable(task, evaluation, data.build())
    assert len(kept) == 1
    assert len(kept.info.dropped) == 2
    assert evaluate(task, evaluation, torch.device("cpu"), batch=2, dataset=kept)
    with pytest.raises(UserError, match="2 of 3 lines cannot be used"):
        measurable(task, evaluation, data.build(), max_left_out=0.5)


def test_object_tokens_recall_what_was_shown_before_them_and_nothing_else() -> None:
    torch.manual_seed(0)
    recall = Recall(8, 2)
    states, shown = torch.randn(3, 8), torch.randn(2, 2, 8)
    away = torch.tensor([[9, -1], [-1, -1], [30, 5]])
    found = recall(states, shown, away)
    other = shown.clone()
    other[1] += torch.randn(2, 8)
    again = recall(states, other, away)
    assert torch.equal(found[0], again[0])
    assert not torch.equal(found[2], again[2])
    assert torch.equal(found[1], states[1])
    far = torch.tensor([[9, -1], [-1, -1], [900, 5]])  # as if the first were not there
    alone = torch.tensor([[9, -1], [-1, -1], [-1, 5]])
    torch.testing.assert_close(recall(states, shown, far)[2], recall(states, shown, alone)[2])
    nothing_shown = recall(states, shown, far)[2].sum()
    (gradient,) = torch.autograd.grad(nothing_shown, recall.slope)
    assert gradient.isfinite()


def test_what_recalls_gets_every_token_of_a_region() -> None:
    recall = Recall(8, 2)
    shown = torch.randn(1, 2, 8)
    places = shown.clone()
    places[:, 1] = torch.randn(8)
    states, away = torch.randn(1, 8), torch.tensor([[3]])
    assert (recall(states, shown, away) - recall(states, places, away)).abs().max() > 0.05
