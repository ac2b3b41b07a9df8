"""EvaVit against the original's tensors, block by block and gradient by gradient, and against timm's Eva."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from vistruct.backbones.eva_vit import EVA02_E, EVA_G, EvaVit, EvaVitConfig
from vistruct.backbones.intern_vit import resize_positions
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import Lora, Trainable
from vistruct.contracts import TokenBackbone
from vistruct.engine.lora import adapted_layers, merged_state
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError

timm = pytest.importorskip("timm")

TINY = {
    "g": EvaVitConfig(width=36, depth=3, heads=3, mlp_width=157, image_size=56, margin="crop"),
    "e": EvaVitConfig(width=32, depth=2, heads=2, mlp_width=274, image_size=56, margin="crop", post_norm=True),
}
FOLDER = {"g": "visft_eva_g", "e": "visft_eva02_e"}
OUT = {"g": {"atol": 1e-4, "rtol": 1e-4}, "e": {"atol": 2e-4, "rtol": 1e-4}}
GRADIENT = {"g": {"atol": 1e-3, "rtol": 1e-3}, "e": {"atol": 4e-3, "rtol": 1e-3}}
both = pytest.mark.parametrize("model", ["g", "e"])


def original(golden: Any, model: str, **settings: Any) -> EvaVit:
    """With the original's weights, class token and all where it is asked for."""
    state = dict(golden(f"{FOLDER[model]}/weights.safetensors").tensors)
    if settings.get("class_token"):
        state["cls_token"] = golden(f"{FOLDER[model]}/extra.safetensors")["cls_token"]
    vit = TINY[model].model_copy(update=settings).build().eval()
    missing, _ = vit.load_state_dict(state, strict=False)
    assert missing == []
    return vit


def case(io: Any, name: str) -> Tensor:
    """float[B, 3, H, W], padded with zeros at the right and bottom to the largest."""
    images = [io[key] for key in sorted(io.tensors) if key.startswith(f"{name}.image.")]
    batch = torch.zeros(len(images), 3, *(max(image.shape[i] for image in images) for i in (1, 2)))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


@both
@pytest.mark.parametrize("name", ["a", "b", "c"])  # native size; another; padded, and no whole number of patches
def test_every_block_position_and_map_is_the_original_s(golden, model, name):
    vit, io = original(golden, model), golden(f"{FOLDER[model]}/io.safetensors")
    image = case(io, name)
    for i, tokens in enumerate(vit.layers(image, range(len(vit.blocks)))):
        assert_close(tokens.patches, io[f"{model}.{name}.block.{i}"], **OUT[model])
    (found,) = vit(image)
    assert_close(found, io[f"{model}.{name}.out"], **OUT[model])
    positions = resize_positions(vit.pos_embed, (4, 4), (found.shape[2], found.shape[3]))
    expected = io[f"{model}.{name}.pos_embed_resized"].flatten(1, 2)
    assert_close(positions[:, 1:], expected, atol=1e-6, rtol=1e-5)


@both
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_the_image_and_of_every_parameter_are_the_original_s(golden, model, recompute):
    vit, io = original(golden, model, recompute=recompute).train(), golden(f"{FOLDER[model]}/io.safetensors")
    image = case(io, "b").requires_grad_()
    (vit(image)[0] * io[f"{model}.b.cotangent"]).sum().backward()
    assert_close(image.grad, io[f"{model}.b.grad.input"], **GRADIENT[model])
    for name, parameter in vit.named_parameters():
        assert_close(parameter.grad, io[f"{model}.b.grad.{name}"], **GRADIENT[model])


@both
@pytest.mark.parametrize(("rank", "scale"), [(64, 1 / 64), (4, 2.0)])
def test_an_adapter_of_queries_and_values_counts_once_beside_the_weight_and_in_it(golden, model, rank, scale):
    """Trained, evaluated and merged alike; the original counts it twice when it is evaluated."""
    io = golden(f"{FOLDER[model]}/io.safetensors")
    adapters = golden(f"{FOLDER[model]}/lora_r{rank}.safetensors").tensors
    task = nn.ModuleDict({"backbone": original(golden, model)})
    lora = Lora(rank=rank, scale=scale, parts=("q", "v"))
    apply_rules(task, [Trainable(pattern="backbone", mode="lora", lora=lora)])
    with torch.no_grad():
        for name, layer in adapted_layers(task).items():
            name = name.removeprefix("backbone.")
            layer.lora_A.copy_(adapters[f"{name}.lora_A"])
            layer.lora_B.copy_(adapters[f"{name}.lora_B"])
    vit: Any = task["backbone"]
    front = f"{model}_lora_r{rank}"
    for mode in (vit.eval, vit.train):
        mode()
        for name in ("b", "c"):
            assert_close(vit(case(io, name))[0], io[f"{front}.{name}.out"], **OUT[model])
    (vit(case(io, "b"))[0] * io[f"{front}.b.cotangent"]).sum().backward()
    moved = {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}
    expected = [key.removeprefix(f"{front}.b.grad.") for key in io.tensors if key.startswith(f"{front}.b.grad.")]
    assert sorted(moved) == sorted(expected)
    for name, gradient in moved.items():
        assert_close(gradient, io[f"{front}.b.grad.{name}"], **GRADIENT[model])

    state = {name.removeprefix("backbone."): value for name, value in merged_state(task).items()}
    plain = TINY[model].build().eval()
    plain.load_state_dict(state)
    assert_close(plain(case(io, "b"))[0], vit(case(io, "b"))[0], atol=1e-5, rtol=1e-5)
    assert_close(plain(case(io, "b"))[0], io[f"{front}_merged.b.out"], **OUT[model])
    assert (plain(case(io, "b"))[0] - io[f"{front}_evalmode.b.out"]).abs().max() > 1
    if rank == 64:
        for name, weight in golden(f"{FOLDER[model]}/merged_r64.safetensors").tensors.items():
            assert_close(state[name], weight, atol=1e-6, rtol=0)


