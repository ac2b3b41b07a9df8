"""The ViT-Adapter against the original code's tensors, its weights from every place they come from, its layers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file
from torch.testing import assert_close

from vistruct.backbones.adapter_interaction import Extractor
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.tokens import Entered
from vistruct.backbones.vit_adapter import VitAdapter, VitAdapterConfig
from vistruct.backbones.windows import from_windows, to_windows
from vistruct.engine.optim import is_decayed, layer_factor
from vistruct.errors import UserError
from vistruct.ops.deformable_attention import DeformableAttention, centres

VIT = InternVitConfig(width=64, depth=4, heads=4, mlp_width=128, patch=16, image_size=64)
TINY = VitAdapterConfig(vit=VIT, groups=((0, 0), (1, 1), (2, 2), (3, 3)), heads=4, conv_width=8)
VARIANTS = ["mmcv", "ddetr"]


def changed(config: VitAdapterConfig, **values: object) -> VitAdapterConfig:
    return VitAdapterConfig.model_validate(config.model_dump() | values)


def published(variant: str) -> dict[str, torch.Tensor]:
    folder = GOLDEN / "vit_adapter"
    return load_file(folder / "weights_shared.safetensors") | load_file(folder / f"weights_{variant}.safetensors")


def original(variant: str) -> VitAdapter:
    adapter = changed(TINY, attention=variant).build().eval()
    adapter.load_state_dict(adapter.convert_keys(published(variant)))
    return adapter


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_gives_what_the_original_gives(golden, variant):
    io = golden(f"vit_adapter/io_{variant}.safetensors")
    image = golden("vit_adapter/io_mmcv.safetensors")["input"]
    adapter, seen = original(variant), []
    for interaction in adapter.interactions:
        interaction.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        maps = adapter(image)
        prior = adapter.spm(image)
    for i, (x, c) in enumerate(seen if variant == "mmcv" else []):  # the other file has only the end
        assert_close(x, io[f"interaction.{i}.x"], atol=5e-5, rtol=1e-4)
        assert_close(c, io[f"interaction.{i}.c"], atol=5e-5, rtol=1e-4)
    assert_close(seen[-1][0], io["vit_tokens"], atol=5e-5, rtol=1e-4)
    for i, level in enumerate(maps):
        assert_close(level, io[f"out.{i}"], atol=5e-5, rtol=1e-4)
    if variant == "mmcv":
        assert_close(prior[0], io["spm.c1"], atol=5e-5, rtol=1e-4)
        for level, name in zip(prior[1:], ("c2", "c3", "c4"), strict=True):
            assert_close(level.flatten(2).transpose(1, 2), io[f"spm.{name}"], atol=5e-5, rtol=1e-4)


def test_the_published_vit_l_has_the_published_keys_shapes_and_sizes():
    table = json.loads((GOLDEN / "vit_adapter/adapter_l_keys.json").read_text())
    for variant, own in table["adapter_only_parameters"].items():
        with torch.device("meta"):
            adapter = VitAdapterConfig(attention=variant).build()
        assert sum(p.numel() for n, p in adapter.named_parameters() if not n.startswith("vit.")) == own
    assert table["adapter_only_parameters"] == {"mmcv": 33_727_680, "ddetr": 17_991_360}

    with torch.device("meta"):
        adapter = VitAdapterConfig().build()
        theirs = {key: torch.empty(shape) for key, shape in table["key_to_shape_mmcv"].items()}
    converted = {key: value.shape for key, value in adapter.convert_keys(theirs).items()}
    mine = {key: value.shape for key, value in adapter.state_dict().items()}
    assert converted.items() <= mine.items()
    left = mine.keys() - converted.keys()  # the table leaves out blocks 1 to 23
    assert {key.split(".")[3] for key in left} == {str(i) for i in range(1, 24)}


@pytest.mark.parametrize("size_hw", [(32, 32), (96, 64), (64, 160)])
def test_any_multiple_of_32_gives_maps_at_four_strides(size_hw):
    maps = TINY.build()(torch.randn(2, 3, *size_hw))
    assert [spec.stride for spec in TINY.build().specs] == [4, 8, 16, 32]
    for level, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert level.shape == (2, 64, size_hw[0] // stride, size_hw[1] // stride)
        assert level.dtype == torch.float32


def test_other_patches_and_stems_fit_inside():
    vit = InternVitConfig(width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=64, stem="conv")
    adapter = changed(TINY, vit=vit.model_dump(), groups=((0, 0), (1, 1)), heads=2).build()
    assert [tuple(m.shape[2:]) for m in adapter(torch.randn(1, 3, 64, 32))] == [(16, 8), (8, 4), (4, 2), (2, 1)]


@pytest.mark.parametrize("size_hw", [(48, 64), (64, 40)])
def test_a_size_that_does_not_fit_is_refused_with_the_divisor(size_hw):
    with pytest.raises(UserError, match="multiples of 32"):
        TINY.build()(torch.zeros(1, 3, *size_hw))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant):
    adapter = changed(TINY, attention=variant, drop_path=0.0).build()
    for attention in adapter.modules():  # at the start all weights of the attention are equal
        if isinstance(attention, DeformableAttention):
            torch.nn.init.normal_(attention.attention_weights.weight)
    maps = adapter(torch.randn(2, 3, 64, 96))
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    still = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # The class token's row of the table is not used, but the rest of the table is.
    assert still == []
    assert not adapter.vit.embeddings.position_embedding.grad[:, 0].any()


def test_recomputing_gives_the_same_maps_and_gradients():
    image, results = torch.randn(1, 3, 64, 64), []
    for recompute in (False, True):
        adapter = changed(TINY, recompute=recompute, drop_path=0.3).build()
        adapter.load_state_dict(original("mmcv").state_dict())
        torch.manual_seed(3)  # dropout and stochastic depth draw again what they drew
        maps = adapter.train()(image)
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in adapter.parameters())])
    for kept, again in zip(*results, strict=True):
        assert_close(again, kept)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_stays_near_full_precision(variant, golden):
    adapter, image = original(variant), golden("vit_adapter/io_mmcv.safetensors")["input"]
    with torch.no_grad():
        full = adapter(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = adapter(image)
    for a, b in zip(half, full, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().mean() < 0.05 * b.abs().mean()


# Windows.


def test_windows_and_back_is_where_it_started():
    for grid_hw in [(4, 4), (5, 7), (2, 9), (1, 1)]:
        x = torch.randn(2, grid_hw[0] * grid_hw[1], 3)
        windows, is_real = to_windows(x, grid_hw, 4)
        assert_close(from_windows(windows, grid_hw, 4), x)
        assert (is_real is None) == (grid_hw in [(4, 4), (1, 1)])
        if is_real is not None:
            assert int(is_real.sum()) == 2 * grid_hw[0] * grid_hw[1]
            assert is_real.any(dim=1).all()


def test_windowed_blocks_look_only_at_real_tokens_of_their_window():
    """The same as running each window's tokens alone, however they are filled up."""
    adapter = changed(TINY, window=3, global_blocks=()).build().eval()
    grid_hw, x = (4, 5), torch.randn(1, 20, 64)
    with torch.no_grad():
        got = adapter._group((0, 0), grid_hw, Entered(tokens=x), [])(x).view(4, 5, 64)
        alone = torch.empty_like(got)
        for rows in (slice(0, 3), slice(3, 4)):
            for columns in (slice(0, 3), slice(3, 5)):
                part = x.view(4, 5, 64)[rows, columns]
                alone[rows, columns] = adapter.vit.encoder.layers[0](part.reshape(1, -1, 64)).view(part.shape)
    assert_close(got, alone)


