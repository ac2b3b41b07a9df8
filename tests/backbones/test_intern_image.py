"""InternImage against the original's tensors, and against its formulas in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import toy_heads
import toy_vlm
from conftest import GOLDEN
from dcnv3_by_hand import by_hand
from torch import Tensor, nn
from torch.testing import assert_close
from whole_loss import task_loss

from vistruct.backbones.intern_image import SIZES, InternImage, InternImageConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import Lora, Trainable
from vistruct.contracts import TokenBackbone
from vistruct.engine.lora import adapted_layers, merged_state, unused_adapters
from vistruct.engine.optim import layer_factor
from vistruct.engine.trainable import apply_rules
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.heads.unet import UNetConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.vlm.tiling import Tiling

TINY = InternImageConfig(width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), mlp_ratio=2.0)
SMALL = TINY.model_copy(update={"width": 4, "groups": (1, 1, 2, 2), "offset_scale": 1.0})
BEFORE: dict[str, Any] = {"post_norm": False, "layer_scale": None}
HUGE: dict[str, Any] = BEFORE | {
    "res_post_norm": True, "dw_kernel": 5, "center_feature_scale": True, "post_norm_blocks": (0,),
}  # fmt: skip
VARIANTS = {
    "behind": SMALL,
    "before": SMALL.model_copy(update=BEFORE),
    "before, scaled": SMALL.model_copy(update={"post_norm": False, "layer_scale": 1.0}),
    "as H": SMALL.model_copy(update=HUGE),
}


def drawn(config: InternImageConfig, seed: int = 0) -> InternImage:
    """All weights at random, the offsets' too, so that nothing is neutral."""
    net = config.build().eval()
    draw = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5, generator=draw)
    return net


def test_maps_and_a_layer_alone_are_the_original_s(golden: Any) -> None:
    net, io = TINY.build().eval(), golden("internimage/io.safetensors")
    net.load_state_dict(golden("internimage/weights.safetensors").tensors)
    maps = net(io["input"])
    for i, level in enumerate(maps):
        assert_close(level, io[f"out.{i}"], atol=2e-5, rtol=1e-5)
    dcn = net.get_submodule("levels.0.blocks.0.dcn")
    assert_close(dcn(io["level0_block0_dcn.input"]), io["level0_block0_dcn.output"], atol=1e-5, rtol=1e-5)
    said = json.loads((GOLDEN / "internimage/config.json").read_text())["weights"]
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == said


