"""Folders of safetensors: the index alone says what belongs to the model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from vistruct.checkpoint.shards import INDEX, names_in, read_folder, write_shards
from vistruct.errors import UserError


def tensors() -> dict[str, torch.Tensor]:
    return {f"t{i}": torch.full((i + 1, 10), float(i)) for i in range(5)}  # 40 to 200 bytes


@pytest.mark.parametrize(("most", "files"), [(10**9, 1), (200, 4), (1, 5)])
def test_what_is_written_comes_back_whatever_the_size_of_a_file(tmp_path, most, files):
    write_shards(tmp_path, tensors(), most)
    found = sorted(tmp_path.glob("*.safetensors"))
    assert len(found) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    back = read_folder(tmp_path)
    assert {k: v.tolist() for k, v in back.items()} == {k: v.tolist() for k, v in tensors().items()}
    assert names_in(tmp_path) == set(tensors())


def test_the_index_is_one_that_transformers_reads(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    model = BertModel(config)
    write_shards(tmp_path, model.state_dict(), 500)
    config.save_pretrained(tmp_path)
    again, report = BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def sharded(folder):
    write_shards(folder, tensors(), 200)
    return folder


def refused(folder) -> UserError:
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    return caught.value


def test_a_missing_shard_is_named(tmp_path):
    (sharded(tmp_path) / "model-00003-of-00004.safetensors").unlink()
    assert "model-00003-of-00004.safetensors is missing" in refused(tmp_path).what


def test_a_missing_tensor_is_named_with_its_file(tmp_path):
    save_file({"other": torch.zeros(1)}, sharded(tmp_path) / "model-00003-of-00004.safetensors")
    assert "model-00003-of-00004.safetensors has no t3" in refused(tmp_path).what


def test_a_truncated_shard_is_named(tmp_path):
    file = sharded(tmp_path) / "model-00002-of-00004.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert "not a whole safetensors file" in refused(tmp_path).what
    assert refused(tmp_path).where == str(file)


def test_stray_files_and_stray_tensors_are_not_mixed_in(tmp_path):
    save_file({"stray": torch.zeros(1), "t0": torch.zeros(1)}, sharded(tmp_path) / "adapter.safetensors")
    save_file({**tensors(), "more": torch.zeros(1)}, tmp_path / "model-00001-of-00004.safetensors")
    assert read_folder(tmp_path).keys() == tensors().keys()
    (tmp_path / INDEX).unlink()
    save_file(tensors(), tmp_path / "model.safetensors")
    assert read_folder(tmp_path).keys() == tensors().keys()


def test_several_files_without_an_index_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert read_folder(tmp_path).keys() == {"a"}
    save_file({"b": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert (
        "2 safetensors files (a.safetensors, b.safetensors) and no model.safetensors.index.json"
        in refused(tmp_path).what
    )


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_refused(tmp_path, content):
    (sharded(tmp_path) / INDEX).write_text(content)
    assert "index" in refused(tmp_path).what


@pytest.mark.parametrize("place", ["../secret.safetensors", "/tmp/secret.safetensors", "a/b.safetensors"])
def test_an_index_that_points_elsewhere_is_refused(tmp_path, place):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"t0": place}}))
    assert "not a file beside it" in refused(tmp_path).what
