"""Towers of public CLIPs as backbones: a ViT's second-last layer, a ConvNeXt's stages, from any public layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from torch import Tensor, nn
from toy_clip import VISION_HF, open_clip_file, shuffled
from transformers import CLIPVisionConfig, CLIPVisionModel

from vistruct.backbones.clip_vit_names import convert_keys
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.weights import load_backbone

WEIGHTS = GOLDEN / "vtplug_towers/weights.safetensors"
CLIP_L = TimmConfig(name="vit_large_patch14_clip_quickgelu_336", out_indices=(22,))
CONVNEXT_L = TimmConfig(name="convnext_large")


def vit(layers: tuple[int, ...], depth: int, width: int, heads: int, mlp_width: int, patch: int, size: int) -> Any:
    options = {
        "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": (mlp_width + 0.5) / width,
        "patch_size": patch,
    }  # fmt: skip
    config = TimmConfig(name=CLIP_L.name, image_size=size, out_indices=layers, options=options)
    return config.build().eval()


@torch.no_grad()
def test_the_second_last_layer_of_the_published_clip(golden) -> None:
    io = golden("vtplug_towers/io.safetensors")
    model = vit((1,), 3, 24, 4, 40, 14, 84)
    report = load_backbone(model, WEIGHTS)
    assert report.missing == ()
    assert {name.split(".")[2] for name in report.unexpected if ".blocks." in name} == {"2"}  # the last one is not read
    torch.testing.assert_close(model.tokens(io["clip.input"]).patches, io["clip.patches"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_stages_of_the_published_convnext(golden) -> None:
    io = golden("vtplug_towers/io.safetensors")
    options = {"depths": (1, 1, 2, 1), "dims": (6, 8, 10, 12)}
    model = TimmConfig(name=CONVNEXT_L.name, options=options).build().eval()
    report = load_backbone(model, WEIGHTS)
    assert report.missing == ()
    assert report.unexpected == ("model.head.norm.bias", "model.head.norm.weight")
    for number, found in enumerate(model(io["tower.input"])):
        torch.testing.assert_close(found, io[f"tower.hidden_states.{number}"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-1, -2])
def test_transformers_layers_are_ours(tmp_path: Path, layer: int) -> None:
    theirs = shuffled(CLIPVisionModel(CLIPVisionConfig(**(VISION_HF | {"num_hidden_layers": 3}))))
    theirs.save_pretrained(tmp_path)
    ours = vit((3 + layer,), 3, 32, 2, 50, 8, 32)
    assert load_backbone(ours, tmp_path).missing == ()
    image = torch.randn(2, 3, 32, 32)
    hidden = theirs(image, output_hidden_states=True).hidden_states[layer]
    found = ours.tokens(image)
    torch.testing.assert_close(found.patches, hidden[:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.class_token, hidden[:, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_open_clip_s_image_tower_is_found_among_all_of_a_clip(tmp_path: Path) -> None:
    theirs, weights, _ = open_clip_file(tmp_path)
    ours = vit((1,), 2, 32, 4, 128, 8, 32)
    report = load_backbone(ours, weights)
    assert report.missing == ()
    image = torch.randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    theirs.visual.transformer.register_forward_hook(lambda module, given, out: seen.append(out))
    theirs.encode_image(image)
    torch.testing.assert_close(ours.tokens(image).patches, seen[0][:, 1:], atol=1e-5, rtol=1e-4)


def sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def test_the_real_models_have_the_published_names_shapes_and_sizes() -> None:
    with torch.device("meta"):
        config = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
            patch_size=14,
        )  # fmt: skip
        theirs = CLIPVisionModel(config)
        ours, tower = CLIP_L.build(), CONVNEXT_L.build()
    assert round(sum(p.numel() for p in theirs.parameters()) / 1e6, 1) == 303.5
    state = {name.removeprefix("vision_model."): value for name, value in theirs.state_dict().items()}
    found = {f"model.{name}": value.shape for name, value in convert_keys(state).items()}
    assert sizes(ours).items() <= found.items()
    assert {name.rpartition(".")[0] for name in found.keys() - sizes(ours).keys()} >= {"model.norm"}
    assert (ours.width, ours.patch, len(ours.model.blocks)) == (1024, 14, 23)
    assert [spec.channels for spec in tower.specs] == [192, 384, 768, 1536]
    assert [spec.stride for spec in tower.specs] == [4, 8, 16, 32]
    norm = 2 * 1536  # of the pooled vector, which maps have none of
    assert round((sum(p.numel() for p in tower.parameters()) + norm) / 1e6, 1) == 196.2


def test_a_frozen_tower_leaves_nothing_for_the_backward_pass() -> None:
    model = vit((0,), 1, 24, 4, 40, 14, 28).requires_grad_(False)
    assert model.tokens(torch.randn(1, 3, 28, 28)).patches.grad_fn is None
