"""Public layouts of plain ViTs in timm's: equal to `transformers`' models, saved under their public names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig, TimmModel
from vistruct.checkpoint.weights import load_backbone
from vistruct.errors import UserError

SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "patch_size": 8,
    "image_size": 32,
}  # fmt: skip
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
# what `transformers` builds, timm's name, what timm is told beside the sizes
LAYOUTS: dict[str, tuple[Any, Any, dict[str, Any], str, dict[str, Any]]] = {
    "vit": (hf.ViTModel, hf.ViTConfig, {}, "vit_small_patch16_224", {}),
    "mae": (hf.ViTMAEModel, hf.ViTMAEConfig, DECODER | {"mask_ratio": 0.0}, "vit_base_patch16_224", {}),
    "dinov2": (hf.Dinov2Model, hf.Dinov2Config, {}, "vit_small_patch14_dinov2", {}),
    "dinov2 gated": (
        hf.Dinov2Model, hf.Dinov2Config, {"use_swiglu_ffn": True}, "vit_giant_patch14_dinov2",
        {"mlp_ratio": 176 / 32},  # two thirds of 128, rounded up to eights, twice
    ),
    "dinov2 registers": (
        hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig, {}, "vit_small_patch14_reg4_dinov2", {},
    ),
    "dinov3": (hf.DINOv3ViTModel, hf.DINOv3ViTConfig, {"num_register_tokens": 4}, "vit_small_patch16_dinov3_qkvb", {}),
    "dinov3 gated": (
        hf.DINOv3ViTModel, hf.DINOv3ViTConfig, {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        "vit_huge_plus_patch16_dinov3_qkvb", {"mlp_ratio": 4.0},
    ),
    "siglip": (
        hf.SiglipVisionModel, hf.SiglipVisionConfig, {}, "vit_base_patch16_siglip_224",
        {"act_layer": "gelu_tanh"},  # which timm leaves out of this name
    ),
}  # fmt: skip


def theirs_of(layout: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model, config, settings, *_ = LAYOUTS[layout]
    theirs = model(config(**SIZE | settings)).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    theirs.save_pretrained(folder)
    return theirs


def ours_of(layout: str, name: str = "") -> TimmModel:
    *_, usual, options = LAYOUTS[layout]
    narrow = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8} | options
    return TimmConfig(name=name or usual, image_size=32, final_norm=True, options=narrow).build().eval()


def all_tokens(model: TimmModel, image: Tensor) -> Tensor:
    found = model.tokens(image)
    named = [] if found.class_token is None else [found.class_token[:, None]]
    return torch.cat([*named, *(() if found.registers is None else (found.registers,)), found.patches], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("front", ["", "vision.trunk."])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_public_file_gives_what_transformers_gives(layout: str, front: str, tmp_path: Path) -> None:
    theirs, ours = theirs_of(layout, tmp_path), ours_of(layout)
    file = tmp_path / "model.safetensors"
    if front:
        save_file({f"{front}{name}": value for name, value in load_file(file).items()}, file)
    report = load_backbone(ours, file)
    assert report.missing == ()
    assert {name for name in report.unexpected if "blocks" in name} == set()
    image = torch.randn(2, 3, 32, 32)
    # the noise of MAE orders patches even where none is hidden
    given = {"noise": torch.arange(16.0).expand(2, -1)} if layout == "mae" else {}
    assert_close(all_tokens(ours, image), theirs(image, **given).last_hidden_state, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_original_dinov3_gives_the_same(tmp_path: Path) -> None:
    theirs, again = theirs_of("dinov3", tmp_path), {}
    for name, value in load_file(tmp_path / "model.safetensors").items():
        for there, here in (
            ("layer.", "blocks."), ("layer_scale", "ls"), ("lambda1", "gamma"), ("attention.o_proj", "attn.proj"),
            ("up_proj", "fc1"), ("down_proj", "fc2"), ("embeddings.patch_embeddings", "patch_embed.proj"),
            ("embeddings.register_tokens", "storage_tokens"), ("embeddings.", ""),
        ):  # fmt: skip
            name = name.replace(there, here)
        again[name] = value
    for i in range(2):
        q, k, v = (again.pop(f"blocks.{i}.attention.{part}_proj.weight") for part in "qkv")
        again[f"blocks.{i}.attn.qkv.weight"] = torch.cat([q, k, v])
        q, v = (again.pop(f"blocks.{i}.attention.{part}_proj.bias") for part in "qv")
        again[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.ones(32), v])  # masked, so it does not count
        again[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    again["rope_embed.periods"] = torch.ones(4)
    save_file(again, tmp_path / "original.safetensors")
    ours = ours_of("dinov3")
    assert load_backbone(ours, tmp_path / "original.safetensors").unexpected == ()
    image = torch.randn(2, 3, 32, 32)
    assert_close(all_tokens(ours, image), theirs(image).last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("dinov3", "vit_small_patch16_dinov3", "q_bias has no place"),
        ("dinov2", "vit_small_patch16_224", "ls1.gamma has no place"),
    ],
)
def test_a_part_that_would_be_left_out_is_refused(layout: str, name: str, message: str, tmp_path: Path) -> None:
    theirs_of(layout, tmp_path)
    with pytest.raises(UserError, match=message):
        load_backbone(ours_of(layout, name), tmp_path / "model.safetensors")


def test_biases_that_are_zero_may_be_left_out(tmp_path: Path) -> None:
    theirs = theirs_of("dinov3", tmp_path)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.endswith(("q_proj.bias", "v_proj.bias")):
                p.zero_()
    theirs.save_pretrained(tmp_path)
    ours = ours_of("dinov3", "vit_small_patch16_dinov3")
    report = load_backbone(ours, tmp_path)
    assert (report.missing, len(report.unexpected)) == ((), 4)
    image = torch.randn(1, 3, 32, 32)
    assert_close(all_tokens(ours, image), theirs(image).last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [(4, 4, 2), ()], ids=["groups of bands", "dates"])
def test_of_satmae_the_blocks_are_taken_and_the_rest_is_said(groups: tuple[int, ...], tmp_path: Path) -> None:
    config = TimmConfig(
        name="vit_base_patch16_224", image_size=32, final_norm=True, channels=sum(groups) or 3,
        options={"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8},
    )  # fmt: skip
    torch.manual_seed(0)
    ours, other = config.build(), config.build()
    kept = {name: value.clone() for name, value in ours.state_dict().items()}
    state = {name.removeprefix("model."): torch.randn_like(value) for name, value in other.state_dict().items()}
    state["pos_embed"] = torch.randn(1, 17, 24)
    for number, bands in enumerate(groups):
        state[f"patch_embed.{number}.proj.weight"] = torch.randn(32, bands, 8, 8)
        state[f"patch_embed.{number}.proj.bias"] = torch.randn(32)
    if groups:
        del state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        state["channel_embed"] = torch.randn(1, len(groups), 8)
    state |= {"mask_token": torch.randn(1, 1, 16), "decoder_pos_embed": torch.randn(1, 17, 12)}
    state |= {"decoder_blocks.0.attn.qkv.weight": torch.randn(48, 16), "decoder_norm.weight": torch.randn(16)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "satmae.pth")
    report = load_backbone(ours, tmp_path / "satmae.pth")
    left = {"pos_embed"} | ({"patch_embed.proj.weight", "patch_embed.proj.bias"} if groups else set())
    assert {name.removeprefix("model.") for name in report.fresh} == left
    assert not report.missing
    for name, value in ours.state_dict().items():
        plain = name.removeprefix("model.")
        assert torch.equal(value, kept[name] if plain in left else state[plain])
    said = "\n".join(report.lines())
    assert "24 of 32 numbers" in said
    assert ("3 groups of bands" in said) == bool(groups)
    assert "model.satmae.pos_embed" in report.unexpected
    assert ours.tokens(torch.rand(1, sum(groups) or 3, 32, 32)).patches.shape == (1, 16, 32)


def test_satmae_of_one_set_of_bands_has_maes_names_and_its_decoders_are_left(tmp_path: Path) -> None:
    config = TimmConfig(
        name="vit_base_patch16_224", image_size=32, final_norm=True, channels=10,
        options={"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8},
    )  # fmt: skip
    ours, other = config.build(), config.build()
    state = {name.removeprefix("model."): torch.randn_like(value) for name, value in other.state_dict().items()}
    decoder = {"mask_token": torch.randn(1, 1, 16), "decoder_pos_embed": torch.randn(1, 17, 16)}
    decoder |= {"decoder_embed.weight": torch.randn(16, 32), "decoder_pred.bias": torch.randn(640)}
    # What SatMAE++ has beside them: a pyramid of pixels above the decoder.
    decoder |= {"proj_up_conv.weight": torch.randn(40, 10, 1, 1), "proj_up_norm.weight": torch.randn(40)}
    decoder |= {
        f"up_block.{name}": torch.randn(40) for name in ("up_conv.bias", "res_block.conv1.bias", "up_norm.bias")
    }
    torch.save({"model": state | decoder, "epoch": 49}, tmp_path / "satmae_pp.pth")
    report = load_backbone(ours, tmp_path / "satmae_pp.pth")
    assert (report.missing, report.fresh) == ((), ())
    assert all(torch.equal(ours.state_dict()[f"model.{name}"], value) for name, value in state.items())
    assert {name.removeprefix("model.") for name in report.unexpected} == set(decoder) - {"mask_token"}
