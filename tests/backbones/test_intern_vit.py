"""InternVit against the original code's tensors and against `transformers`."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import GOLDEN
from torch.testing import assert_close
from transformers import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from vistruct.backbones.intern_vit import InternVitConfig, resize_positions, sincos_positions
from vistruct.backbones.intern_vit_names import convert_keys, to_transformers
from vistruct.errors import UserError

TINY = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=14, image_size=56)
CONV = InternVitConfig(width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=32, stem="conv")


@pytest.fixture(scope="module")
def original(golden):
    return golden("intern_vit/weights.safetensors")


@pytest.mark.parametrize("case", ["a", "b", "c"])  # native size, not square, smaller
def test_every_block_gives_what_the_original_gives(golden, original, case):
    vit = TINY.build().eval()
    vit.load_state_dict(original.tensors)
    io = golden("intern_vit/io.safetensors")
    x = vit.embeddings(io[f"{case}.pixel_values"])
    assert_close(x, io[f"{case}.embeddings"], atol=2e-5, rtol=1e-4)
    for i, layer in enumerate(vit.encoder.layers, start=1):
        x = layer(x)
        name = f"{case}.hidden_states.{i}" if i < TINY.depth else f"{case}.last_hidden_state"
        assert_close(x, io[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("width", "depth", "heads"), [(64, 3, 4), (96, 2, 6)])
def test_transformers_weights_give_transformers_output(width, depth, heads):
    torch.manual_seed(0)
    config = InternVLVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=128,
        image_size=[56, 56], patch_size=[14, 14], attention_bias=True, layer_norm_eps=1e-6,
        use_mean_pooling=True, layer_scale_init_value=0.1,
    )  # fmt: skip
    theirs = InternVLVisionModel(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    ours = InternVitConfig(width=width, depth=depth, heads=heads, mlp_width=128, patch=14, image_size=56).build().eval()
    ours.load_state_dict(convert_keys(theirs.state_dict()))
    image = torch.randn(2, 3, 56, 56)
    assert_close(ours.hidden(image), theirs(image).last_hidden_state, atol=2e-5, rtol=1e-4)


def test_names_of_transformers_and_back_keep_every_bit(original):
    config = InternVLVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=[56, 56],
        patch_size=[14, 14], attention_bias=True,
    )  # fmt: skip
    theirs = to_transformers(original.tensors)
    InternVLVisionModel(config).load_state_dict(theirs, strict=True)
    back = convert_keys(theirs)
    assert back.keys() == original.tensors.keys()
    assert all(torch.equal(back[name], value) for name, value in original.tensors.items())


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_missing_third_of_a_fused_matrix_is_missed_and_not_a_crash(original, part):
    state = to_transformers(original.tensors)
    del state[f"encoder.layer.1.attention.{part}_proj.weight"]
    assert original.tensors.keys() - convert_keys(state).keys() == {"encoder.layers.1.attn.qkv.weight"}


def test_published_300m_model_has_the_published_keys_and_shapes():
    table = json.loads((GOLDEN / "intern_vit/internvit_300m_keys.json").read_text())
    with torch.device("meta"):
        vit = InternVitConfig().build()
    assert {k: list(v.shape) for k, v in vit.state_dict().items()} == table["key_to_shape"]
    assert sum(p.numel() for p in vit.parameters()) == table["num_parameters"] == 304_012_288


@pytest.mark.parametrize("prefix", ["vision_model.", "", "model.vision_tower.", "backbone."])
def test_public_prefixes_are_read_and_other_modules_left_out(original, prefix):
    state = {prefix + k: v for k, v in original.tensors.items()} | {"mlp1.0.weight": torch.zeros(3)}
    assert convert_keys(state).keys() == original.tensors.keys()


def test_downstream_layout_without_the_word_encoder_is_read(original):
    state = {k.replace("encoder.", ""): v for k, v in original.tensors.items()}
    assert convert_keys(state).keys() == original.tensors.keys()


def test_positions_and_kernel_of_another_size_are_resized_and_named(golden):
    """The published downstream loader's own result: patch 14 at 56 px into patch 16 at 96 px."""
    vit = InternVitConfig(width=64, depth=3, heads=4, mlp_width=128, patch=16, image_size=96).build()
    source = golden("intern_vit/weights.safetensors").tensors
    state, resized = vit.resize_state(source)
    assert set(resized) == {"embeddings.position_embedding", "embeddings.patch_embedding.weight"}
    assert state["embeddings.position_embedding"].shape == (1, 37, 64)
    kernel = torch.nn.functional.interpolate(source["embeddings.patch_embedding.weight"], (16, 16), mode="bicubic")
    assert_close(state["embeddings.patch_embedding.weight"], kernel)
    vit.load_state_dict(state)