@both
def test_with_a_class_token_it_is_eva_clip_s_tower(golden, model):
    vit = original(golden, model, class_token=True)
    io, extra = golden(f"{FOLDER[model]}/io.safetensors"), golden(f"{FOLDER[model]}/extra.safetensors")
    tokens, front = vit.tokens(case(io, "a")), f"clip_{model}"
    assert_close(tokens.before_norm, io[f"{front}.tokens"], **OUT[model])
    assert_close(tokens.class_token, io[f"{front}.pooled"], **OUT[model])
    embedding = tokens.class_token @ extra["head.weight"].T + extra["head.bias"]
    assert_close(embedding, io[f"{front}.embedding"], **OUT[model])


def test_without_last_block_and_norm_it_is_lavis_s(golden, tmp_path):
    """With the same file, resized for its images of 84 pixels; the class token's position stays."""
    io, weights = golden("visft_eva_g/io.safetensors"), golden("visft_eva_g/weights.safetensors").tensors
    file = tmp_path / "eva_vit_g.safetensors"
    save_file(weights | {"cls_token": golden("visft_eva_g/extra.safetensors")["cls_token"]}, file)
    settings = {"depth": 2, "final_norm": False, "class_token": True}
    vit = TINY["g"].model_copy(update=settings).build().eval()
    report = load_backbone(vit, file)
    assert sorted(report.unexpected) == sorted(
        [n for n in weights if n.startswith("blocks.2.")] + ["norm.bias", "norm.weight"]
    )
    assert_close(vit.tokens(case(io, "a")).before_norm, io["lavis.tokens"], **OUT["g"])
    larger = TINY["g"].model_copy(update=settings | {"image_size": 84}).build().eval()
    assert load_backbone(larger, file).resized == ("pos_embed",)
    assert_close(larger.pos_embed.detach(), io["lavis_resized.pos_embed"], atol=1e-6, rtol=1e-5)
    assert_close(larger.tokens(io["lavis_resized.pixel_values"]).before_norm, io["lavis_resized.tokens"], **OUT["g"])


@pytest.mark.parametrize(
    ("config", "file", "parameters", "clip", "adapters"),
    [
        (EVA_G, "visft_eva_g/eva_g_keys.json", 1_011_144_704, 1_012_588_928, 14_417_920),
        (EVA02_E, "visft_eva02_e/eva02_e_keys.json", 4_348_719_104, 4_350_556_928, 29_360_128),
    ],
)
def test_the_real_models_have_their_names_shapes_and_parameters(config, file, parameters, clip, adapters):
    table = json.loads((GOLDEN / file).read_text())
    with torch.device("meta"):
        vit = config.build()
        tower = config.model_copy(update={"class_token": True}).build()
    assert {name: list(p.shape) for name, p in vit.state_dict().items()} == table["names"]
    assert sum(p.numel() for p in vit.parameters()) == parameters == table["parameters"]
    head = 1024 * config.width + 1024
    assert sum(p.numel() for p in tower.parameters()) + head == clip == table["clip_vision_tower_parameters"]
    task = nn.ModuleDict({"backbone": vit})
    plan = apply_rules(
        task, [Trainable(pattern="backbone", mode="lora", lora=Lora(rank=64, scale=1 / 64, parts=("q", "v")))]
    )
    assert plan.trainable == adapters == table["adapter_parameters"]
    if config == EVA_G:
        lavis = config.model_copy(update={"depth": 39, "final_norm": False, "class_token": True})
        with torch.device("meta"):
            assert sum(p.numel() for p in lavis.build().parameters()) == table["lavis_parameters"] == 985_894_528


HEADS = [(176, 2, False), (224, 2, True)]  # of 88 and of 112 numbers, as the real models have them


