"""ViSFT's adapter files as released: read, found in backbones of several code bases, added, and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from vistruct.checkpoint.adapters import adapters_for, merge_adapters, read_adapters
from vistruct.checkpoint.visft_lora import write_visft
from vistruct.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "visft_lora"
RELEASED, STAGE_2 = GOLDEN / "eva_e_lora_500.pt", GOLDEN / "model_500.ckpt"
NAMES = ("blocks.{}.attn", "encoder.layers.{}.self_attn", "encoder.layers.{}.attn", "transformer.resblocks.{}.attn")


class Named(nn.Module):
    """Fused layers under the names that some code base has for them, and others beside."""

    def __init__(self, pattern: str, blocks: int = 2, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(width, 3)
        for number in range(blocks):
            *parents, last = pattern.format(number).split(".")
            at: nn.Module = self
            for name in parents:
                if name not in dict(at.named_children()):
                    at.add_module(name, nn.Module())
                at = at.get_submodule(name)
            at.add_module(last, nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}))


def loaded(golden: Any) -> nn.Module:
    """The weights that the released file belongs to, as far as it adapts them."""
    model, base = Named("visual.trunk.blocks.{}.attn"), golden("visft_lora/visual.safetensors")
    with torch.no_grad():
        for number in range(2):
            layer = model.get_submodule(f"visual.trunk.blocks.{number}.attn.qkv")
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(base[f"blocks.{number}.attn.qkv.weight"])
    return model


@pytest.mark.parametrize("file", [RELEASED, STAGE_2])
def test_merged_weights_are_those_of_the_original(golden, file):
    model, expected = loaded(golden), golden("visft_lora/expected.safetensors")
    added = merge_adapters(model, file)
    assert sorted(added.layers) == [f"visual.trunk.blocks.{i}.attn.qkv" for i in range(2)]
    for number in range(2):
        merged = model.state_dict()[f"visual.trunk.blocks.{number}.attn.qkv.weight"]
        assert_close(merged, expected[f"merged.blocks.{number}.attn.qkv.weight"], rtol=0, atol=1e-6)


def test_the_released_file_and_the_checkpoint_that_it_is_from_are_the_same_adapters(tmp_path):
    released, stage_2 = read_adapters(RELEASED), read_adapters(STAGE_2)
    assert released.digest == stage_2.digest
    assert released.notes == ()
    assert stage_2.notes == ("2 tensors that are no adapters (heads) were left aside",)
    save_file(torch.load(RELEASED, weights_only=True), tmp_path / "lora.safetensors")
    assert read_adapters(tmp_path / "lora.safetensors").digest == released.digest


@pytest.mark.parametrize("front", ["", "backbone.", "model.vision_model."])
@pytest.mark.parametrize("pattern", NAMES)
def test_one_file_serves_the_names_of_all_code_bases(pattern, front):
    found = adapters_for(Named(front + pattern), RELEASED)
    assert list(found.layers) == [f"{front}{pattern.format(i)}.qkv" for i in range(2)]
    assert found.digest == read_adapters(RELEASED).digest


def test_of_a_model_that_ends_a_block_earlier_the_last_one_is_left_aside_and_said():
    found = adapters_for(Named("vision_model.encoder.layers.{}.self_attn", blocks=1), RELEASED)
    assert list(found.layers) == ["vision_model.encoder.layers.0.self_attn.qkv"]
    assert found.notes == ("1 adapters of the last block left aside: this model ends a block earlier",)


def test_other_models_are_refused():
    both = nn.ModuleDict({"a": Named("blocks.{}.attn"), "b": Named("encoder.layers.{}.attn")})
    with pytest.raises(UserError, match="fit under several parts"):
        adapters_for(both, RELEASED)
    with pytest.raises(UserError, match="not here"):
        adapters_for(nn.ModuleDict({"head": nn.Linear(3, 3)}), RELEASED)
    with pytest.raises(UserError, match=r"for a weight of \[96, 32\], and here it is \[144, 48\]"):
        adapters_for(Named("blocks.{}.attn", width=48), RELEASED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"visual.blocks.0.attn.qkv.lora_A": torch.zeros(8, 32), "visual.blocks.0.attn.qkv.lora_B": torch.zeros(64, 4)},
         "does not say the scale of another rank"),
        ({"visual.blocks.0.attn.qkv.lora_A": torch.full((128, 32), float("nan"))}, "NaN"),
        ({"visual.blocks.2.attn.qkv.lora_A": torch.zeros(128, 32)}, "no A and B"),
        ({"visual.blocks.0.attn.proj.lora_A": torch.zeros(64, 32)}, "no adapter of ViSFT"),
        ({"text.blocks.0.attn.qkv.lora_A": torch.zeros(128, 32)}, "adapters of several models"),
    ],
)  # fmt: skip
def test_files_that_say_something_else_are_refused(tmp_path, change, said):
    torch.save(torch.load(RELEASED, weights_only=True) | change, tmp_path / "lora.pt")
    with pytest.raises(UserError) as caught:
        read_adapters(tmp_path / "lora.pt")
    assert said in str(caught.value)


def test_heads_are_no_adapters(tmp_path):
    torch.save({"visft_heads.class_embeds.weight": torch.zeros(3, 8)}, tmp_path / "heads.pt")
    with pytest.raises(UserError, match="no adapters among its 1 tensors, such as visft_heads"):
        read_adapters(tmp_path / "heads.pt")


def test_what_is_written_is_the_released_file_again(tmp_path):
    write_visft(tmp_path / "lora.pt", read_adapters(RELEASED).layers, RELEASED)
    ours, theirs = (torch.load(file, weights_only=True) for file in (tmp_path / "lora.pt", RELEASED))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
