"""Answers of a BLIP-2: those of `transformers`, in any batch, with our tower in the place of theirs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blip2_folders import SIZE, asked, write_blip2
from safetensors.torch import load_file, save_file
from transformers import Blip2ForConditionalGeneration

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.checkpoint.adapters import adapters_for, add_adapters
from vistruct.contracts import DataInfo, Turn
from vistruct.errors import UserError
from vistruct.tasks.blip2 import CLIP_MEAN, CLIP_STD, VisionLanguage, VisionLanguageConfig
from vistruct.vlm.blip2_folder import read_blip2, shown_to
from vistruct.vlm.tiling import normalise

KINDS = ("opt", "t5")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: write_blip2(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def task_of(folder: Path, **values: Any) -> VisionLanguage:
    task: Any = VisionLanguageConfig(weights=folder, size=SIZE, dtype="float32", **values).build(DataInfo(), folder)
    return task.eval()


QUESTIONS = [asked(1, "what is this ?", "a boat"), asked(1, "red ?", "no"), asked(2, "is the dog on the lake ?", "yes")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["vqa", "caption"])
def test_answers_are_those_of_transformers_generate(folders, kind, form):
    task = task_of(folders[kind])
    plain: Any = Blip2ForConditionalGeneration.from_pretrained(folders[kind], dtype=torch.float32).eval()
    said = []
    for sample in QUESTIONS[1:] if form == "caption" else QUESTIONS:
        turns = (sample.turns[0], Turn(role="assistant", text="x", form=form))
        batch = task.collator([replace(sample, turns=turns)])
        search = task.config.caption if form == "caption" else task.config.question
        text = search.prompt.format(sample.turns[0].text.removeprefix("<image>\n"))
        ids = torch.tensor([[4, 4, 4, *task.tokenizer(text).input_ids]])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        out = plain.generate(
            pixel_values=normalise(batch.images, mean, std),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=5,
            do_sample=False,
            min_new_tokens=search.least,
            max_new_tokens=search.most,
            length_penalty=1.0 if form == "caption" else {"opt": 0.0, "t5": -1.0}[kind],
        )
        theirs = out[0] if kind == "t5" else out[0, ids.shape[1] :]
        expected = task.tokenizer.decode(theirs, skip_special_tokens=True).strip()
        assert task.predict(batch)[0].answer == expected
        said.append(expected)
    assert any(said) or form == "caption"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_in_any_batch(folders, kind):
    task = task_of(folders[kind])
    described = asked(3, "", "a cat", form="caption")
    samples = [*QUESTIONS, asked(2, "?", "two"), described]
    together = task.predict(task.collator(samples))
    assert [one.id for one in together] == [sample.id for sample in samples]
    alone = [one for sample in samples for one in task.predict(task.collator([sample]))]
    assert together == alone
    assert len({one.answer for one in together}) > 2


def test_an_image_is_seen_once_for_all_questions_about_it(folders):
    batch = task_of(folders["opt"]).collator(QUESTIONS)
    assert len(batch.images) == 2
    assert batch.mentions.tolist() == [0, 0, 1]
    assert batch.images.shape[-2:] == (SIZE, SIZE)


def test_questions_of_a_conversation_are_asked_alone_and_those_without_a_voucher_not_at_all(folders):
    task = task_of(folders["opt"])
    turns = (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nred ?"),
        Turn(role="assistant", text="yes"),
        Turn(role="user", text="a dog ?"),
        Turn(role="assistant", text="perhaps", is_taught=False),
        Turn(role="user", text="two ?"),
        Turn(role="assistant", text="no", others=("no", "yes"), form="vqa"),
    )
    sample = replace(QUESTIONS[0], turns=turns, families=("colour", "animal", "count"))
    found = task.predict(task.collator([sample]))
    assert [(one.question, one.truth, one.family) for one in found] == [
        ("red ?", "yes", "colour"),
        ("two ?", "no", "count"),
    ]
    assert found[1].others == ("no", "yes")
    assert found[1].form == "vqa"


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_true_answer_after_the_question(folders, kind):
    """Of T5 transformers' own loss, of OPT the log probability of each token as it is written."""
    task = task_of(folders[kind])
    sample = QUESTIONS[0]
    batch = task.collator([sample])
    prompt = task.tokenizer(task.config.question.prompt.format("what is this ?")).input_ids
    answer = [*task.tokenizer("a boat", add_special_tokens=False).input_ids, 2]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    plain: Any = Blip2ForConditionalGeneration.from_pretrained(folders[kind], dtype=torch.float32).eval()
    pixels = normalise(batch.images, mean, std)
    with torch.no_grad():
        if kind == "t5":
            ids = torch.tensor([[4, 4, 4, *prompt]])
            expected = len(answer) * plain(pixel_values=pixels, input_ids=ids, labels=torch.tensor([answer])).loss
        else:
            ids = torch.tensor([[4, 4, 4, *prompt, *answer]])
            out = plain(pixel_values=pixels, input_ids=ids).logits[0].log_softmax(-1)
            start = ids.shape[1] - len(answer)
            expected = -sum(out[start + at - 1, token] for at, token in enumerate(answer))
        found = task(batch)
    assert found.terms["answers"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.units(batch) == {"answers": 3.0}
    both = task(task.collator(QUESTIONS)).terms["answers"]
    alone = sum(task(task.collator([one])).terms["answers"] for one in QUESTIONS)
    assert both.item() == pytest.approx(alone.item(), rel=1e-5)


EVA = EvaVitConfig(width=32, depth=2, heads=2, mlp_width=40, image_size=SIZE, class_token=True, final_norm=False)


def released(folder: Path, *, blocks: int, is_zero: bool) -> Path:
    """Adapters under the names of ViSFT's released files."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"A": (128, 32), "B": (64, 64)}
    state = {
        f"visual.blocks.{block}.attn.qkv.lora_{which}": torch.randn(shape, generator=generator)
        * (not (is_zero and which == "B"))
        for block in range(blocks)
        for which, shape in shapes.items()
    }
    file = folder / f"lora-{blocks}-{is_zero}.pth"
    torch.save(state, file)
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_our_tower_in_the_place_of_theirs_gives_the_same_with_and_without_adapters(folders, tmp_path, kind):
    theirs, ours = task_of(folders[kind]), task_of(folders[kind], backbone=EVA)
    batch = theirs.collator(QUESTIONS)
    before = theirs.see(batch.images)
    torch.testing.assert_close(ours.see(batch.images), before, rtol=1e-5, atol=1e-5)
    assert ours.predict(batch) == theirs.predict(batch)
    file = released(tmp_path, blocks=2, is_zero=False)
    for task in (theirs, ours):
        add_adapters(task, adapters_for(task, file))
    after = theirs.see(batch.images)
    torch.testing.assert_close(ours.see(batch.images), after, rtol=1e-5, atol=1e-5)
    assert ours.predict(batch) == theirs.predict(batch)
    assert (after - before).abs().max() > 0.1


def test_adapters_go_to_queries_and_values_of_the_tower_and_nowhere_else(folders, tmp_path):
    task = task_of(folders["opt"])
    before = {name: value.clone() for name, value in task.state_dict().items()}
    file = released(tmp_path, blocks=2, is_zero=False)
    add_adapters(task, adapters_for(task, file))
    state = torch.load(file, weights_only=True)
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"model.vision_model.encoder.layers.{i}.self_attn.qkv.weight" for i in range(2)}
    a, b = (state[f"visual.blocks.1.attn.qkv.lora_{which}"] for which in "AB")
    name = "model.vision_model.encoder.layers.1.self_attn.qkv.weight"
    delta = task.state_dict()[name] - before[name]
    torch.testing.assert_close(delta[:32], b[:32] @ a[:64] / 64, rtol=1e-4, atol=1e-4)
    assert torch.equal(delta[32:64], torch.zeros(32, 32))
    torch.testing.assert_close(delta[64:], b[32:] @ a[64:] / 64, rtol=1e-4, atol=1e-4)


def test_adapters_without_effect_change_no_bit_and_those_of_a_block_that_is_not_here_are_named(folders, tmp_path):
    task = task_of(folders["t5"])
    batch = task.collator(QUESTIONS)
    before, said = task.see(batch.images), task.predict(batch)
    found = adapters_for(task, released(tmp_path, blocks=3, is_zero=True))
    assert len(found.layers) == 2
    assert "this model ends a block earlier" in found.notes[0]
    add_adapters(task, found)
    assert torch.equal(task.see(batch.images), before)
    assert task.predict(batch) == said


def test_a_backbone_that_is_not_the_tower_is_refused(folders):
    with pytest.raises(UserError, match="not the tower"):
        task_of(folders["opt"], backbone=EVA.model_copy(update={"depth": 3}))


def test_a_folder_that_is_not_whole_or_not_a_blip2_is_refused(folders, tmp_path):
    whole = shutil.copytree(folders["opt"], tmp_path / "copy")
    config = json.loads((whole / "config.json").read_text())
    tensors = load_file(whole / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layers.1.self_attn.qkv" not in k}, whole / "model.safetensors")
    with pytest.raises(UserError, match="not there"):
        read_blip2(whole, None)
    (whole / "config.json").write_text(json.dumps({**config, "model_type": "blip"}))
    with pytest.raises(UserError, match="model_type"):
        read_blip2(whole, None)
    with pytest.raises(UserError, match=r"no config\.json"):
        read_blip2(tmp_path, None)


def test_what_its_image_processor_says_is_how_images_are_shown(tmp_path):
    told = {"size": {"height": 364, "width": 364}, "image_mean": [0.5, 0.5, 0.5], "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    assert shown_to(tmp_path) == {"size": 364, "mean": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"size": {"shortest_edge": 224}}))
    with pytest.raises(UserError, match="square"):
        shown_to(tmp_path)


@pytest.mark.parametrize(("kind", "dtype"), [("opt", "fp16"), ("t5", "bf16")])
def test_a_language_model_of_half_precision_gives_nearly_the_same_loss_and_the_tower_stays_whole(folders, kind, dtype):
    whole: Any = task_of(folders[kind])
    half: Any = VisionLanguageConfig(weights=folders[kind], size=SIZE, dtype=dtype).build(DataInfo(), folders[kind])
    batch = whole.collator(QUESTIONS)
    losses = [task.eval()(batch).terms["answers"].item() for task in (whole, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert {p.dtype for p in half.model.vision_model.parameters()} == {torch.float32}
    assert all(one.answer is not None for one in half.predict(batch))