def test_the_last_block_of_every_group_sees_everything_unless_said_otherwise():
    config = changed(TINY, groups=((0, 1), (2, 3)), window=2)
    assert config.build().blocks_global == {1, 3}
    assert changed(config, global_blocks=(2,)).build().blocks_global == {2}
    x = torch.randn(1, 16, 64)
    other = x.clone()
    other[:, -1] = torch.randn(64)
    adapter = config.build().eval()
    with torch.no_grad():
        windowed = adapter._group((0, 0), (4, 4), Entered(tokens=x), [])(x) - adapter._group(
            (0, 0), (4, 4), Entered(tokens=other), []
        )(other)
        everything = adapter._group((1, 1), (4, 4), Entered(tokens=x), [])(x) - adapter._group(
            (1, 1), (4, 4), Entered(tokens=other), []
        )(other)
    assert not windowed[:, 0].any()
    assert everything[:, 0].any()


def test_a_window_as_large_as_the_grid_changes_nothing():
    image, weights = torch.randn(1, 3, 64, 64), original("mmcv").state_dict()
    windowed = changed(TINY, window=4, global_blocks=()).build().eval()
    windowed.load_state_dict(weights)
    with torch.no_grad():
        for a, b in zip(windowed(image), original("mmcv")(image), strict=True):
            assert_close(a, b)


# Parts.


def test_centres_are_row_by_row_and_map_by_map():
    assert centres([(1, 2), (2, 1)], torch.device("cpu")).tolist() == [
        [0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75],
    ]  # fmt: skip


