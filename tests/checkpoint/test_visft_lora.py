"""ViSFT's adapter files as released: read, found in backbones of several code bases, added, and written again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.checkpoint.adapters import adapters_for, merge_adapters, placed, read_adapters
from vistruct.checkpoint.low_rank import LowRank
from vistruct.checkpoint.visft_lora import write_visft
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import Lora, Trainable
from vistruct.engine.lora import begin_with
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "visft_lora"
RELEASED, STAGE_2 = GOLDEN / "eva_e_lora_500.pt", GOLDEN / "model_500.ckpt"
NAMES = ("blocks.{}.attn", "encoder.layers.{}.self_attn", "encoder.layers.{}.attn", "transformer.resblocks.{}.attn")


TINY = {
    "g": EvaVitConfig(width=36, depth=3, heads=3, mlp_width=157, image_size=56, margin="crop"),
    "e": EvaVitConfig(width=32, depth=2, heads=2, mlp_width=274, image_size=56, margin="crop", post_norm=True),
}


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


@pytest.mark.parametrize("pattern", NAMES)
def test_adapters_of_one_model_are_found_in_another_that_has_the_same_part(pattern):
    """Trained in a task of ours, for a tower of a CLIP."""
    given = read_adapters(RELEASED)
    ours = {f"backbone.encoder.layers.{i}.attn.qkv": given.layers[f"blocks.{i}.attn.qkv"] for i in range(2)}
    found = placed(Named(f"visual.trunk.{pattern}"), replace(given, layers=ours))
    assert list(found.layers) == [f"visual.trunk.{pattern.format(i)}.qkv" for i in range(2)]
    with pytest.raises(UserError, match="not here"):
        placed(Named("blocks.{}.attn"), replace(given, layers=ours | {"head": next(iter(ours.values()))}))


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


def test_adapters_of_any_parts_and_rank_that_the_layout_can_hold_are_written_so(tmp_path):
    torch.manual_seed(0)
    a, b = torch.randn(6, 32), torch.zeros(96, 6)
    b[:32, :3], b[64:, 3:] = torch.randn(32, 3), torch.randn(32, 3)
    given = LowRank(a=a, b=b, scale=0.7)
    write_visft(tmp_path / "lora.pt", {"backbone.encoder.layers.3.attn.qkv": given}, tmp_path)
    (name,), (again,) = zip(*read_adapters(tmp_path / "lora.pt").layers.items(), strict=True)
    assert name == "blocks.3.attn.qkv"
    assert_close(again.delta(), given.delta(), rtol=1e-5, atol=1e-5)

    whole = LowRank(a=a, b=torch.randn(96, 6), scale=1.0)
    large = LowRank(a=torch.randn(65, 96), b=torch.cat([torch.randn(96, 65), torch.zeros(192, 65)]), scale=1.0)
    for layers, said in (
        ({"blocks.0.attn.qkv": whole}, "keys or other outputs"),
        ({"blocks.0.attn.proj": given}, "blocks.N.attn.qkv alone"),
        ({"blocks.0.attn.qkv": large}, "has one of 65"),
        ({"a.blocks.0.attn.qkv": given, "b.blocks.0.attn.qkv": given}, "blocks.N.attn.qkv alone"),
    ):
        with pytest.raises(UserError) as caught:
            write_visft(tmp_path / "refused.pt", layers, tmp_path)
        assert said in str(caught.value)


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("model", ["g", "e"])
def test_merged_or_going_on_the_maps_of_eva_are_those_of_the_original(golden, model, goes_on):
    folder = GOLDEN.parent / {"g": "visft_eva_g", "e": "visft_eva02_e"}[model]
    task = nn.ModuleDict({"backbone": TINY[model].build().eval()})
    load_backbone(task["backbone"], folder / "weights.safetensors")
    io = golden(f"{folder.name}/io.safetensors")
    if goes_on:
        apply_rules(task, [Trainable(pattern="*", mode="lora", lora=Lora(rank=64, scale=1 / 64, parts=("q", "v")))])
        coverage = begin_with(task, folder / "lora_r64.safetensors")
        assert "train on, 0 were added" in coverage.lines()[-1]
    else:
        merge_adapters(task, folder / "lora_r64.safetensors")
    expected = io[f"{model}_lora_r64.b.out"]
    image = next(io[key] for key in ("b.image.0", "b.input") if key in io.tensors)
    (found,) = task["backbone"](image.view(-1, *image.shape[-3:]))
    assert_close(found, expected, rtol=1e-4, atol=2e-4)
    assert (found - io[f"{model}.b.out"]).abs().max() > 1e-2


def test_the_released_file_on_the_weights_it_is_of_gives_the_original_s_map(golden):
    expected = golden("visft_lora/expected.safetensors")
    task = nn.ModuleDict({"backbone": TINY["e"].model_copy(update={"image_size": 28}).build().eval()})
    load_backbone(task["backbone"], GOLDEN / "visual.safetensors")
    assert_close(task["backbone"](expected["image"])[0], expected["out_without_adapter"], rtol=0, atol=1e-4)
    merge_adapters(task, RELEASED)
    assert_close(task["backbone"](expected["image"])[0], expected["out_with_adapter"], rtol=0, atol=1e-4)


def test_the_towers_of_other_libraries_have_their_layers_under_known_names(golden):
    from transformers import Blip2VisionConfig, Blip2VisionModel

    settings: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = Blip2VisionConfig(**settings, num_hidden_layers=1, image_size=28, patch_size=14)
    model, expected = Blip2VisionModel(config), golden("visft_lora/expected.safetensors")
    base = golden("visft_lora/visual.safetensors")["blocks.0.attn.qkv.weight"]
    (name,) = (name for name, _ in model.named_parameters() if name.endswith("qkv.weight"))
    with torch.no_grad():
        model.get_parameter(name).copy_(base)
    assert merge_adapters(model, RELEASED).notes  # the second block, which it does not have
    assert_close(model.get_parameter(name).detach(), expected["merged.blocks.0.attn.qkv.weight"], rtol=0, atol=1e-6)
