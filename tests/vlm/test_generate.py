"""Answers to several rows at once against one row at a time, and against `transformers` and the plain loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_vlm import assorted, build, configure, logits, sample

from vistruct.vlm.chat import END
from vistruct.vlm.generate import answer_tokens

MOST = 7
LANGUAGES = {"qwen2": {}, "llama": {"num_key_value_heads": 4}, "mistral": {"sliding_window": 24}}


def asked(task: Any) -> list[Tensor]:
    """Embedded questions of very different lengths, with and without images."""
    batch = task.traits.predict_collator(assorted())
    reading = task.read(batch)
    with torch.no_grad():
        return list(task.embed(batch, reading).split(reading.lengths))


def spread(task: Any, scale: float = 3.0) -> Any:
    """Weights so large that answers differ from row to row."""
    with torch.no_grad():
        for p in task.language.parameters():
            p.mul_(scale)
    return task.eval()


def by_hand(task: Any, row: Tensor) -> list[int]:
    """The likeliest token, again and again, everything read anew each time; through end marks."""
    ids: list[int] = []
    table = task.language.get_input_embeddings()
    with torch.no_grad():
        for _ in range(MOST):
            hidden = task.language.get_decoder()(inputs_embeds=row[None], use_cache=False).last_hidden_state[0, -1]
            ids.append(int(task.language.get_output_embeddings()(hidden).argmax()))
            row = torch.cat([row, table(torch.tensor(ids[-1:]))])
    return ids


@pytest.mark.parametrize("model_type", LANGUAGES)
def test_answers_to_many_rows_are_those_to_each_alone(model_type):
    task = spread(build(model_type=model_type, language=LANGUAGES[model_type]))
    rows = asked(task)
    together = answer_tokens(task, rows, MOST)
    assert together == [answer_tokens(task, [row], MOST)[0] for row in rows]
    end = task.tokenizer.convert_tokens_to_ids(END)
    for ids, row in zip(together, rows, strict=True):
        expected = by_hand(task, row)
        assert ids == (expected[: expected.index(end)] if end in expected else expected)
    assert len({tuple(ids) for ids in together}) > 2  # not one answer to everything


def test_answer_is_what_transformers_generates_from_the_same_embeddings():
    task = spread(build())
    for row in asked(task):
        ids = task.language.generate(
            inputs_embeds=row[None], attention_mask=torch.ones(1, len(row), dtype=torch.int64), max_new_tokens=MOST,
            do_sample=False, eos_token_id=task.tokenizer.convert_tokens_to_ids(END), pad_token_id=0,
        )  # fmt: skip
        assert answer_tokens(task, [row], MOST) == [[i for i in ids[0].tolist() if i != 2]]


def test_answer_stops_before_its_end_mark_wherever_others_stop():
    """The table of what is said is turned so that the end mark wins in one row, and not in the others."""
    task = spread(build())
    rows = asked(task)
    first = [ids[0] for ids in answer_tokens(task, rows, 1)]
    chosen = next(token for token in first if first.count(token) < len(first))
    end = task.tokenizer.convert_tokens_to_ids(END)
    before = answer_tokens(task, rows, MOST)
    with torch.no_grad():
        head = task.language.get_output_embeddings().weight
        head[[chosen, end]] = head[[end, chosen]]
    after = answer_tokens(task, rows, MOST)
    assert [ids == [] for ids in after] == [token == chosen for token in first]
    for ids, old, token in zip(after, before, first, strict=True):
        if token != chosen and chosen not in old and end not in old:
            assert ids == old


def test_what_a_published_configuration_says_of_sampling_does_not_change_an_answer():
    """A language model brings its maker's settings along; a repetition penalty would not be the likeliest answer."""
    task = spread(build())
    rows = asked(task)
    plain = answer_tokens(task, rows, MOST)
    own = task.language.generation_config
    own.repetition_penalty, own.temperature, own.top_p, own.do_sample = 1.8, 0.2, 0.5, True
    own.no_repeat_ngram_size, own.min_new_tokens, own.suppress_tokens = 1, 6, [plain[0][0]]
    assert answer_tokens(task, rows, MOST) == plain
    assert any(len(set(ids)) < len(ids) for ids in plain)  # there are repetitions to punish


def test_no_rows_have_no_answers():
    assert answer_tokens(build().eval(), [], MOST) == []


@pytest.mark.parametrize("model_type", LANGUAGES)
def test_blind_model_writes_all_its_tokens_at_once(model_type):
    """As it is trained: each token from the question and the places alone, and in any batch the same."""
    task = spread(build(model_type=model_type, language=LANGUAGES[model_type], answer_dropout=1.0))
    rows = asked(task)
    together = answer_tokens(task, rows, MOST)
    assert together == [answer_tokens(task, [row], MOST)[0] for row in rows]
    blank = task.language.get_input_embeddings()(torch.full((MOST - 1,), task.hidden_token))
    end = task.tokenizer.convert_tokens_to_ids(END)
    for ids, row in zip(together, rows, strict=True):
        with torch.no_grad():
            whole = torch.cat([row, blank])[None]
            out = task.language.get_decoder()(inputs_embeds=whole, use_cache=False).last_hidden_state[0]
            expected = task.language.get_output_embeddings()(out[len(row) - 1 :]).argmax(-1).tolist()
        assert len(expected) == MOST
        assert ids == (expected[: expected.index(end)] if end in expected else expected)
    assert answer_tokens(task, rows, 1) == [ids[:1] for ids in together]


def test_blind_model_answers_later_questions_without_reading_earlier_answers():
    task = spread(build(answer_dropout=1.0))
    one = assorted()[-1]
    other = dataclasses.replace(
        one, turns=(*one.turns[:1], dataclasses.replace(one.turns[1], text="no"), *one.turns[2:])
    )
    same = dataclasses.replace(
        one, turns=(*one.turns[:1], dataclasses.replace(one.turns[1], text="yes"), *one.turns[2:])
    )
    answers = [[p.answer for p in task.predict(task.traits.predict_collator([s]))] for s in (other, same)]
    assert answers[0] == answers[1]


def test_predictions_come_row_by_row_with_what_was_asked():
    task = configure(build(independent=True), max_new_tokens=3).eval()
    samples = assorted()
    together = task.predict(task.traits.predict_collator(samples))
    assert together == [p for one in samples for p in task.predict(task.traits.predict_collator([one]))]
    assert [p.id for p in together] == ["two", "one", "wide", "long", "text", "many", "many", "many"]
    assert [p.truth for p in together[-3:]] == ["twelve trees", "no", "yes"]
    assert together[-1].question == "in the upper left ?"


def test_generation_leaves_the_dropping_of_tokens_to_training():
    task = build("paper").eval()
    batch = task.traits.predict_collator([sample("a", images=2)])
    assert task.read(batch).lengths == batch.lengths
    assert len(logits(task, batch)) == batch.lengths[0]
