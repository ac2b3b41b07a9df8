"""The vision-language model against the original code's tensors and against `transformers`."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from public_folders import golden_batch, golden_weights
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from toy_vlm import QWEN, assorted, build, gradients, logits, sample, talk
from transformers import InternVLConfig, InternVLForConditionalGeneration
from whole_loss import task_loss

from vistruct.contracts import Costs, Sample
from vistruct.tasks.token_weights import TokenWeights
from vistruct.vlm.chat import END, IGNORE
from vistruct.vlm.names import LanguageNames, to_ours
from vistruct.vlm.padded import like_lengths
from vistruct.vlm.projector import pixel_shuffle
from vistruct.vlm.vrl import Vrl

ROWS = ["packed", "grouped", "padded"]


def golden_task(rows: str) -> Any:
    task = build(vocabulary=300, language={"vocab_size": 300}, rows=rows)
    task.load_state_dict(to_ours(golden_weights(), "original", LanguageNames.of(task.language))[0])
    task.image_token = 292
    task.pixel_mean.zero_(), task.pixel_std.fill_(1)
    return task.eval()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("case", ["a", "b"])  # two tiles with padding; one image and one text-only row
def test_projector_logits_and_loss_are_the_original_s(golden, case, rows):
    task, io = golden_task(rows), golden("vlm/io.safetensors")
    batch = golden_batch(io, case)
    flags = io[f"{case}.image_flags"].squeeze(1).bool()
    with torch.no_grad():
        visual = task.visual_tokens(batch.tiles)
        assert_close(visual, io[f"{case}.mlp1"][flags].flatten(0, 1), atol=2e-5, rtol=1e-4)
        expected = io[f"{case}.logits"][io[f"{case}.attention_mask"].bool()]
        assert_close(logits(task, batch), expected, atol=5e-5, rtol=1e-4)
        assert_close(task_loss(task, batch).loss, io[f"{case}.loss"][0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("share", ["drop50", "drop75"])
def test_shortened_row_gives_the_original_s_logits_and_loss(golden, monkeypatch, share, rows):
    task, io, vrl = golden_task(rows), golden("vlm/io.safetensors"), golden("vlm/io_vrl.safetensors")
    batch = golden_batch(io, "a")
    positions = vrl[f"{share}.kept_positions"]
    is_text_or_image = positions < len(batch.input_ids)  # the original keeps its padding too
    keep = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    keep[positions[is_text_or_image]] = True
    monkeypatch.setattr("vistruct.vlm.vrl.keep_tokens", lambda *_: keep)
    task.vrl = Vrl(drop_prob=1.0, drop_ratio=0.5)
    lengths = []
    task.language.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: lengths.append(out.last_hidden_state.shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        reading = task.train().read(batch)
        actual, loss = logits(task, batch, reading), task_loss(task, batch).loss
    assert torch.equal(reading.positions, positions[is_text_or_image])
    assert lengths == [len(actual)] * 2
    assert len(actual) < len(batch.input_ids)
    assert_close(actual, vrl[f"{share}.logits_kept"][0][is_text_or_image], atol=5e-5, rtol=1e-4)
    assert_close(loss, vrl[f"{share}.loss"][0], atol=2e-5, rtol=1e-5)


def test_pixel_shuffle_is_the_original_permutation(golden):
    io = golden("vlm/io.safetensors")
    image, expected = io["ps_only.input"], io["ps_only.v2"]
    n, h, w, c = image.shape
    out = pixel_shuffle(image.reshape(n, h * w, c), (h, w))
    assert torch.equal(out, expected.reshape(n, -1, expected.shape[-1]))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [64, 96])
def test_logits_and_loss_are_those_of_transformers(width, rows):
    task = build(language={"hidden_size": width}, rows=rows).eval()
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
            "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True, "use_mean_pooling": True,
        },
        text_config={"model_type": "qwen2", **QWEN, "hidden_size": width, "tie_word_embeddings": False},
        image_token_id=task.image_token, downsample_ratio=0.5,
    )  # fmt: skip
    theirs = InternVLForConditionalGeneration(config).eval()
    state = theirs.state_dict()
    for value in state.values():
        if value.is_floating_point():
            torch.nn.init.normal_(value, std=0.1)
    task.load_state_dict(to_ours(state, "transformers", LanguageNames.of(task.language))[0])

    batch = task.collator([sample("a", images=2), sample("b", images=1, answer="no"), sample("c", images=0)])
    seen = torch.arange(max(batch.lengths))[None] < torch.tensor(batch.lengths)[:, None]
    ids, labels = (torch.full(seen.shape, fill).masked_scatter(seen, values) for fill, values in
                   ((0, batch.input_ids), (IGNORE, batch.labels)))  # fmt: skip
    with torch.no_grad():
        pixels = (batch.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
        out = theirs(input_ids=ids, pixel_values=pixels, labels=labels, attention_mask=seen.long())
        assert_close(logits(task, batch), out.logits[seen], atol=5e-5, rtol=1e-4)
    assert_close(task_loss(task, batch).loss, out.loss, atol=2e-5, rtol=1e-5)


def test_supervised_only_head_has_the_gradient_of_the_full_one():
    task = build()
    batch = task.collator([sample("a"), sample("b", answer="no")])
    ours = gradients(task, [batch])
    task.zero_grad()
    full = torch.nn.functional.cross_entropy(logits(task, batch)[:-1], batch.labels[1:], reduction="sum")
    full.backward()
    assert ours
    for name, p in task.named_parameters():
        if p.grad is not None:
            assert_close(ours[name], p.grad, atol=1e-6, rtol=1e-4)


def test_under_vrl_only_kept_visual_tokens_get_a_gradient():
    task = build("paper").train()
    batch = task.collator([sample("a", images=2), sample("b", images=1)])
    visual = []
    task.projector.register_forward_hook(lambda *args: visual.append(args[2].requires_grad_().retain_grad() or args[2]))
    task_loss(task, batch).loss.backward()
    (tokens,) = visual
    reached = tokens.grad.abs().sum(-1).flatten() > 0
    assert reached.sum() == 2 + 1  # rows have 8 and 4 visual tokens; a quarter of each stays
    assert sorted(reached.nonzero().squeeze(1).tolist()) == sorted(task.read(batch).visual.tolist())


def test_vrl_is_off_outside_training():
    task = build("paper").eval()
    batch = task.collator([sample("a", images=2)])
    first, second = task_loss(task, batch).loss, task_loss(task, batch).loss
    task.vrl = Vrl(drop_prob=0.0, drop_ratio=0.0)
    assert first == second == task_loss(task, batch).loss


def test_multi_tile_and_multi_image_rows_have_places_for_all():
    task = build()
    wide = sample("wide")
    wide.images = [torch.zeros(3, 56, 112, dtype=torch.uint8)]
    batch = task.collator([wide, sample("two", images=2), sample("none", images=0)])
    places = (batch.input_ids == task.image_token).split(batch.lengths)
    assert [int(row.sum()) for row in places] == [3 * 4, 2 * 4, 0]  # 2 x 1 tiles and a thumbnail
    assert len(batch.tiles) == 3 + 2
    assert task_loss(task, batch).count > 0


def test_samples_of_one_batch_do_not_see_each_other():
    task = build().eval()
    a, b = sample("a", images=2, seed=1), sample("b", images=1, seed=2, answer="no")
    together, alone = task_loss(task, task.collator([a, b])), [task_loss(task, task.collator([s])) for s in (a, b)]
    assert_close(together.total, alone[0].total + alone[1].total, atol=1e-4, rtol=1e-5)
    assert together.count == alone[0].count + alone[1].count


def questions_about_one_image() -> Sample:
    asked = sample("many", answer="yes")
    more = talk("is there a tree in the upper left ?", "no", "how many trees ?", "twelve trees")
    return dataclasses.replace(asked, turns=(*asked.turns, *more))


def test_independent_questions_give_the_losses_of_asking_each_alone():
    task = build().train()
    many = questions_about_one_image()
    singles = []
    for i in range(0, len(many.turns), 2):
        question = many.turns[i].text.removeprefix("<image>\n")
        turns = talk(f"<image>\n{question}", many.turns[i + 1].text)
        singles.append(dataclasses.replace(many, id=f"single{i}", turns=turns))
    batch = dataclasses.replace(task.collator, independent=True)([many])
    assert len(batch.tiles) == 1  # one pass of the backbone for three questions
    assert batch.mentions.tolist() == [0, 0, 0]
    together = task_loss(task, batch)
    alone = task_loss(task, task.collator(singles))
    assert together.count == alone.count
    assert_close(together.total, alone.total, atol=1e-5, rtol=1e-5)


def test_independent_questions_of_several_rows_do_not_mix():
    task = build().eval()
    collate = dataclasses.replace(task.collator, independent=True)
    many, other = questions_about_one_image(), sample("other", seed=5, answer="no")
    together, *alone = (task_loss(task, collate(samples)).total for samples in ([many, other], [many], [other]))
    assert_close(together, sum(alone), atol=1e-5, rtol=1e-5)


def test_questions_that_bring_their_own_images_stay_one_conversation():
    later = sample("later", images=2)
    later.turns = talk("<image> one", "yes", "<image> two", "yes")
    batch = dataclasses.replace(build().collator, independent=True)([later])
    assert len(batch.ids) == 1
    assert batch.mentions.tolist() == [0, 1]


@pytest.mark.parametrize("image_last", [False, True])
def test_row_holds_its_images_on_the_side_that_was_asked_for(image_last):
    task = build(independent=True, image_last=image_last)
    batch = task.collator([sample("a", images=2)])
    text = task.tokenizer.decode(batch.input_ids)
    assert (text.index("how many") < text.index("<img>")) is image_last
    assert task_loss(task, batch).count > 0
    with torch.no_grad():  # and each visual token still stands in its own place
        reading = task.read(batch)
        places = task.embed(batch, reading)[reading.places]
    assert_close(places, task.visual_tokens(batch.tiles))


def test_rows_are_grouped_by_length_and_none_is_lost():
    lengths = [40, 10, 12, 90, 41, 11, 10]
    groups = like_lengths(lengths)
    assert sorted(row for rows in groups for row in rows) == list(range(7))
    for rows in groups:
        assert max(lengths[row] for row in rows) <= 1.5 * min(lengths[row] for row in rows)
    assert len(groups) == 3
    assert like_lengths(lengths, float("inf")) == [sorted(range(7), key=lambda row: lengths[row])]


def test_answers_come_with_their_question_and_truth():
    task = build().eval()
    one = dataclasses.replace(sample("a"), families=("count",))
    (prediction,) = task.predict(task.traits.predict_collator([one]))
    assert prediction.question == "how many trees ?"
    assert prediction.truth == "twelve trees"
    assert prediction.family == "count"
    assert isinstance(prediction.answer, str)


def test_generation_is_the_greedy_continuation():
    task = build().eval()
    batch = task.traits.predict_collator([sample("a")])
    (prediction,) = task.predict(batch)
    reading = task.read(batch)
    embeddings = task.embed(batch, reading)
    ids: list[int] = []
    end = task.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        while len(ids) < task.config.max_new_tokens and (not ids or ids[-1] != end):
            number = len(embeddings)
            whole = dataclasses.replace(reading, lengths=[number], positions=torch.arange(number))
            ids.append(int(task.language.get_output_embeddings()(task.hidden(embeddings, whole)[-1]).argmax()))
            embeddings = torch.cat([embeddings, task.language.get_input_embeddings()(torch.tensor(ids[-1:]))])
    assert prediction.answer == task.tokenizer.decode(ids).replace("<|im_end|>", "").strip()


def test_of_independent_questions_each_is_asked_alone():
    """As it was trained: the questions and answers before it are no part of its row."""
    task = build(independent=True)
    batch = task.traits.predict_collator([questions_about_one_image()])
    assert batch.questions == ["how many trees ?", "is there a tree in the upper left ?", "how many trees ?"]
    assert batch.truths == ["yes", "no", "twelve trees"]
    for row, question in zip(batch.input_ids.split(batch.lengths), batch.questions, strict=True):
        text = task.tokenizer.decode(row)
        assert text.count("<|im_start|>user") == 1
        assert text.endswith(f"</img>\n{question}<|im_end|>\n<|im_start|>assistant\n")


def blind(chance: float = 1.0) -> Any:
    return build(answer_dropout=chance, max_new_tokens=6)


def test_a_model_that_never_reads_answers_reads_none_later_either():
    task = blind()
    a, b = sample("a", answer="twelve trees"), sample("a", answer="no")
    end = [task.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    for mode in (True, False):
        task.train(mode)
        for one in (a, b):
            batch = task.collator([one])
            read, answer = task.hide_answers(batch), batch.labels != IGNORE
            assert (read[answer] == task.hidden_token).all()
            assert torch.equal(read[~answer], batch.input_ids[~answer])
            assert torch.equal(task.read(batch).input_ids, read)
            assert batch.input_ids[answer].tolist()[-1:] == end  # what is to be said is not hidden in the labels
    train, eval_ = task_loss(task.train(), batch).loss, task_loss(task.eval(), batch).loss
    assert_close(train, eval_)


def test_an_answer_written_at_once_is_what_training_predicts():
    task = blind().eval()
    asked = task.traits.predict_collator([sample("a")])
    (prediction,) = task.predict(asked)
    # training sees the same: of any answer of so many tokens, the likeliest token at each place
    (length,) = asked.lengths
    other = task.tokenizer.convert_tokens_to_ids("a")
    row = torch.cat([asked.input_ids, torch.full((6,), other)])
    labels = torch.full_like(row, IGNORE)
    labels[length:] = other
    with torch.no_grad():
        whole = dataclasses.replace(asked, input_ids=row, labels=labels, lengths=[len(row)])
        expected = logits(task, whole)[length - 1 : -1].argmax(-1).tolist()
    end = task.tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = expected[: expected.index(end)] if end in expected else expected
    assert prediction.answer == task.tokenizer.decode(expected).strip()
    assert expected


def test_hidden_answer_tokens_are_a_row_s_own_draw():
    task = blind(chance=0.5).train()
    samples = [dataclasses.replace(sample(name), seed=number) for number, name in enumerate("abcdefgh")]
    batch = task.collator(samples)
    together = task.hide_answers(batch).split(batch.lengths)
    hidden = 0
    for row, one in enumerate(samples):
        single = task.collator([one])
        alone = task.hide_answers(single)
        assert torch.equal(together[row], alone)
        hidden += int((alone != single.input_ids).sum())
    total = int((batch.labels != IGNORE).sum())
    assert 0.2 * total < hidden < 0.8 * total
    assert torch.equal(task.eval().hide_answers(batch), batch.input_ids)


def test_gradient_repeats_though_rows_share_an_image_and_threads_share_the_work(monkeypatch):
    """Several rows add to one visual token's gradient: in the same order every time, or no run could be repeated."""
    task = build()
    task.tokens_per_tile = 64
    batch = dataclasses.replace(task.collator, independent=True)([questions_about_one_image() for _ in range(8)])
    batch = dataclasses.replace(batch, mentions=torch.zeros_like(batch.mentions))
    visual = torch.randn(64, 64, requires_grad=True)
    monkeypatch.setattr(task, "visual_tokens", lambda tiles, cells: visual)
    weight = torch.randn(len(batch.input_ids), 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(15):
            embeddings = task.embed(batch, task.read(batch))
            gradients.append(torch.autograd.grad((embeddings * weight).sum(), visual)[0])
    finally:
        torch.set_num_threads(threads)
    assert gradients[0].abs().sum() > 0
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("weights", [None, TokenWeights()])
@pytest.mark.parametrize("vrl", ["off", "paper", Vrl(drop_ratio=0.5, drop_at="patches")])
def test_work_is_the_multiplications_that_torch_counts(vrl, weights):
    task = build(vrl, language={"vocab_size": 4000}, token_weights=weights).train()
    samples = [sample("one"), sample("four", size=112), sample("long", answer="yes no " * 5), sample("text", images=0)]
    batches = [task.collator([one]) for one in samples]
    costs = Costs(
        tokens=np.array([sum(b.lengths) for b in batches]),
        visual=np.array([int((b.input_ids == task.image_token).sum()) for b in batches]),
        supervised=np.array([int((b.labels != IGNORE).sum()) for b in batches]),
        tiles=np.array([len(b.tiles) for b in batches]),
    )
    counted = []
    for batch in batches:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            task_loss(task, batch)
        counted.append(counter.get_total_flops() / 2)
    # Attention among words is left out, and so are dropped patches' embeddings: some per cent of a tiny model's work.
    np.testing.assert_allclose(task.traits.work(costs), counted, rtol=0.15 if isinstance(vrl, Vrl) else 0.1)


def test_work_of_a_large_model_does_not_overflow_the_numbers_that_costs_are_kept_in():
    task = build("paper")
    table = {name: np.array([1_000_000, 30_000]) for name in ("tokens", "visual", "supervised", "tiles")}
    small = task.traits.work(Costs(**{name: value.astype(np.int32) for name, value in table.items()}))
    np.testing.assert_array_equal(small, task.traits.work(Costs(**{k: v.astype(np.float64) for k, v in table.items()})))
    assert small.dtype == np.float64


def test_real_1b_language_part_has_the_published_shapes():
    """Projector and Qwen2 of InternVL2.5-1B, built without memory."""
    table = json.loads((GOLDEN / "vlm/internvl2_5_1b_keys.json").read_text())
    shapes = table.get("key_to_shape", table)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from vistruct.vlm.projector import Projector

    with torch.device("meta"):
        config = Qwen2Config(
            hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
            intermediate_size=4864, vocab_size=151674, tie_word_embeddings=False,
        )  # fmt: skip
        parts = {"mlp1": Projector(4096, 896), "language_model": Qwen2ForCausalLM(config)}
    ours = {f"{prefix}.{k}": list(v.shape) for prefix, part in parts.items() for k, v in part.state_dict().items()}
    assert ours == {k: v for k, v in shapes.items() if "rotary" not in k}


@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_a_whole_model_runs_in_every_type(rows):
    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        task = build(rows=rows).to(dtype).train()
        loss = task_loss(task, task.collator(assorted())).total
        loss.backward()
        found[dtype] = loss.item()
        assert len(task.eval().predict(task.traits.predict_collator(assorted()[:2]))) == 2
    exact = found[torch.float64]
    assert found[torch.float32] == pytest.approx(exact, rel=1e-6)
    assert found[torch.bfloat16] == pytest.approx(exact, rel=1e-2)
    assert found[torch.float16] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("pad", ["own", "none", "end"])
def test_the_token_that_hides_answers_learns(pad):
    """`transformers` gives the padding token a row of zeros that never gets a gradient."""
    task = build(answer_dropout=1.0)
    words = copy.deepcopy(task.tokenizer)
    if pad != "own":
        words.pad_token = None if pad == "none" else words.eos_token
    task.tokenizer = words
    hidden = task.hidden_token
    assert hidden != words.convert_tokens_to_ids(END)
    task_loss(task.train(), task.collator(assorted())).total.backward()
    assert task.language.get_input_embeddings().weight.grad[hidden].abs().sum() > 0
