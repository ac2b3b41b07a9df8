"""Exports: what others read computes the same, and nothing is there that was not proved."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from public_folders import golden_weights, original_folder, ship_task, task_of, transformers_folder
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch.testing import assert_close
from toy_vlm import build, logits, picture, sample, talk
from transformers import AutoModel, AutoProcessor, InternVLForConditionalGeneration

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint import verify
from vistruct.checkpoint.export import export
from vistruct.checkpoint.shards import read_folder
from vistruct.checkpoint.tensors import write_tensors
from vistruct.checkpoint.weights import load_backbone
from vistruct.checkpoint.whole import load_whole
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.tasks.instruct import Instruct, InstructConfig
from vistruct.tasks.segment import SegmentConfig
from vistruct.vlm.language import LanguageConfig, read_tokenizer
from vistruct.vlm.tiling import Tiling

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0}
BACKBONES = ("backbone-transformers", "backbone-original", "backbone-plain")


def random(task):
    torch.manual_seed(5)
    for p in task.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return task.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of ours with random weights, as a finished run leaves it."""
    return ship_task(tmp_path_factory.mktemp("own") / "model", random(build(max_new_tokens=6)))


def test_transformers_loads_it_and_gives_the_same_logits_and_answer(tmp_path, model):
    out = export(model, tmp_path / "hf", format="transformers").path
    theirs = InternVLForConditionalGeneration.from_pretrained(out).eval()
    task = random(build(max_new_tokens=6))
    batch = task.collator([sample(images=2)])
    pixels = (batch.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
    with torch.no_grad():
        found = theirs(input_ids=batch.input_ids[None], pixel_values=pixels).logits[0]
        assert_close(found, logits(task, batch), atol=5e-5, rtol=1e-4)
        asked = task.traits.predict_collator([sample(images=1)])
        pixels = (asked.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
        ids = asked.input_ids[None]
        said = theirs.generate(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
    (answer,) = task.predict(asked)
    text = task.tokenizer.decode(said[0, ids.shape[1] :]).partition("<|im_end|>")[0].strip()
    assert text == answer.answer


@pytest.mark.parametrize("image_last", [False, True])
@pytest.mark.parametrize("system", ["", 'You say "no".\n'])
def test_its_processor_makes_the_tokens_and_pixels_that_we_do(tmp_path, system, image_last):
    task = random(build(system=system, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    out = export(ship_task(tmp_path / "model", task), tmp_path / "hf", format="transformers").path
    processor = AutoProcessor.from_pretrained(out)
    assert len(processor.tokenizer) == len(task.tokenizer)
    image = picture(60, 150)  # three tiles and a thumbnail
    content = [{"type": "image"}, {"type": "text", "text": "how many trees ?"}]
    text = "how many trees ?\n<image>" if image_last else "<image>\nhow many trees ?"
    asked = sample()
    asked.images, asked.turns = [image], talk(text, "no")
    ours = task.traits.predict_collator([asked])
    messages = [{"role": "user", "content": content[::-1] if image_last else content}]
    written = processor.apply_chat_template(messages, add_generation_prompt=True)
    array = Image.fromarray(image.permute(1, 2, 0).numpy())
    theirs = processor(images=[array], text=[written], return_tensors="pt")
    assert len(ours.tiles) == 4
    assert theirs["input_ids"][0].tolist() == ours.input_ids.tolist()
    pixels = (ours.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
    assert_close(theirs["pixel_values"], pixels, atol=1e-5 + 1.001 / 255 / 0.1, rtol=0)  # one grey level
    assert (theirs["pixel_values"] - pixels).abs().mean() < 0.002


def test_original_to_ours_to_transformers_to_ours_to_original_keeps_every_bit(tmp_path):
    first = original_folder(tmp_path / "first")
    task = task_of(first, tmp_path / "a")
    load_whole(task, first)
    export(ship_task(tmp_path / "own", task), tmp_path / "hf", format="transformers", max_bytes=40_000)
    again = task_of(tmp_path / "hf", tmp_path / "b")
    coverage = load_whole(again, tmp_path / "hf")
    assert (coverage.resized, coverage.missing, coverage.unexpected) == ((), (), ())
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in task.state_dict().items())
    export(ship_task(tmp_path / "own2", again), tmp_path / "last", format="original")
    weights = load_file(tmp_path / "last/model.safetensors")
    assert weights.keys() == golden_weights().keys()
    assert all(torch.equal(v, weights[k]) for k, v in golden_weights().items())


def test_the_original_configuration_is_one_that_its_old_code_reads(tmp_path):
    """Names of transformers 4.37: `rope_theta` and a scaling of exactly two entries."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    task = random(build(model_type="llama", language={"rope_parameters": rope}))
    out = export(ship_task(tmp_path / "model", task), tmp_path / "x", format="original", dtype="bf16").path
    said = json.loads((out / "config.json").read_text())
    assert said["llm_config"]["architectures"] == ["LlamaForCausalLM"]
    assert said["llm_config"]["rope_theta"] == 1e6
    assert said["llm_config"]["rope_scaling"] == {"type": "dynamic", "factor": 2.0}
    assert "rope_parameters" not in said["llm_config"]
    assert "auto_map" not in said
    assert (said["ps_version"], said["select_layer"], said["force_image_size"]) == ("v2", -1, 56)
    assert said["vision_config"]["qk_normalization"] is False


@pytest.mark.parametrize(
    ("format", "dtype"),
    [(f, d) for f in ("transformers", "original", *BACKBONES) for d in ("float32", "bf16")]
    + [("transformers", "fp16")],
)
def test_every_format_is_proved_in_every_type(tmp_path, model, format, dtype):
    said: list[str] = []
    exported = export(model, tmp_path / "x", format=format, dtype=dtype, say=said.append)
    assert exported.verified.apart <= 1e-5
    assert (exported.verified.rounding > 0) == (dtype != "float32")
    card = (tmp_path / "x/README.md").read_text()
    assert exported.verified.line() in card
    assert exported.verified.line() in said
    assert "CC BY-NC 4.0" in card
    tensors = load_file(next((tmp_path / "x").glob("*.safetensors")))
    assert {v.dtype for v in tensors.values()} == {verify.DTYPES[dtype]}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_tied_table_is_written_once_and_read_as_one(tmp_path):
    task = random(build(language={"tie_word_embeddings": True}))
    own = ship_task(tmp_path / "model", task)
    for format in ("transformers", "original"):
        out = export(own, tmp_path / format, format=format).path
        assert not any("lm_head" in name for name in read_folder(out))
    theirs = InternVLForConditionalGeneration.from_pretrained(tmp_path / "transformers")
    assert torch.equal(theirs.lm_head.weight, task.language.model.embed_tokens.weight)


def test_the_backbone_alone_has_the_published_names_and_features(tmp_path, golden):
    first = original_folder(tmp_path / "first")
    task = task_of(first, tmp_path / "a")
    load_whole(task, first)
    own = ship_task(tmp_path / "own", task)
    io, published = golden("intern_vit/io.safetensors"), load_file(GOLDEN / "intern_vit/weights.safetensors")
    image, expected = io["a.pixel_values"], io["a.last_hidden_state"]

    plain = export(own, tmp_path / "original", format="backbone-original").path
    weights = load_file(plain / "model.safetensors")
    assert weights.keys() == published.keys()
    assert all(torch.equal(weights[k], v) for k, v in published.items())
    theirs = AutoModel.from_pretrained(export(own, tmp_path / "hf", format="backbone-transformers").path).eval()
    export(own, tmp_path / "plain", format="backbone-plain")
    with torch.no_grad():
        assert_close(theirs(image).last_hidden_state, expected, atol=2e-5, rtol=1e-4)
        for folder in ("original", "hf", "plain"):
            vit = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56).build().eval()
            coverage = load_backbone(vit, tmp_path / folder)
            assert (coverage.missing, coverage.unexpected, coverage.resized) == ((), (), ())
            assert_close(vit.hidden(image), expected, atol=2e-5, rtol=1e-4)


def test_any_backbone_goes_out_as_ours_and_is_compared(tmp_path):
    config, info = TimmConfig(name="resnet10t"), DataInfo(class_names=("ground", "ship"))
    task = SegmentConfig(backbone=config, head=LinearConfig()).build(info, tmp_path)
    exported = export(ship_task(tmp_path / "model", task, info), tmp_path / "x", format="backbone-plain")
    assert exported.verified.apart == 0
    again = config.build()
    assert load_backbone(again, tmp_path / "x").missing == ()
    assert all(torch.equal(value, task.backbone.state_dict()[name]) for name, value in again.state_dict().items())
    assert "holds an InternViT" in refused(tmp_path / "model", tmp_path / "y", "backbone-original").what


def refused(source, out, format="transformers", **settings) -> UserError:
    with pytest.raises(UserError) as caught:
        export(source, out, format=format, **settings)
    left = [p.name for p in out.parent.iterdir() if p.name.startswith(".")]
    assert left == []
    return caught.value


def test_an_existing_folder_is_left_alone(tmp_path, model):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").write_text("mine")
    assert "exists already" in refused(model, tmp_path / "x").what
    assert (tmp_path / "x/mine").read_text() == "mine"


def test_unknown_formats_and_types_are_refused_with_the_nearest(tmp_path, model):
    assert refused(model, tmp_path / "x", "transformer").fix == "did you mean 'transformers'?"
    assert refused(model, tmp_path / "x", dtype="bf61").fix == "did you mean 'bf16'?"
    assert "no model here" in refused(tmp_path, tmp_path / "x").what


@pytest.mark.parametrize(
    ("settings", "format", "what"),
    [
        ({"answer_dropout": 1.0}, "transformers", "without reading those before it"),
        ({"answer_dropout": 1.0}, "original", "without reading those before it"),
        ({"projector_norm": False}, "transformers", "has a norm before its projector"),
        ({"tiling": Tiling(size=56, max_tiles=1, fit="pad")}, "original", "which stretches images"),
        ({"model_type": "mistral"}, "original", "of type qwen2 and llama only, not mistral"),
        ({"language": {"head_dim": 32}, "model_type": "llama"}, "original", "heads of 32 numbers"),
        ({"language": {"rope_parameters": YARN}}, "original", "rotary positions of type yarn"),
    ],
)
def test_a_model_that_a_layout_cannot_hold_is_refused(tmp_path, settings, format, what):
    own = ship_task(tmp_path / "model", random(build(**settings)))
    assert what in refused(own, tmp_path / "x", format).what


def test_a_convolutional_stem_goes_out_as_ours_only(tmp_path):
    stem = InternVitConfig(width=32, depth=1, heads=2, mlp_width=32, patch=8, image_size=32, stem="conv")
    usual = build()
    config = InstructConfig(
        backbone=stem, language=LanguageConfig(options=usual.config.language.options), tiling=Tiling(size=32)
    )
    own = ship_task(tmp_path / "model", random(Instruct(config, usual.tokenizer)))
    for format in ("transformers", "original", "backbone-original", "backbone-transformers"):
        assert "convolutional stem" in refused(own, tmp_path / "x", format).what
    export(own, tmp_path / "x", format="backbone-plain")
    assert load_backbone(stem.build(), tmp_path / "x").missing == ()


def test_what_a_reader_must_know_is_in_the_card(tmp_path):
    own = ship_task(
        tmp_path / "model", random(build(independent=True, image_last=True, tiling=Tiling(size=56, thumbnail=False)))
    )
    exported = export(own, tmp_path / "x", format="transformers")
    card = (tmp_path / "x/README.md").read_text()
    assert "every question was asked alone, the image behind the question" in card
    assert "trained without a thumbnail" in card
    assert len(exported.notes) == 2
    assert "position table is 4 x 4" in export(own, tmp_path / "y", format="backbone-original").notes[0]


def test_weights_too_large_for_half_precision_are_refused(tmp_path):
    task = random(build())
    task.projector[1].weight.data[0, 0] = 1e6
    own = ship_task(tmp_path / "model", task)
    assert "projector.1.weight: too large for fp16" in refused(own, tmp_path / "x", dtype="fp16").what
    task.projector[1].weight.data[0, 0] = float("nan")
    broken = ship_task(tmp_path / "broken", task)
    assert "not finite (NaN or infinite), first projector.1.weight" in refused(broken, tmp_path / "x").what


@pytest.mark.parametrize("format", ["transformers", "original", *BACKBONES])
def test_an_export_that_reads_back_otherwise_is_not_there(tmp_path, model, monkeypatch, format):
    """One number of one tensor is changed on its way to the disk."""
    import vistruct.checkpoint.export as own_export
    import vistruct.checkpoint.public as own_public

    def spoil(path, tensors):
        name = next(name for name in tensors if name.endswith(("ls1", "lambda_1")))
        changed = tensors[name].clone()
        changed[0] += 1e-3
        save_file({k: (changed if k == name else v).clone().contiguous() for k, v in tensors.items()}, path)
        return "0"

    one_file = lambda folder, tensors, most: spoil(folder / "model.safetensors", tensors)  # noqa: E731
    monkeypatch.setattr(own_public, "write_shards", one_file)
    monkeypatch.setattr(own_export, "write_tensors", spoil)
    error = refused(model, tmp_path / "x", format)
    assert "not the same model" in error.what
    assert re.search(r"ls1 did not come back as it was written", error.what)
    assert not (tmp_path / "x").exists()


def test_a_wrong_configuration_is_found_by_what_it_computes(tmp_path, model, monkeypatch):
    import vistruct.checkpoint.public as own_public

    right = own_public.transformers_config

    def wrong(task):
        config = right(task)
        config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 10.0}
        return config

    monkeypatch.setattr(own_public, "transformers_config", wrong)
    assert "its logits are" in refused(model, tmp_path / "x").what


def test_a_wrong_image_size_is_found(tmp_path, model, monkeypatch):
    import vistruct.checkpoint.public as own_public

    right = own_public.original_config
    monkeypatch.setattr(own_public, "original_config", lambda *a: right(*a) | {"max_dynamic_patch": 7})
    assert "its configuration says" in refused(model, tmp_path / "x", "original").what


def test_a_round_through_transformers_own_saving_is_read_again(tmp_path):
    theirs = transformers_folder(tmp_path / "a", model_type="llama")
    task = task_of(tmp_path / "a", tmp_path / "assets")
    load_whole(task, tmp_path / "a")
    out = export(ship_task(tmp_path / "own", task), tmp_path / "b", format="transformers").path
    again = InternVLForConditionalGeneration.from_pretrained(out)
    expected = theirs.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in again.state_dict().items())


def begins_with(task, token="<s>"):
    """A tokenizer that begins every text with a token, as Llama's and InternLM2's do, and pads with its end mark."""
    own = copy.deepcopy(task.tokenizer)
    own.add_special_tokens({"bos_token": token, "pad_token": "<|im_end|>"})
    number = own.convert_tokens_to_ids(token)
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, number)]
    )
    task.tokenizer = own
    return number


@pytest.mark.parametrize("format", ["transformers", "original"])
def test_a_tokenizer_that_begins_every_text_gives_the_same_ids_on_both_sides(tmp_path, format):
    task = random(build(vocabulary=340))
    first = begins_with(task)
    out = export(ship_task(tmp_path / "model", task), tmp_path / "x", format=format).path
    asked = sample()
    asked.turns = talk("<image>\n<box>[[1, 2]]</box> how many ?", "no")
    ours = task.traits.predict_collator([asked]).input_ids.tolist()
    assert ours[0] == first
    assert ours.count(first) == 1
    if format == "original":
        assert read_tokenizer(out).encode("a") == [first, *task.tokenizer.encode("a", add_special_tokens=False)]
        return
    processor = AutoProcessor.from_pretrained(out)
    assert processor.video_token == "<quad>"  # neither a box's mark, which a question holds, nor the end of every turn
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<box>[[1, 2]]</box> how many ?"}]}
    ]
    image = Image.fromarray(picture().permute(1, 2, 0).numpy())
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert processor(images=[image], text=[text])["input_ids"][0] == ours
    messages[0]["content"][0]["image"] = image
    said = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert said["input_ids"][0] == ours


@pytest.mark.parametrize("format", ["transformers", "original"])
def test_an_export_that_writes_a_question_otherwise_is_not_there(tmp_path, monkeypatch, format):
    task = random(build())
    begins_with(task)
    own = ship_task(tmp_path / "model", task)
    monkeypatch.setattr("vistruct.vlm.batch.ChatCollator.begin", [])  # what was trained did not begin so
    said = refused(own, tmp_path / "x", format).what
    assert re.search(r"token 0 of a question as '<s>' \(\d+\), and the trained model read '<\|im_start\|>'", said)


def test_two_tables_under_one_tied_name_are_refused(tmp_path):
    task = random(build(language={"tie_word_embeddings": True}))
    own = ship_task(tmp_path / "model", task)
    tensors = {name: value.clone() for name, value in task.state_dict().items()}
    tensors["language.lm_head.weight"] += 1.0
    card = json.loads((own / "model.json").read_text())
    (own / "model.json").write_text(json.dumps(card | {"sha256": write_tensors(own / "model.safetensors", tensors)}))
    assert "are one table in this model, and two different ones here" in refused(own, tmp_path / "x").what