def test_resized_positions_keep_the_class_slot_and_are_the_identity_at_their_own_size():
    table = torch.randn(1, 17, 8)
    assert resize_positions(table, (4, 4), (4, 4)) is table
    assert torch.equal(resize_positions(table, (4, 4), (6, 3))[:, 0], table[:, 0])


@pytest.mark.parametrize("config", [TINY, CONV], ids=["patch", "conv"])
def test_map_is_the_tokens_row_by_row(config):
    vit = config.build().eval()
    image = torch.randn(1, 3, 4 * config.patch, 2 * config.patch)
    (features,) = vit(image)
    assert features.shape == (1, config.width, 4, 2)
    assert_close(features.flatten(2).transpose(1, 2), vit.tokens(image).patches)


def test_keeping_all_patches_is_the_same_as_not_choosing():
    vit = CONV.build().eval()
    image = torch.randn(2, 3, 32, 32)
    everything = torch.arange(16).expand(2, -1)
    assert_close(vit.tokens(image, everything).patches, vit.tokens(image).patches)
    assert vit.tokens(image, everything[:, 3:7]).patches.shape == (2, 4, 32)
    with pytest.raises(ValueError, match="no map"):
        _ = vit.tokens(image, everything).map


def test_conv_stem_sees_only_its_patch_and_a_small_border():
    """The centre patch must not depend on the far corner before the blocks mix them (GroupNorm's statistics aside)."""
    stem = CONV.build().embeddings.patch_embedding.convs[0]
    image = torch.zeros(1, 3, 32, 32)
    changed = image.clone()
    changed[..., 0, 0] = 1
    difference = (stem(image) - stem(changed)).abs().sum(1)[0]
    assert difference[0, 0] > 0
    assert difference[2:, 2:].sum() == 0


def test_drop_path_keeps_the_mean_and_is_off_in_eval():
    torch.manual_seed(0)
    block = InternVitConfig(width=8, depth=2, heads=1, mlp_width=8, drop_path=0.5).build().encoder.layers[1]
    branch = torch.ones(4000, 1, 8)
    assert block.train()._drop(branch).mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.eval()._drop(branch), branch)


def test_depth_of_every_parameter_is_known():
    vit = TINY.build()
    assert vit.layer_of("embeddings.position_embedding") == (0, 3)
    assert vit.layer_of("encoder.layers.2.attn.qkv.weight") == (3, 3)


def test_image_that_is_no_whole_number_of_patches_is_an_error():
    with pytest.raises(UserError, match="50 x 56"):
        TINY.build()(torch.zeros(1, 3, 50, 56))


@pytest.mark.parametrize("bad", [{"heads": 5}, {"image_size": 60}, {"stem": "conv", "patch": 14}])
def test_sizes_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match=r"width|image_size|stem"):
        InternVitConfig(**{"width": 64, "heads": 4, "patch": 14, "image_size": 56, **bad})


def test_sincos_positions_tell_every_patch_from_every_other():
    """Equal distances in the grid have equal similarity: the table is a function of the offset alone."""
    table = sincos_positions(64, 6)
    similarity = table @ table.T
    assert torch.allclose(similarity.diagonal(), similarity[0, 0].expand(36))
    assert (similarity - torch.diag(similarity.diagonal())).max() < 0.95 * similarity[0, 0]
    one_right = [similarity[r * 6 + c, r * 6 + c + 1] for r in range(6) for c in range(5)]
    assert_close(torch.stack(one_right), one_right[0].expand(30), atol=1e-4, rtol=0)


def test_conv_model_can_start_with_sincos_positions_and_keeps_them_learnable():
    vit = CONV.model_copy(update={"positions": "sincos"}).build()
    assert_close(vit.embeddings.position_embedding[0, 1:], sincos_positions(32, 4))
    assert vit.embeddings.position_embedding.requires_grad