def test_attention_starts_by_looking_around_in_all_directions():
    attention = DeformableAttention(width=32, heads=8, levels=2, points=3, value_width=32, dropout=0.0)
    looks = attention.sampling_offsets.bias.view(8, 2, 3, 2)
    assert_close(looks[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
    assert_close(looks[1, 1], torch.tensor([[1.0, 1], [2, 2], [3, 3]]))
    assert_close(looks[4, 0, 0], torch.tensor([-1.0, 0]))
    assert_close(looks.abs().amax(dim=-1)[:, 0, 2], torch.full((8,), 3.0))


def test_the_mmcv_extractor_carries_the_normalised_query_on():
    for variant in VARIANTS:
        attention = DeformableAttention(width=16, heads=2, levels=1, points=2, value_width=16, dropout=0.0)
        extractor = Extractor(attention, variant=variant, hidden=4, drop_path=0.0).eval()
        torch.nn.init.zeros_(attention.output_proj.weight)
        torch.nn.init.zeros_(extractor.ffn.fc2.weight)
        torch.nn.init.zeros_(extractor.ffn.fc2.bias)
        c, x = 3 * torch.randn(1, 21, 16) + 1, torch.randn(1, 4, 16)
        got = extractor(c, x, (2, 2), [(4, 4), (2, 2), (1, 1)])
        assert_close(got, extractor.query_norm(c) if variant == "mmcv" else c)


def test_stochastic_depth_keeps_the_mean_and_is_off_in_eval():
    attention = DeformableAttention(width=8, heads=1, levels=1, points=1, value_width=8, dropout=0.0)
    extractor = Extractor(attention, variant="ddetr", hidden=4, drop_path=0.4)
    c, x, sizes = (
        torch.randn(1, 21, 8).expand(4000, -1, -1),
        torch.randn(1, 4, 8).expand(4000, -1, -1),
        [(4, 4), (2, 2), (1, 1)],
    )
    torch.manual_seed(0)
    with torch.no_grad():
        train, still = extractor(c, x, (2, 2), sizes), extractor.eval()(c, x, (2, 2), sizes)
    assert_close(still[0], still[1])
    assert_close(train.mean(0), still[0], atol=0.03, rtol=0.03)
    assert not torch.allclose(train[0], still[0]) or not torch.allclose(train[1], still[1])


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"groups": ((0, 1),)}, "groups"),
        ({"groups": ((0, 1), (3, 3), (2, 2))}, "groups"),
        ({"groups": ((0, 2), (2, 3))}, "groups"),
        ({"heads": 3}, "heads=3"),
        ({"attention": "ddetr", "value_ratio": 0.03125, "heads": 4}, "heads=4"),
        ({"window": 2, "global_blocks": (4,)}, "global_blocks"),
    ],
)
def test_settings_that_do_not_fit_the_vit_are_refused(values, what):
    with pytest.raises(UserError, match=what):
        changed(TINY, **values).build()


# Layers.


@pytest.mark.parametrize(
    ("rate", "factors"), [(0.95, (0.277, 0.292, 0.513, 0.698, 0.95, 1)), (0.90, (0.072, 0.080, 0.254, 0.478, 0.90, 1))]
)
def test_layer_decay_is_the_published_table(rate, factors):
    with torch.device("meta"):
        model = torch.nn.Module()
        model.backbone = VitAdapterConfig().build()
        model.neck = torch.nn.Linear(1, 1)
    vit = "backbone.vit."
    rows = [
        ["backbone.level_embed", f"{vit}embeddings.position_embedding", f"{vit}embeddings.patch_embedding.weight"],
        [f"{vit}encoder.layers.0.attn.qkv.weight", f"{vit}encoder.layers.0.ls1"],
        [f"{vit}encoder.layers.11.mlp.fc1.weight"],
        [f"{vit}encoder.layers.17.norm1.bias"],
        [f"{vit}encoder.layers.23.attn.proj.bias"],
        ["backbone.spm.stem.0.weight", "backbone.interactions.0.injector.gamma", "backbone.up.weight",
         "backbone.interactions.3.extra_extractors.1.ffn.fc1.weight", "backbone.norm1.weight", "neck.weight"],
    ]  # fmt: skip
    known = dict(model.named_parameters())
    for names, factor in zip(rows, factors, strict=True):
        for name in names:
            assert name in known
            assert layer_factor(model, name, rate) == pytest.approx(factor, abs=5.1e-4)


def test_every_parameter_has_a_layer_and_embeddings_are_not_decayed():
    adapter = TINY.build()
    layers = {name: adapter.layer_of(name) for name, _ in adapter.named_parameters()}
    assert {layer for layer, _ in layers.values()} == {0, 1, 2, 3, 4, 5}
    assert {num for _, num in layers.values()} == {4}
    undecayed = {n for n, p in adapter.named_parameters() if p.ndim > 1 and not is_decayed(n, p)}
    assert undecayed == {"level_embed", "vit.embeddings.position_embedding"}
    assert math.prod(adapter.level_embed.shape) == 3 * 64