def by_formulas(state: dict[str, Tensor], config: InternImageConfig, image: Tensor) -> list[Tensor]:
    """The whole net from the names of its weights, by plain functions; every deformable read cell by cell."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def conv(x: Tensor, name: str, **how: int) -> Tensor:
        bias = state.get(f"{name}.bias")
        return F.conv2d(x.permute(0, 3, 1, 2), state[f"{name}.weight"], bias, **how).permute(0, 2, 3, 1)

    def dcn(x: Tensor, name: str, groups: int) -> Tensor:
        near = conv(x, f"{name}.dw_conv.0", padding=config.dw_kernel // 2, groups=x.shape[-1])
        near = F.gelu(norm(near, f"{name}.dw_conv.1.1"))
        weights = linear(near, f"{name}.mask").unflatten(3, (groups, 9)).softmax(-1).flatten(3)
        value = linear(x, f"{name}.input_proj")
        read = by_hand(value, linear(near, f"{name}.offset"), weights, offset_scale=config.offset_scale)
        if config.center_feature_scale:
            own = near @ state[f"{name}.center_feature_scale_proj_weight"].T
            own = (own + state[f"{name}.center_feature_scale_proj_bias"]).sigmoid()[..., None]
            read, value = (t.unflatten(3, (groups, -1)) for t in (read, value))
            read = (read * (1 - own) + value * own).flatten(3)
        return linear(read, f"{name}.output_proj")

    def mlp(x: Tensor, name: str, groups: int) -> Tensor:
        return linear(F.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2")

    def branch(x: Tensor, block: str, layer: Any, which: str, number: int, groups: int) -> Tensor:
        if config.post_norm:
            y = norm(layer(x, f"{block}.{which}", groups), f"{block}.norm{number}.0")
        else:
            y = layer(norm(x, f"{block}.norm{number}.0"), f"{block}.{which}", groups)
        if config.res_post_norm:
            y = norm(y, f"{block}.res_post_norm{number}.0")
        return x + (y if config.layer_scale is None else y * state[f"{block}.gamma{number}"])

    x = F.gelu(norm(conv(image.permute(0, 2, 3, 1), "patch_embed.conv1", stride=2, padding=1), "patch_embed.norm1.1"))
    x, maps = norm(conv(x, "patch_embed.conv2", stride=2, padding=1), "patch_embed.norm2.1"), []
    for s, (depth, groups) in enumerate(zip(config.depths, config.groups, strict=True)):
        for i in range(depth):
            x = branch(x, f"levels.{s}.blocks.{i}", dcn, "dcn", 1, groups)
            x = branch(x, f"levels.{s}.blocks.{i}", mlp, "mlp", 2, groups)
            if s == 2 and i in config.post_norm_blocks:
                x = norm(x, f"levels.2.post_norms.{config.post_norm_blocks.index(i)}.0")
        if not config.post_norm:
            x = norm(x, f"levels.{s}.norm.0")
        maps.append(x.permute(0, 3, 1, 2))
        if s < 3:
            x = norm(conv(x, f"levels.{s}.downsample.conv", stride=2, padding=1), f"levels.{s}.downsample.norm.1")
    return maps


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_its_formulas_with_every_gradient(name: str) -> None:
    config = VARIANTS[name]
    net = drawn(config).double()
    image = torch.randn(1, 3, 19, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = dict(net.named_parameters())
    along = None
    found = []
    for maps in (net(image), by_formulas(weights, config, image)):
        along = along or [torch.randn_like(one) for one in maps]
        total = torch.stack([(one * way).sum() for one, way in zip(maps, along, strict=True)]).sum()
        found.append((*maps, *torch.autograd.grad(total, weights.values())))
    for what, ours, wanted in zip((*"0123", *weights), *found, strict=True):
        assert_close(ours, wanted, atol=1e-8, rtol=1e-7, msg=lambda said, what=what: f"{what}: {said}")
    offsets = [
        grad for what, grad in zip((*"0123", *weights), found[1], strict=True) if what.endswith(".offset.weight")
    ]
    assert all(grad.abs().max() > 1e-6 for grad in offsets)


@pytest.mark.parametrize("size_hw", [(64, 64), (96, 32), (50, 75), (33, 1), (1, 1)])
@pytest.mark.parametrize("name", ["behind", "as H"])
def test_images_of_any_size_give_maps_rounded_up_and_finite_gradients(name: str, size_hw: tuple[int, int]) -> None:
    net = drawn(VARIANTS[name])
    maps = net(torch.randn(2, 3, *size_hw))
    sizes = [(-(-size_hw[0] // s.stride), -(-size_hw[1] // s.stride)) for s in net.specs]
    assert [tuple(one.shape) for one in maps] == [
        (2, spec.channels, *size) for spec, size in zip(net.specs, sizes, strict=True)
    ]
    assert [(spec.channels, spec.stride) for spec in net.specs] == [(4, 4), (8, 8), (16, 16), (32, 32)]
    sum(one.square().mean() for one in maps).backward()
    for what, p in net.named_parameters():
        assert p.grad is not None, what
        assert bool(p.grad.isfinite().all()), what


@pytest.mark.parametrize("name", ["behind", "as H"])
def test_recomputing_gives_the_same_bits_also_with_dropped_paths(name: str) -> None:
    config = VARIANTS[name].model_copy(update={"drop_path": 0.5})
    image, grads, kept = torch.randn(3, 3, 40, 56), [], []
    for recompute in (False, True):
        net = drawn(config.model_copy(update={"recompute": recompute})).train()
        torch.manual_seed(4)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            total = sum(one.square().mean() for one in net(image))
        total.backward()
        grads.append([p.grad for p in net.parameters()])
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert kept[1] < 0.4 * kept[0]


def test_dropped_paths_rise_to_the_last_block_and_are_whole_images_of_training() -> None:
    net = drawn(TINY.model_copy(update={"drop_path": 0.4}))
    blocks = [module for module in net.traits.repeated_blocks]
    assert [block.drop_path.p for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])  # of 1, 1, 2 and 1 blocks
    x = torch.randn(1, 4, 4, 64).expand(200, -1, -1, -1)
    last = blocks[-1]
    assert torch.equal(last(x)[0], last(x)[1])
    changes = (last.train()(x) - x).flatten(1).abs().sum(1)
    unchanged = (changes == 0).float().mean().item()
    assert unchanged == pytest.approx(0.16, abs=0.08)  # both branches


def test_layers_are_the_blocks_and_the_tokens_are_the_last_map() -> None:
    image = torch.randn(2, 3, 70, 96)
    for name in VARIANTS:
        net = drawn(VARIANTS[name])
        assert isinstance(net, TokenBackbone)
        maps, tokens = net(image), net.tokens(image)
        assert (net.width, net.patch, tokens.grid_hw, tokens.class_token, tokens.registers) == (
            32,
            32,
            (3, 3),
            None,
            None,
        )
        assert torch.equal(tokens.map, maps[-1])
        last_of_stages = net.layers(image, [3, 0, 1, -1], norm=True)
        for i, stage in enumerate((2, 0, 1, 3)):
            assert torch.equal(last_of_stages[i].map, maps[stage])
        bare = net.layers(image, [2])[0]
        assert bare.patches.shape == (2, 5 * 6, 16)
        assert torch.equal(bare.patches, bare.before_norm)
        is_same = torch.equal(net.layers(image, [0])[0].map, maps[0])
        assert is_same == net.config.post_norm  # those with norms on their maps have none on a block's tokens
    with pytest.raises(UserError, match="no block 5 among 5"):
        net.layers(image, [5])
    with pytest.raises(UserError, match="all of an image") as raised:
        net.tokens(image, torch.zeros(2, 3, dtype=torch.long))
    assert "task.vrl.drop_at=tokens" in str(raised.value)


def test_rates_by_depth_are_the_published_ones_of_xl() -> None:
    """Stem 0, blocks 1 to 39, a way between stages as deep as the block behind it, all else 40: .94 ** (40 - id)."""
    with torch.device("meta"):
        holder = nn.Module()
        holder.backbone = net = SIZES["XL"].build()
    starts = (0, 5, 10, 34)
    for name, _ in net.named_parameters():
        first, *rest = name.split(".")
        if first == "patch_embed":
            depth = 0
        elif rest[1] == "blocks":
            depth = starts[int(rest[0])] + int(rest[2]) + 1
        else:
            depth = starts[int(rest[0]) + 1] + 1
            assert rest[1] == "downsample"
        assert net.layer_of(name) == (depth, 39), name
        assert layer_factor(holder, f"backbone.{name}", 0.94) == pytest.approx(0.94 ** (40 - depth)), name


def test_the_norms_of_h_are_as_deep_as_what_is_before_them() -> None:
    with torch.device("meta"):
        net = SIZES["H"].build()
    assert net.layer_of("levels.2.post_norms.1.0.weight") == (12 + 11 + 1, 50)
    assert net.layer_of("levels.0.norm.0.weight") == (7, 50)
    assert net.layer_of("levels.3.norm.0.bias") == (51, 50)


@pytest.mark.parametrize(
    ("size", "millions", "with_classifier"),
    [
        ("T", 28.755, 30),
        ("S", 48.503, 50),
        ("B", 94.910, 97),
        ("L", 218.952, 223),
        ("XL", 328.971, 335),
        ("H", 1073.122, 0),
    ],
)
def test_published_sizes_have_the_published_numbers_of_parameters(
    size: Any, millions: float, with_classifier: int
) -> None:
    """Table 1 of the paper counts the classifier: a 1 x 1 convolution to 1.5 times the width, norm, 1000 classes."""
    with torch.device("meta"):
        net = SIZES[size].build()
    total = sum(p.numel() for p in net.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=1e-3)
    if with_classifier:
        hidden = net.width * 3 // 2
        assert round((total + net.width * hidden + 2 * hidden + hidden * 1000 + 1000) / 1e6) == with_classifier


def test_bfloat16_stays_near_float32_under_autocast_and_as_weights(golden: Any) -> None:
    net, io = TINY.build().eval(), golden("internimage/io.safetensors")
    net.load_state_dict(golden("internimage/weights.safetensors").tensors)
    exact = net(io["input"])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(io["input"])
    for ours, wanted in zip((*mixed, *net.bfloat16()(io["input"].bfloat16())), (*exact, *exact), strict=True):
        assert (ours.float() - wanted).norm() / wanted.norm() < 0.05


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"groups": (12, 24, 47, 96)}, "does not divide the width of stage 2"),
        ({"depths": (5, 0, 24, 5)}, "needs a block"),
        ({"dw_kernel": 4}, "no middle"),
        ({"res_post_norm": True}, "stands alone"),
        ({"post_norm_blocks": (24,)}, "of 24 blocks"),
    ],
)
def test_settings_that_do_not_fit_are_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InternImageConfig(**bad)


@pytest.mark.parametrize(
    "head", [UperNetConfig(channels=8, norm="group"), UNetConfig(channels=(32, 16, 8, 8), norm="group"), LinearConfig()]
)
def test_heads_of_pixels_and_classes_stand_on_its_maps(head: Any) -> None:
    net, image = drawn(TINY), torch.randn(2, 3, 64, 96)
    built = head.build(net.specs, 3)
    logits = built(net(image))
    assert logits.shape[:2] == (2, 3)
    logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    assert PooledConfig().build(net.specs, 5)(net(image)).shape == (2, 5)


@pytest.mark.parametrize("head", [MaskRcnnConfig(), OrientedRcnnConfig()], ids=lambda head: head.kind)
def test_heads_of_boxes_stand_on_its_maps_with_a_pyramid(head: Any) -> None:
    net, image = drawn(TINY), torch.randn(1, 3, 128, 128)
    neck = FpnConfig(channels=8).build(net.specs)
    built = head.build(neck.specs, 2)
    target = toy_heads.target(3, seed=0)
    if head.kind == "oriented_rcnn":
        boxes = torch.tensor([[40.0, 40, 30, 20, 0.3], [80, 90, 40, 25, -0.2], [90, 30, 20, 18, 0.0]])
        target = replace(target, boxes_cxcywha=boxes, masks=None)
    loss = built.loss(built(neck(net(image))), [target])
    sum(loss.terms.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_it_sits_in_a_vision_language_model() -> None:
    task = toy_vlm.build(
        backbone=TINY.model_copy(update={"layer_scale": 0.5}),
        shuffle=1,
        tiling=Tiling(size=64, max_tiles=4),
        vrl="paper",
    ).train()
    assert (task.tokens_per_tile, task.grid) == (4, 2)
    batch = task.collator([toy_vlm.sample(size=64)])
    task_loss(task, batch).loss.backward()
    still = {name for name, p in task.backbone.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("dw_conv" in name for name in still)  # what makes offsets and weights, which start at zero
    assert task.eval().visual_tokens(batch.tiles).shape[0] == 4 * len(batch.tiles)


def test_adapters_on_its_linear_layers_learn_count_and_can_be_merged() -> None:
    model, image = nn.ModuleDict({"backbone": drawn(TINY)}), torch.randn(1, 3, 40, 40)
    last = lambda: model["backbone"](image)[-1]  # noqa: E731
    before = last().detach()
    plan = apply_rules(model, [Trainable(pattern="*", mode="lora", lora=Lora(rank=2))])
    assert torch.equal(last(), before)
    assert len(adapted_layers(model)) == 5 * 6  # offsets, weights, two projections and an MLP of each block
    assert all(".lora_" in name for name in plan.lr_factors)
    sum(one.square().sum() for one in model["backbone"](image)).backward()
    assert unused_adapters(model) == []
    for layer in adapted_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    after = last().detach()
    assert (after - before).abs().max() > 1e-3
    plain = nn.ModuleDict({"backbone": TINY.build().eval()})
    plain.load_state_dict(merged_state(model))
    assert_close(plain["backbone"](image)[-1], after, rtol=1e-3, atol=1e-4)


def test_no_adapter_goes_around_it() -> None:
    with pytest.raises(UserError, match="no adapter"):
        VitAdapterConfig(vit=TINY).build()
