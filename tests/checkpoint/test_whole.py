"""Whole public models in: against the original code's numbers, against `transformers`, and what is refused."""

from __future__ import annotations

import pytest
import torch
from public_folders import golden_batch, golden_weights, original_folder, ship_task, task_of, transformers_folder
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from toy_vlm import build, logits, sample, tokenizer
from whole_loss import task_loss

from vistruct.checkpoint.layouts import instruct_config
from vistruct.checkpoint.shards import INDEX, write_shards
from vistruct.checkpoint.whole import load_start, load_whole
from vistruct.errors import UserError


def in_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 40_000)
    assert (folder / INDEX).exists()
    return folder


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("case", ["a", "b"])  # two tiles with padding; one image and one text-only row
def test_an_original_folder_gives_the_original_s_logits_and_loss(golden, tmp_path, case, shards):
    folder = original_folder(tmp_path / "x")
    if shards:
        in_shards(folder)
    task = task_of(folder, tmp_path / "assets")
    coverage = load_whole(task, folder)
    assert (len(coverage.matched), coverage.resized, coverage.missing, coverage.unexpected) == (79, (), (), ())
    line = "79 of 79 tensors (backbone 46 of 46, language 27 of 27, projector 6 of 6)"
    assert coverage.lines() == [f"model from {folder}: {line}"]
    task.image_token = 292
    task.pixel_mean.zero_(), task.pixel_std.fill_(1)
    io = golden("vlm/io.safetensors")
    batch = golden_batch(io, case)
    with torch.no_grad():
        expected = io[f"{case}.logits"][io[f"{case}.attention_mask"].bool()]
        assert_close(logits(task, batch), expected, atol=5e-5, rtol=1e-4)
        assert_close(task_loss(task, batch).loss, io[f"{case}.loss"][0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "language",
    [
        {},
        {"hidden_size": 96, "num_attention_heads": 6},
        {"model_type": "llama", "tie_word_embeddings": True},
        {"model_type": "mistral", "sliding_window": 8},
        {"model_type": "phi3", "pad_token_id": 0},
        {"model_type": "gemma", "head_dim": 16, "tie_word_embeddings": True},
    ],
    ids=lambda language: language.get("model_type", "qwen2"),
)
def test_a_transformers_folder_gives_transformers_logits(tmp_path, language):
    theirs = transformers_folder(tmp_path / "x", **language)
    task = task_of(tmp_path / "x", tmp_path / "assets")
    coverage = load_whole(task, tmp_path / "x")
    assert (coverage.resized, coverage.missing, coverage.unexpected) == ((), (), ())
    batch = task.collator([sample(images=2)])
    ids = batch.input_ids[None]
    with torch.no_grad():
        pixels = (batch.tiles.float() / 255 - task.pixel_mean) / task.pixel_std
        out = theirs(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
        assert_close(logits(task, batch), out.logits[0], atol=5e-5, rtol=1e-4)


def test_names_of_older_transformers_are_read(tmp_path):
    theirs = transformers_folder(tmp_path / "x")
    state = load_file(tmp_path / "x/model.safetensors")
    old = {}
    for name, value in state.items():
        name = name.replace("model.language_model.", "language_model.model.").removeprefix("model.")
        old["language_model.lm_head.weight" if name == "lm_head.weight" else name] = value
    assert "vision_tower.embeddings.cls_token" in old
    save_file(old, tmp_path / "x/model.safetensors")
    task = task_of(tmp_path / "x", tmp_path / "assets")
    coverage = load_whole(task, tmp_path / "x")
    assert (coverage.missing, coverage.unexpected) == ((), ())
    assert torch.equal(task.language.lm_head.weight, theirs.lm_head.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_become_float32(tmp_path, dtype):
    folder = original_folder(tmp_path / "x")
    save_file({k: v.to(dtype) for k, v in golden_weights().items()}, folder / "model.safetensors")
    task = task_of(folder, tmp_path / "assets")
    load_whole(task, folder)
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    table = golden_weights()["language_model.model.embed_tokens.weight"]
    assert torch.equal(task.language.model.embed_tokens.weight, table.to(dtype).float())


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_that_the_vocabulary_lacks_get_the_mean_row_in_both_tables_and_it_is_said(tmp_path, tied):
    folder = original_folder(tmp_path / "x")
    state = golden_weights()
    table, head = (f"language_model.{name}.weight" for name in ("model.embed_tokens", "lm_head"))
    known = len(tokenizer(300)) - 9
    state |= {name: state[name][:known].contiguous() for name in (table, head)}
    if tied:
        del state[head]
    save_file(state, folder / "model.safetensors")
    part = instruct_config(folder)
    options = part.language.options | {"vocab_size": known}
    assert options["tie_word_embeddings"] == tied
    language = part.language.model_copy(update={"options": options})
    task = task_of(folder, tmp_path / "assets", part.model_copy(update={"language": language}))
    coverage = load_whole(task, folder)
    names = ("language.model.embed_tokens.weight",) + (() if tied else ("language.lm_head.weight",))
    assert coverage.resized == names
    assert coverage.missing == ()
    for name, own in ((table, task.language.model.embed_tokens), (head, task.language.lm_head)):
        rows = state[table if tied else name]
        assert torch.equal(own.weight[:known], rows)
        assert len(own.weight) == known + 9
        assert_close(own.weight[known:], rows.mean(0).expand(9, -1))
    assert f"{len(names)} resized: language.model.embed_tokens.weight" in "\n".join(coverage.lines())


def test_a_vocabulary_with_spare_rows_stays_as_it_is(tmp_path):
    transformers_folder(tmp_path / "x")
    assert len(tokenizer()) < 400
    task = task_of(tmp_path / "x", tmp_path / "assets")
    assert load_whole(task, tmp_path / "x").resized == ()
    assert len(task.language.lm_head.weight) == 400


def test_an_image_of_another_size_is_a_resized_position_table(tmp_path):
    folder = original_folder(tmp_path / "x")
    part = instruct_config(folder)
    larger = part.backbone.model_copy(update={"image_size": 84})
    task = task_of(folder, tmp_path / "assets", part.model_copy(update={"backbone": larger}))
    assert load_whole(task, folder).resized == ("backbone.embeddings.position_embedding",)


def broken(folder, name: str, value=None):
    state = golden_weights()
    state[name] = value if value is not None else state[name]
    if value is None:
        del state[name]
    save_file(state, folder / "model.safetensors")


def refused(folder, tmp_path, **settings) -> UserError:
    with pytest.raises(UserError) as caught:
        load_whole(task_of(folder, tmp_path / "assets"), folder, **settings)
    return caught.value


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("vision_model.encoder.layers.1.ls1", "backbone.encoder.layers.1.ls1"),
        ("mlp1.1.bias", "projector.1.bias"),
        ("language_model.model.norm.weight", "language.model.norm.weight"),
    ],
)
def test_a_tensor_that_is_not_there_is_refused_unless_allowed(tmp_path, name, own):
    folder = original_folder(tmp_path / "x")
    broken(folder, name)
    assert own in refused(folder, tmp_path).what
    coverage = load_whole(task_of(folder, tmp_path / "assets"), folder, allow_missing=True)
    assert coverage.missing == (own,)
    assert f"1 missing: {own}" in "\n".join(coverage.lines())


def test_tensors_of_no_part_are_named_and_not_used(tmp_path):
    folder = original_folder(tmp_path / "x")
    broken(folder, "ema.decay", torch.ones(1))
    coverage = load_whole(task_of(folder, tmp_path / "assets"), folder)
    assert coverage.unexpected == ("ema.decay",)
    broken(folder, "language_model.model.layers.7.input_layernorm.weight", torch.ones(64))
    coverage = load_whole(task_of(folder, tmp_path / "assets"), folder)
    assert coverage.unexpected == ("language.model.layers.7.input_layernorm.weight",)


def test_nan_another_width_and_a_truncated_file_are_refused(tmp_path):
    folder = original_folder(tmp_path / "x")
    broken(folder, "mlp1.1.bias", torch.full((64,), float("nan")))
    assert "NaN or infinity in projector.1.bias" in refused(folder, tmp_path).what
    broken(folder, "mlp1.1.bias", torch.zeros(65))
    assert "projector.1.bias is [65] there and [64] here" in refused(folder, tmp_path).what
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "not a whole safetensors file" in refused(folder, tmp_path).what


def test_one_table_here_and_two_there_is_refused(tmp_path):
    folder = original_folder(tmp_path / "x")
    part = instruct_config(folder)
    options = part.language.options | {"tie_word_embeddings": True}
    tied = part.model_copy(update={"language": part.language.model_copy(update={"options": options})})
    with pytest.raises(UserError, match="one table here and two different ones there"):
        load_whole(task_of(folder, tmp_path / "assets", tied), folder)


def test_a_public_model_brings_its_tokenizer(tmp_path):
    folder = original_folder(tmp_path / "x")
    with pytest.raises(UserError, match="comes with its tokenizer") as caught:
        load_start(build(vocabulary=300, language={"vocab_size": 300}), folder)
    assert f"task.language.tokenizer={folder}" in caught.value.fix


def test_a_start_from_a_model_of_other_sizes_says_where_its_sizes_stand(tmp_path):
    model = ship_task(tmp_path / "model", build())
    other = build()
    other.language.lm_head = torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match="not the weights of this model") as caught:
        load_start(other, model)
    assert str(model / "model.json") in caught.value.fix
    assert "--backbone" in caught.value.fix


def test_a_start_from_our_own_model_is_accounted_for_with_its_licence(tmp_path):
    source = build()
    model = ship_task(tmp_path / "model", source)
    task = build()
    torch.nn.init.zeros_(task.language.lm_head.weight)
    coverage = load_start(task, model)
    assert torch.equal(task.language.lm_head.weight, source.language.lm_head.weight)
    assert coverage.licence == "CC BY-NC 4.0"
    assert "(backbone 46 of 46, language 27 of 27, projector 6 of 6)" in coverage.lines()[0]
