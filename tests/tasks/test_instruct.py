"""The vision-language model against the original code's tensors and against `transformers`."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
import torch
from conftest import GOLDEN
from torch.testing import assert_close
from transformers import InternVLConfig, InternVLForConditionalGeneration

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import DataInfo, Sample, Turn
from vistruct.tasks.instruct import ChatBatch, Instruct, InstructConfig, like_lengths
from vistruct.vlm.chat import IGNORE
from vistruct.vlm.language import LanguageConfig
from vistruct.vlm.projector import pixel_shuffle
from vistruct.vlm.tiling import Tiling
from vistruct.vlm.vrl import Vrl

TEXTS = ["how many trees ?", "twelve trees", "is there a tree in the upper left ?", "yes", "no"] * 4
VIT = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56)
QWEN = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "rms_norm_eps": 1e-6, "vocab_size": 400,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip


def build(tmp_path, vrl="off", **language) -> Instruct:
    torch.manual_seed(0)
    config = InstructConfig(
        backbone=VIT, language=LanguageConfig(options={**QWEN, **language}, vocab_size=340),
        tiling=Tiling(size=56, max_tiles=4), vrl=vrl,
    )  # fmt: skip
    return config.build(DataInfo(corpus=lambda: iter(TEXTS)), tmp_path)


def sample(name="s", images=1, size=56, seed=1, answer="twelve trees") -> Sample:
    generator = torch.Generator().manual_seed(seed)
    marks = "<image>\n" * images
    return Sample(
        id=name, image_id=name, seed=seed,
        images=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator) for _ in range(images)],
        turns=(Turn(role="user", text=f"{marks}how many trees ?"), Turn(role="assistant", text=answer)),
    )  # fmt: skip


def golden_task(golden, tmp_path) -> Instruct:
    task = build(tmp_path, vocab_size=300)
    task.backbone.load_state_dict(golden("intern_vit/weights.safetensors").tensors)
    weights = golden("vlm/weights.safetensors").tensors
    task.projector.load_state_dict({k.removeprefix("mlp1."): v for k, v in weights.items() if k.startswith("mlp1.")})
    language = {k.removeprefix("language_model."): v for k, v in weights.items() if k.startswith("language_model.")}
    task.language.load_state_dict(language)
    task.image_token = 292
    task.pixel_mean.zero_(), task.pixel_std.fill_(1)
    return task.eval()


def golden_batch(io, case) -> ChatBatch:
    """The golden images are already normalised floats; they pass through as they are (mean 0, std 1, times 255)."""
    flags = io[f"{case}.image_flags"].squeeze(1).bool()
    ids = io[f"{case}.input_ids"]
    rows = [str(i) for i in range(len(ids))]
    return ChatBatch(
        ids=rows, image_ids=rows, seeds=torch.zeros(len(ids), dtype=torch.int64), questions=rows, truths=rows,
        tiles=io[f"{case}.pixel_values"][flags] * 255, input_ids=ids, labels=io[f"{case}.labels"],
        is_padding=io[f"{case}.attention_mask"] == 0, mentions=torch.arange(int(flags.sum())),
    )  # fmt: skip


@pytest.mark.parametrize("case", ["a", "b"])  # two tiles with padding; one image and one text-only row
def test_projector_logits_and_loss_are_the_original_s(golden, tmp_path, case):
    task, io = golden_task(golden, tmp_path), golden("vlm/io.safetensors")
    batch = golden_batch(io, case)
    flags = io[f"{case}.image_flags"].squeeze(1).bool()
    with torch.no_grad():
        assert_close(task.visual_tokens(batch.tiles), io[f"{case}.mlp1"][flags], atol=2e-5, rtol=1e-4)
        embeddings, _ = task.embed(batch)
        positions = torch.arange(batch.labels.shape[1]).expand_as(batch.labels)
        logits = task.language.get_output_embeddings()(task.hidden(embeddings, batch.is_padding, positions))
        seen = ~batch.is_padding
        assert_close(logits[seen], io[f"{case}.logits"][seen], atol=5e-5, rtol=1e-4)
        assert_close(task(batch).loss, io[f"{case}.loss"][0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("share", ["drop50", "drop75"])
def test_shortened_row_gives_the_original_s_logits_and_loss(golden, tmp_path, monkeypatch, share):
    task, io, vrl = (
        golden_task(golden, tmp_path),
        golden("vlm/io.safetensors"),
        golden("vlm/io_vrl.safetensors"),
    )
    batch = golden_batch(io, "a")
    keep = torch.zeros_like(batch.is_padding)
    keep[0, vrl[f"{share}.kept_positions"]] = True
    monkeypatch.setattr("vistruct.vlm.vrl.keep_mask", lambda *_: keep)
    task.vrl = Vrl(drop_prob=1.0, drop_ratio=0.5)
    seen = {}
    task.language.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: seen.update(kwargs, hidden=out.last_hidden_state), with_kwargs=True
    )
    with torch.no_grad():
        loss = task.train()(batch).loss
        kept = (~batch.is_padding)[0, vrl[f"{share}.kept_positions"]]
        logits = task.language.get_output_embeddings()(seen["hidden"])[0]
    expected = vrl[f"{share}.logits_kept"][0][kept]
    assert seen["hidden"].shape[1] == len(expected) < batch.labels.shape[1]
    assert_close(seen["position_ids"][0], vrl[f"{share}.kept_positions"][kept])
    assert_close(logits, expected, atol=5e-5, rtol=1e-4)
    assert_close(loss, vrl[f"{share}.loss"][0], atol=2e-5, rtol=1e-5)


def test_pixel_shuffle_is_the_original_permutation(golden):
    io = golden("vlm/io.safetensors")
    image, expected = io["ps_only.input"], io["ps_only.v2"]
    n, h, w, c = image.shape
    out = pixel_shuffle(image.reshape(n, h * w, c), (h, w))
    assert torch.equal(out, expected.reshape(n, -1, expected.shape[-1]))


@pytest.mark.parametrize("width", [64, 96])
def test_logits_and_loss_are_those_of_transformers(tmp_path, width):
    task = build(tmp_path, hidden_size=width).eval()
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
    task.backbone.load_state_dict(task.backbone.convert_keys(state))
    projector = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}
    task.projector.load_state_dict(
        {
            f"{projector[name]}.{kind}": state[f"model.multi_modal_projector.{name}.{kind}"]
            for name in projector
            for kind in ("weight", "bias")
        }
    )
    language = {k.replace("model.language_model.", "model."): v for k, v in state.items() if "language_model" in k}
    task.language.load_state_dict(language | {"lm_head.weight": state["lm_head.weight"]})

    batch = task.collator([sample("a", images=2), sample("b", images=1, answer="no"), sample("c", images=0)])
    with torch.no_grad():
        pixels = (batch.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
        out = theirs(
            input_ids=batch.input_ids, pixel_values=pixels, labels=batch.labels,
            attention_mask=(~batch.is_padding).long(),
        )  # fmt: skip
        embeddings, _ = task.embed(batch)
        positions = torch.arange(batch.labels.shape[1]).expand_as(batch.labels)
        logits = task.language.get_output_embeddings()(task.hidden(embeddings, batch.is_padding, positions))
    seen = ~batch.is_padding
    assert_close(logits[seen], out.logits[seen], atol=5e-5, rtol=1e-4)
    assert_close(task(batch).loss, out.loss, atol=2e-5, rtol=1e-5)


def test_supervised_only_head_has_the_gradient_of_the_full_one(tmp_path):
    task = build(tmp_path)
    batch = task.collator([sample("a"), sample("b", answer="no")])
    task(batch).loss.backward()
    ours = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    embeddings, _ = task.embed(batch)
    positions = torch.arange(batch.labels.shape[1]).expand_as(batch.labels)
    logits = task.language.get_output_embeddings()(task.hidden(embeddings, batch.is_padding, positions))
    full = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    full.backward()
    for name, p in task.named_parameters():
        if p.grad is not None:
            assert_close(ours[name], p.grad, atol=1e-6, rtol=1e-4)


def test_under_vrl_only_kept_visual_tokens_get_a_gradient(tmp_path):
    task = build(tmp_path, vrl="paper").train()
    batch = task.collator([sample("a", images=2), sample("b", images=1)])
    visual = []
    task.projector.register_forward_hook(lambda *args: visual.append(args[2].requires_grad_().retain_grad() or args[2]))
    task(batch).loss.backward()
    (tokens,) = visual
    reached = tokens.grad.abs().sum(-1).flatten() > 0
    assert reached.sum() == 2 + 1  # rows have 8 and 4 visual tokens; a quarter of each stays


def test_vrl_is_off_outside_training(tmp_path):
    task = build(tmp_path, vrl="paper").eval()
    batch = task.collator([sample("a", images=2)])
    first, second = task(batch).loss, task(batch).loss
    task.vrl = Vrl(drop_prob=0.0, drop_ratio=0.0)
    assert first == second == task(batch).loss


def test_multi_tile_and_multi_image_rows_have_places_for_all(tmp_path):
    task = build(tmp_path)
    wide = sample("wide")
    wide.images = [torch.zeros(3, 56, 112, dtype=torch.uint8)]
    batch = task.collator([wide, sample("two", images=2), sample("none", images=0)])
    per_row = (batch.input_ids == task.image_token).sum(1)
    assert per_row.tolist() == [3 * 4, 2 * 4, 0]  # 2 x 1 tiles and a thumbnail
    assert len(batch.tiles) == 3 + 2
    assert task(batch).count > 0


def test_samples_of_one_batch_do_not_see_each_other(tmp_path):
    task = build(tmp_path).eval()
    a, b = sample("a", images=2, seed=1), sample("b", images=1, seed=2, answer="no")
    together, alone = task(task.collator([a, b])), [task(task.collator([s])) for s in (a, b)]
    assert_close(together.total, alone[0].total + alone[1].total, atol=1e-4, rtol=1e-5)
    assert together.count == alone[0].count + alone[1].count


def questions_about_one_image() -> Sample:
    asked = sample("many", answer="yes")
    more = [("is there a tree in the upper left ?", "no"), ("how many trees ?", "twelve trees")]
    turns = [
        Turn(role=role, text=text) for pair in more for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return dataclasses.replace(asked, turns=(*asked.turns, *turns))


def test_independent_questions_give_the_losses_of_asking_each_alone(tmp_path):
    task = build(tmp_path).train()
    many = questions_about_one_image()
    singles = []
    for i in range(0, len(many.turns), 2):
        question = many.turns[i].text.removeprefix("<image>\n")
        turns = (Turn(role="user", text=f"<image>\n{question}"), many.turns[i + 1])
        singles.append(dataclasses.replace(many, id=f"single{i}", turns=turns))
    batch = dataclasses.replace(task.collator, independent=True)([many])
    assert len(batch.tiles) == 1  # one pass of the backbone for three questions
    assert batch.mentions.tolist() == [0, 0, 0]
    together = task(batch)
    alone = task(task.collator(singles))
    assert together.count == alone.count
    assert_close(together.total, alone.total, atol=1e-5, rtol=1e-5)


def test_independent_questions_of_several_rows_do_not_mix(tmp_path):
    task = build(tmp_path).eval()
    collate = dataclasses.replace(task.collator, independent=True)
    many, other = questions_about_one_image(), sample("other", seed=5, answer="no")
    assert_close(
        task(collate([many, other])).total, task(collate([many])).total + task(collate([other])).total,
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_questions_that_bring_their_own_images_stay_one_conversation(tmp_path):
    task = build(tmp_path)
    later = sample("later", images=2)
    first, answer = Turn(role="user", text="<image> one"), Turn(role="assistant", text="yes")
    later.turns = (first, answer, Turn(role="user", text="<image> two"), answer)
    batch = dataclasses.replace(task.collator, independent=True)([later])
    assert len(batch.ids) == 1
    assert batch.mentions.tolist() == [0, 1]


def test_rows_are_grouped_by_length_and_none_is_lost():
    lengths = torch.tensor([40, 10, 12, 90, 41, 11, 10])
    groups = like_lengths(lengths)
    assert sorted(torch.cat([rows for rows, _ in groups]).tolist()) == list(range(7))
    for rows, longest in groups:
        assert longest == lengths[rows].max() <= 1.5 * lengths[rows].min()
    assert len(groups) == 3


def test_answers_come_with_their_question_and_truth(tmp_path):
    task = build(tmp_path).eval()
    (prediction,) = task.predict(task.predict_collator([sample("a")]))
    assert prediction.question.endswith("how many trees ?")
    assert prediction.truth == "twelve trees"
    assert isinstance(prediction.answer, str)


def test_generation_is_the_greedy_continuation(tmp_path):
    task = build(tmp_path).eval()
    batch = task.predict_collator([sample("a")])
    (prediction,) = task.predict(batch)
    embeddings, _ = task.embed(batch)
    ids: list[int] = []
    end = task.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        while len(ids) < task.config.max_new_tokens and (not ids or ids[-1] != end):
            positions = torch.arange(embeddings.shape[1])[None]
            hidden = task.hidden(embeddings, torch.zeros_like(positions, dtype=torch.bool), positions)
            ids.append(int(task.language.get_output_embeddings()(hidden[:, -1]).argmax()))
            embeddings = torch.cat([embeddings, task.language.get_input_embeddings()(torch.tensor([[ids[-1]]]))], 1)
    assert prediction.answer == task.tokenizer.decode(ids).replace("<|im_end|>", "").strip()


def test_of_independent_questions_the_last_one_is_asked_alone(tmp_path):
    """As it was trained: the questions and answers before it are no part of its row."""
    task = build(tmp_path).eval()
    task.config = task.config.model_copy(update={"independent": True})
    many = questions_about_one_image()
    batch = task.predict_collator([many])
    assert batch.questions == ["how many trees ?"]
    assert batch.truths == ["twelve trees"]
    text = task.tokenizer.decode(batch.input_ids[0])
    assert text.count("<|im_start|>user") == 1
    assert "upper left" not in text


def blind(tmp_path, chance=1.0) -> Instruct:
    task = build(tmp_path)
    task.config = task.config.model_copy(update={"answer_dropout": chance, "max_new_tokens": 6})
    return task


def test_a_model_that_never_reads_answers_reads_none_later_either(tmp_path):
    task = blind(tmp_path)
    a, b = sample("a", answer="twelve trees"), sample("a", answer="no")
    end = [task.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    for mode in (True, False):
        task.train(mode)
        for one in (a, b):
            batch = task.collator([one])
            read, answer = task.hide_answers(batch), batch.labels != IGNORE
            assert (read[answer] == task.hidden_token).all()
            assert torch.equal(read[~answer], batch.input_ids[~answer])
            assert batch.input_ids[answer].tolist()[-1:] == end  # what is to be said is not hidden in the labels
    train, eval_ = task.train()(batch).loss, task.eval()(batch).loss
    assert_close(train, eval_)


def test_an_answer_written_at_once_is_what_training_predicts(tmp_path):
    task = blind(tmp_path).eval()
    asked = task.predict_collator([sample("a")])
    embeddings, _ = task.embed(asked)
    ids = task.greedy(embeddings)
    assert len(ids) <= 6
    # training sees the same: of any answer of so many tokens, the likeliest token at each place
    length = embeddings.shape[1]
    other = task.tokenizer.convert_tokens_to_ids("a")
    row = torch.cat([asked.input_ids, torch.full((1, 6), other)], dim=1)
    labels = torch.full_like(row, IGNORE)
    labels[:, length:] = other
    seen = torch.zeros_like(row, dtype=torch.bool)
    with torch.no_grad():
        full, _ = task.embed(dataclasses.replace(asked, input_ids=row, labels=labels, is_padding=seen))
        hidden = task.hidden(full, seen, torch.arange(row.shape[1])[None])[:, length - 1 : -1]
        expected = task.language.get_output_embeddings()(hidden)[0].argmax(-1).tolist()
    assert ids == expected[: len(ids)]


def test_hidden_answer_tokens_are_a_row_s_own_draw(tmp_path):
    task = blind(tmp_path, chance=0.5).train()
    samples = [dataclasses.replace(sample(name), seed=number) for number, name in enumerate("abcdefgh")]
    together = task.hide_answers(task.collator(samples))
    hidden = 0
    for row, one in enumerate(samples):
        batch = task.collator([one])
        alone = task.hide_answers(batch)[0]
        assert torch.equal(together[row, : len(alone)], alone)
        hidden += int((alone != batch.input_ids[0]).sum())
    total = int((task.collator(samples).labels != IGNORE).sum())
    assert 0.2 * total < hidden < 0.8 * total
    assert torch.equal(task.eval().hide_answers(batch), batch.input_ids)


def test_gradient_repeats_though_rows_share_an_image_and_threads_share_the_work(tmp_path, monkeypatch):
    """Several rows add to one visual token's gradient: in the same order every time, or no run could be repeated."""
    task = build(tmp_path)
    batch = dataclasses.replace(task.collator, independent=True, tokens_per_tile=64)(
        [questions_about_one_image() for _ in range(8)]
    )
    batch = dataclasses.replace(batch, mentions=torch.zeros_like(batch.mentions))
    visual = torch.randn(1, 64, 64, requires_grad=True)
    monkeypatch.setattr(task, "visual_tokens", lambda tiles: visual)
    weight = torch.randn(len(batch.ids), batch.labels.shape[1], 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(15):
            embeddings, _ = task.embed(batch)
            gradients.append(torch.autograd.grad((embeddings * weight).sum(), visual)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_collator_travels_to_a_worker_without_the_weights(tmp_path):
    assert len(pickle.dumps(build(tmp_path).collator)) < 200_000


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


def test_padding_carries_no_label(tmp_path):
    batch = build(tmp_path).collator([sample("a"), sample("b", answer="no")])
    assert batch.is_padding.any()
    assert (batch.labels[batch.is_padding] == IGNORE).all()