def beside_timm(width: int, heads: int, post_norm: bool, size: int, **settings: Any) -> tuple[EvaVit, Any]:
    """Ours and timm's for 56 pixels, with the same weights at random; timm's for images of another size too."""
    config = EvaVitConfig(
        width=width, depth=2, heads=heads, mlp_width=2 * width, image_size=56, post_norm=post_norm, class_token=True
    )
    torch.manual_seed(0)
    ours = config.model_copy(update=settings).build().eval()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.1)
    theirs = timm.models.eva.Eva(
        img_size=size, patch_size=14, embed_dim=width, depth=2, num_heads=heads, mlp_ratio=2, num_classes=0,
        global_pool="token", use_post_norm=post_norm,
    ).eval()  # fmt: skip
    state = ours.state_dict()
    table = timm.layers.resample_abs_pos_embed(state["pos_embed"], (size // 14, size // 14), antialias=False)
    theirs.load_state_dict(state | {"pos_embed": table})
    return ours, theirs


@pytest.mark.parametrize(("width", "heads", "post_norm"), HEADS)
@pytest.mark.parametrize("size", [56, 98])
def test_it_is_timm_s_eva_where_that_does_not_antialias_positions(width, heads, post_norm, size):
    ours, theirs = beside_timm(width, heads, post_norm, size)
    image = torch.randn(2, 3, size, size)
    tokens, expected = ours.tokens(image), theirs.forward_features(image)
    assert_close(tokens.class_token, expected[:, 0], atol=1e-5, rtol=1e-4)
    assert_close(tokens.patches, expected[:, 1:], atol=1e-5, rtol=1e-4)
    deep = theirs.forward_intermediates(image, indices=[0], norm=False, intermediates_only=True)[0]
    assert_close(ours.layers(image, [-2])[0].map, deep, atol=1e-5, rtol=1e-4)
    assert_close(ours.layers(image, [1], norm=True)[0].map, ours(image)[0])


def test_chosen_patches_are_the_only_ones_seen_and_keep_their_places():
    vit = TINY["g"].model_copy(update={"class_token": True}).build().eval()
    image = torch.randn(2, 3, 56, 56)
    keep = torch.tensor([[0, 5, 9, 14], [15, 2, 1, 3]])
    some = vit.tokens(image, keep)
    assert some.grid_hw is None
    assert some.before_norm.shape == (2, 5, 36)
    x, _ = vit.embed(image)
    x = torch.stack([row[[0, *(k + 1 for k in kept)]] for row, kept in zip(x, keep.tolist(), strict=True)])
    for block in vit.blocks:
        x = block(x)
    assert_close(some.before_norm, x)
    everything = vit.tokens(image, torch.arange(16).expand(2, -1))
    assert_close(everything.patches, vit.tokens(image).patches)


def test_a_side_that_is_no_whole_number_of_patches_is_filled_up_or_left_out():
    image = torch.randn(1, 3, 75, 93)
    crop = TINY["g"].build().eval()
    pad = TINY["g"].model_copy(update={"margin": "pad"}).build().eval()
    pad.load_state_dict(crop.state_dict())
    assert_close(crop(image)[0], pad(image[..., :70, :84])[0])
    filled = torch.zeros(1, 3, 84, 98)
    filled[..., :75, :93] = image
    assert_close(pad(image)[0], pad(filled)[0])
    assert (crop.traits.least_divisor, pad.traits.least_divisor) == (1, None)
    assert pad(image[..., :1, :1])[0].shape == (1, 36, 1, 1)
    with pytest.raises(UserError, match="no whole 14-pixel patch"):
        crop(image[..., :13, :])


@pytest.mark.parametrize("class_token", [False, True])
def test_it_gives_tokens_of_any_block_and_none_of_no_image(class_token):
    vit = TINY["e"].model_copy(update={"class_token": class_token}).build().eval()
    assert isinstance(vit, TokenBackbone)
    last, first, again = vit.layers(torch.randn(2, 3, 56, 70), [-1, 0, 1])
    assert (last.class_token is not None) == class_token
    assert last.map.shape == (2, 32, 4, 5)
    assert torch.equal(last.before_norm, again.before_norm)
    assert not torch.equal(first.patches, last.patches)
    assert vit(torch.zeros(0, 3, 56, 56))[0].shape == (0, 32, 4, 4)
    with pytest.raises(UserError, match="no block 2 among 2"):
        vit.layers(torch.randn(1, 3, 56, 56), [2])


def test_layers_are_numbered_from_the_embeddings_to_the_last_norm():
    vit = TINY["g"].model_copy(update={"class_token": True}).build()
    found = {name: vit.layer_of(name) for name, _ in vit.named_parameters()}
    assert {found[name] for name in ("cls_token", "pos_embed", "patch_embed.proj.bias")} == {(0, 3)}
    assert found["blocks.0.attn.q_bias"] == (1, 3)
    assert found["blocks.2.norm2.weight"] == (3, 3)
    assert found["norm.weight"] == (4, 3)


@both
def test_half_precision_moves_the_map_by_a_rounding_and_gradients_stay(golden, model):
    vit, io = original(golden, model).train(), golden(f"{FOLDER[model]}/io.safetensors")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = vit(case(io, "b"))
    expected = io[f"{model}.b.out"]
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in vit.parameters())


def test_random_depth_is_of_training_alone():
    vit = TINY["g"].model_copy(update={"drop_path": 0.9}).build()
    image = torch.randn(1, 3, 56, 56)
    torch.manual_seed(0)
    assert len({vit.train()(image)[0].sum().item() for _ in range(8)}) > 1
    assert len({vit.eval()(image)[0].sum().item() for _ in range(2)}) == 1
