"""VitRvsa against the original's tensors and against its formulas, place by place, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import toy_vlm
from torch import Tensor, nn
from torch.testing import assert_close
from whole_loss import task_loss

from vistruct.backbones.rotated_windows import RotatedWindowAttention
from vistruct.backbones.vit_rvsa import FullAttention, VitRvsa, VitRvsaConfig, resize_rel_pos
from vistruct.config import Lora
from vistruct.contracts import TokenBackbone
from vistruct.engine.lora import adapt
from vistruct.errors import UserError
from vistruct.vlm.tiling import Tiling
from vistruct.vlm.vrl import Vrl

TINY = VitRvsaConfig(width=16, depth=4, heads=2, interval=2, out_indices=(0, 1, 2, 3), image_size=176, drop_path=0.0)
BRANCHES = TINY.model_copy(update={"full_rel_pos": False})
LAST = BRANCHES.model_copy(update={"pyramid": "last"})
PLAIN = TINY.model_copy(update={"pyramid": "none"})


def drawn(config: VitRvsaConfig, seed: int = 0) -> VitRvsa:
    """All weights at random, the tables too, so that nothing is neutral."""
    vit = config.build().eval()
    draw = torch.Generator().manual_seed(seed)
    for p in vit.parameters():
        nn.init.normal_(p, std=0.2, generator=draw)
    return vit


@pytest.mark.parametrize(
    ("variant", "config"), [("pretrain", TINY), ("branches", BRANCHES), ("simple", LAST)], ids=lambda v: str(v)[:8]
)
def test_every_block_and_map_is_the_original_s(golden: Any, variant: str, config: VitRvsaConfig) -> None:
    stage = "pretrain" if variant == "pretrain" else "finetune"
    weights, io = golden(f"rvsa/weights_{stage}.safetensors").tensors, golden(f"rvsa/io_{stage}.safetensors")
    vit = config.build().eval()
    if stage == "finetune":  # its table of positions is not square
        vit.table_hw, vit.pos_embed = (8, 15), nn.Parameter(torch.empty(1, 120, 16))
    missing, unexpected = vit.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == ([], [] if variant == "simple" else ["norm.bias", "norm.weight"])
    image, close = io["input"], {"atol": 2e-5, "rtol": 1e-5}
    compared = 0
    for i, tokens in enumerate(vit.layers(image, range(4))):
        if f"{variant}.block.{i}" in io.tensors:
            assert_close(tokens.patches, io[f"{variant}.block.{i}"], **close)
            compared += 1
    for i, level in enumerate(vit(image)):
        if f"{variant}.out.{i}" in io.tensors:
            assert_close(level, io[f"{variant}.out.{i}"], **close)
            compared += 1
    assert compared == (3 if variant == "simple" else 8)


def rotated_windows_by_hand(attention: RotatedWindowAttention, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """The published formulas for one image float[L, D], one query after another, on the filled-up grid."""
    (h, w), size, heads, width = grid_hw, attention.window, attention.heads, x.shape[1]
    d = width // heads
    rows, columns = math.ceil(h / size), math.ceil(w / size)
    top, left = (rows * size - h) // 2, (columns * size - w) // 2
    filled_h, filled_w = rows * size, columns * size

    def fill(values: Tensor) -> Tensor:
        full = values.new_zeros(filled_h, filled_w, values.shape[1])
        full[top : top + h, left : left + w] = values.view(h, w, -1)
        return full

    def read(values: Tensor, gx: Tensor, gy: Tensor) -> Tensor:
        """Bilinear, zeros outside; -1 and 1 are the centres of the outermost places."""
        px, py = (gx + 1) / 2 * (filled_w - 1), (gy + 1) / 2 * (filled_h - 1)
        total = values.new_zeros(values.shape[2])
        x0, y0 = math.floor(px.item()), math.floor(py.item())
        for yy, wy in ((y0, y0 + 1 - py), (y0 + 1, py - y0)):
            for xx, wx in ((x0, x0 + 1 - px), (x0 + 1, px - x0)):
                if 0 <= yy < filled_h and 0 <= xx < filled_w:
                    total = total + wy * wx * values[yy, xx]
        return total

    map_, (q, k, v) = fill(x), (fill(part) for part in attention.qkv(x).chunk(3, dim=1))
    out = x.new_zeros(filled_h, filled_w, width)
    for row in range(rows):
        for column in range(columns):
            cells = [(row * size + i, column * size + j) for i in range(size) for j in range(size)]
            mean = sum(map_[c] for c in cells) / size**2
            active = torch.where(mean > 0, mean, 0.01 * mean)

            def say(layers: Any, active: Tensor = active) -> Tensor:
                return layers[2].weight.flatten(1) @ active + layers[2].bias

            moves, scales = say(attention.sampling_offsets), say(attention.sampling_scales)
            angles = say(attention.sampling_angles)
            for head in range(heads):
                part = slice(head * d, head * d + d)
                move_x, move_y = moves[2 * head] / max(h // size, 1), moves[2 * head + 1] / max(w // size, 1)
                cos, sin = angles[head].cos(), angles[head].sin()
                keys, values = [], []
                for i in range(size):
                    for j in range(size):
                        cx = (j - (size - 1) / 2) * 2 / (filled_w - 1) * (1 + scales[2 * head])
                        cy = (i - (size - 1) / 2) * 2 / (filled_h - 1) * (1 + scales[2 * head + 1])
                        gx = 2 * (column * size + (size - 1) / 2) / (filled_w - 1) - 1 + cx * cos - cy * sin + move_x
                        gy = 2 * (row * size + (size - 1) / 2) / (filled_h - 1) - 1 + cx * sin + cy * cos + move_y
                        keys.append(read(k[..., part], gx, gy))
                        values.append(read(v[..., part], gx, gy))
                for a, cell in enumerate(cells):
                    query, logits = q[cell][part], []
                    for b, key in enumerate(keys):
                        dy, dx = a // size - b // size + size - 1, a % size - b % size + size - 1
                        logits.append(
                            query @ key / d**0.5
                            + query @ attention.rel_pos_h[dy]
                            + query @ attention.rel_pos_w[dx]
                            + attention.relative_position_bias_table[dy * (2 * size - 1) + dx, head]
                        )
                    out[(*cell, part)] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return attention.proj(out[top : top + h, left : left + w].reshape(h * w, width))


def full_by_hand(attention: FullAttention, x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    (h, w), heads, d = grid_hw, attention.heads, x.shape[1] // attention.heads
    q, k, v = attention.qkv(x).chunk(3, dim=1)
    outs = []
    for a in range(h * w):
        parts = []
        for head in range(heads):
            part = slice(head * d, head * d + d)
            query = q[a, part] * d**-0.5
            logits = [
                query @ k[b, part]
                + query @ attention.full_attn_rel_pos_h[a // w - b // w + h - 1]
                + query @ attention.full_attn_rel_pos_w[a % w - b % w + w - 1]
                for b in range(h * w)
            ]
            parts.append(torch.stack(logits).softmax(0) @ v[:, part])
        outs.append(torch.cat(parts))
    return attention.proj(torch.stack(outs))


def same_with_gradients(attention: nn.Module, by_hand: Any, x: Tensor, grid_hw: tuple[int, int]) -> None:
    cotangent = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(9))
    wanted = dict(attention.named_parameters())
    found = []
    for out in (attention(x, grid_hw), torch.stack([by_hand(attention, one, grid_hw) for one in x])):
        found.append((out, *torch.autograd.grad((out * cotangent).sum(), (x, *wanted.values()))))
    for name, ours, reference in zip(("output", "input", *wanted), *found, strict=True):
        assert_close(ours, reference, atol=1e-9, rtol=1e-9, msg=lambda said, name=name: f"{name}: {said}")
        assert reference.abs().max() > 1e-3, name


@pytest.mark.parametrize("grid_hw", [(4, 8), (5, 3), (2, 1), (3, 3)])  # filled at both ends, less than a window, whole
def test_rotated_windows_are_the_formulas_with_every_gradient(grid_hw: tuple[int, int]) -> None:
    torch.manual_seed(1)
    attention = RotatedWindowAttention(4, 2, window=3).double()
    for p in attention.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(1, grid_hw[0] * grid_hw[1], 4, dtype=torch.float64, requires_grad=True)
    same_with_gradients(attention, rotated_windows_by_hand, x, grid_hw)


def test_full_attention_is_the_formula_with_every_gradient() -> None:
    torch.manual_seed(2)
    attention = FullAttention(VitRvsaConfig(width=4, heads=2, image_size=64)).double()
    for p in attention.parameters():
        nn.init.normal_(p, std=0.5)
    attention.full_attn_rel_pos_h = nn.Parameter(torch.randn(5, 2, dtype=torch.float64))
    attention.full_attn_rel_pos_w = nn.Parameter(torch.randn(9, 2, dtype=torch.float64))
    x = torch.randn(2, 15, 4, dtype=torch.float64, requires_grad=True)
    same_with_gradients(attention, full_by_hand, x, (3, 5))
    plain = FullAttention(VitRvsaConfig(width=4, heads=2, image_size=64, full_rel_pos=False)).double()
    plain.load_state_dict(attention.state_dict(), strict=False)
    with torch.no_grad():
        attention.full_attn_rel_pos_h.zero_()
        attention.full_attn_rel_pos_w.zero_()
    assert_close(plain(x, (3, 5)), attention(x, (3, 5)))


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 192), (240, 112), (32, 32)])
@pytest.mark.parametrize("config", [TINY, LAST, PLAIN], ids=["blocks", "last", "none"])
def test_maps_of_any_size_have_the_promised_strides_and_finite_gradients(
    config: VitRvsaConfig, size_hw: tuple[int, int]
) -> None:
    vit, image = drawn(config), torch.randn(1, 3, *size_hw)
    maps = vit(image)
    height, width = size_hw
    assert [m.shape for m in maps] == [(1, 16, height // s.stride, width // s.stride) for s in vit.specs]
    sum(m.square().mean() for m in maps).backward()
    for name, p in vit.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name  # noqa: PT018


def test_another_size_is_the_model_with_resized_tables() -> None:
    """What a forward does for one image is what `resize_state` does once and for all."""
    vit, image = drawn(TINY), torch.randn(1, 3, 128, 128)
    native = TINY.model_copy(update={"image_size": 128}).build().eval()
    state, resized = native.resize_state(vit.state_dict())
    assert len(resized) == 5  # positions, and two tables in each of two blocks
    native.load_state_dict(state)
    for ours, theirs in zip(vit(image), native(image), strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_resized_table_of_distances_keeps_its_own_size_and_meets_the_bicubic_kernel() -> None:
    table = torch.randn(5, 3)
    assert resize_rel_pos(table, 5) is table
    # Halfway between rows 1 and 2 of 10 -> 5: (-3, 19, 19, -3) / 32 with the kernel's a = -3/4
    wide = torch.randn(10, 3)
    a = -0.75
    near, far = ((a + 2) * 0.5 - (a + 3)) * 0.25 + 1, ((a * 1.5 - 5 * a) * 1.5 + 8 * a) * 1.5 - 4 * a
    expected = far * wide[1] + near * wide[2] + near * wide[3] + far * wide[4]
    assert_close(resize_rel_pos(wide, 5)[1], expected)


def test_recomputing_gives_the_same_numbers_also_with_dropped_paths() -> None:
    config = TINY.model_copy(update={"drop_path": 0.5})
    image, grads = torch.randn(2, 3, 64, 96), []
    for recompute in (False, True):
        vit = drawn(config.model_copy(update={"recompute": recompute})).train()
        torch.manual_seed(4)
        sum(m.square().mean() for m in vit(image)).backward()
        grads.append({name: p.grad for name, p in vit.named_parameters()})
    assert_close(grads[0], grads[1])


def test_tokens_are_those_of_the_map_and_a_part_of_the_patches_is_refused() -> None:
    image = torch.randn(2, 3, 64, 48)
    for config in (TINY, LAST, PLAIN):
        vit = drawn(config)
        assert isinstance(vit, TokenBackbone)
        tokens = vit.tokens(image)
        assert tokens.grid_hw == (4, 3)
        assert (tokens.class_token, tokens.registers) == (None, None)
        assert torch.equal(tokens.map, vit(image)[2 if config.pyramid == "last" else -1]) or config is TINY
        assert torch.equal(vit.layers(image, [-1])[0].patches, tokens.before_norm)
    with pytest.raises(UserError, match="whole grid") as raised:
        drawn(TINY).tokens(image, torch.zeros(2, 3, dtype=torch.long))
    assert "task.vrl.drop_at=tokens" in str(raised.value)


def test_it_sits_in_a_vision_language_model_that_may_not_drop_patches_before_it() -> None:
    config = VitRvsaConfig(
        width=32, depth=2, heads=2, interval=2, out_indices=(1,), image_size=64, pyramid="none", drop_path=0.0
    )
    sizes = {"tiling": Tiling(size=64, max_tiles=4), "backbone": config}
    task = toy_vlm.build(**sizes)
    samples = [toy_vlm.sample(size=64)]
    task_loss(task, task.collator(samples)).loss.backward()
    idle = [name for name, p in task.backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    dropping = toy_vlm.build("paper", **sizes)
    task_loss(dropping, dropping.collator(samples)).loss.backward()
    before = toy_vlm.build(Vrl(drop_at="patches"), **sizes)
    with pytest.raises(UserError, match="whole grid"):
        before(before.collator(samples))


@pytest.mark.parametrize("parts", [(), ("q", "v")])
def test_adapters_change_nothing_at_first_and_then_learn(parts: tuple[Any, ...]) -> None:
    vit, image = drawn(TINY), torch.randn(1, 3, 64, 96)
    before = vit(image)
    for p in vit.parameters():
        p.requires_grad_(False)
    layers: list[Any] = [block.attn.qkv for block in vit.blocks]
    for layer in layers:
        adapt([layer], Lora(rank=2, parts=parts), "qkv")
    assert_close(vit(image), before)
    sum(m.square().mean() for m in vit(image)).backward()
    assert all(layer.lora_B.grad.abs().sum() > 0 for layer in layers)
    assert all(vit.layer_of(f"blocks.{i}.attn.qkv.lora_A")[0] == i + 1 for i in range(4))


def test_layers_of_parameters_are_those_of_their_roles() -> None:
    vit = LAST.build()
    found = {name: vit.layer_of(name) for name in vit.state_dict()}
    assert {depth for _, depth in found.values()} == {4}
    assert {name for name, (layer, _) in found.items() if layer == 0} == {
        "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    }  # fmt: skip
    top = {name.partition(".")[0] for name, (layer, _) in found.items() if layer == 5}
    assert top == {"fpn1", "fpn2", "norm"}
    assert all(layer == int(n.split(".")[1]) + 1 for n, (layer, _) in found.items() if n.startswith("blocks."))


def test_bfloat16_stays_near_float32_under_autocast_and_as_weights() -> None:
    vit, image = drawn(TINY), torch.randn(1, 3, 176, 176)
    exact = vit(image)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = vit(image)
    for ours, reference in zip((*mixed, *vit.bfloat16()(image.bfloat16())), (*exact, *exact), strict=True):
        apart = (ours.float() - reference).norm() / reference.norm()
        assert apart < 0.05


def test_images_that_do_not_fit_are_refused_with_what_does() -> None:
    with pytest.raises(UserError, match="50 x 64"):
        drawn(TINY)(torch.zeros(1, 3, 50, 64))
    with pytest.raises(UserError, match="nothing at stride 32"):
        drawn(TINY)(torch.zeros(1, 3, 16, 64))
    assert [m.shape for m in drawn(PLAIN)(torch.zeros(1, 3, 16, 64))] == [(1, 16, 1, 4)] * 4


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"heads": 5}, "does not divide width"),
        ({"image_size": 100}, "does not divide image_size"),
        ({"out_indices": (3, 5, 7)}, "to the last block"),
        ({"out_indices": (7, 11)}, "four levels"),
        ({"out_indices": (5, 3, 7, 11)}, "to the last block"),
        ({"patch": 14, "image_size": 448}, "quarter of patch"),
    ],
)
def test_settings_that_do_not_fit_are_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VitRvsaConfig(**bad)
