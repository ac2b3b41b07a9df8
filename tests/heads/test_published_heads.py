"""Weights under the names of the mm toolboxes in our necks and heads: the outputs of their layers, from their formulas.

Each `mm_...` is what the toolbox computes from its own tensors, written with torch's functions alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import roi_align

from vistruct.contracts import FeatureSpec
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.oriented_roi import OrientedRoiConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.ops.oriented import cxcywha_to_quads
from vistruct.ops.roi_align_rotated import roi_align_rotated

C, K, STRIDES = 6, 3, (4, 8)  # channels, classes
SPECS = tuple(FeatureSpec(channels=C, stride=stride) for stride in STRIDES)
RATIOS = (0.5, 1.0, 2.0)
State = dict[str, Tensor]


def conv(state: State, name: str, out: int, inp: int, kernel: int = 1) -> None:
    state[f"{name}.weight"] = torch.randn(out, inp, kernel, kernel) * 0.5 / (inp**0.5 * kernel)
    state[f"{name}.bias"] = torch.randn(out) * 0.3


def linear(state: State, name: str, out: int, inp: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(out, inp) * 0.2, torch.randn(out) * 0.3


def through(state: State, name: str, x: Tensor, **options: Any) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, **options)


def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, C, 8, 12), torch.randn(2, C, 4, 6)]


def loaded(head: Any, state: Mapping[str, Tensor]) -> Any:
    """With all tensors of the file, and all of the head's from there."""
    head.load_state_dict(head.traits.convert_keys(dict(state) | {"auxiliary_head.conv_seg.weight": torch.ones(1)}))
    return head.eval()


def flat(maps: list[Tensor], numbers: int) -> Tensor:
    """As the toolboxes read what a cell says: [B, h, w, anchors * numbers] -> rows."""
    return torch.cat([one.permute(0, 2, 3, 1).reshape(len(one), -1, numbers) for one in maps], dim=1)


def mm_anchors(maps: list[Tensor], scales: list[float], strides: tuple[int, ...]) -> Tensor:
    """AnchorGenerator with center_offset 0 and scale_major: sizes ratio by ratio, the scales of each together."""
    rows = []
    for one, stride in zip(maps, strides, strict=True):
        root = torch.tensor(RATIOS).sqrt()
        w = (stride / root[:, None] * torch.tensor(scales)).flatten()
        h = (stride * root[:, None] * torch.tensor(scales)).flatten()
        base = torch.stack([-w / 2, -h / 2, w / 2, h / 2], dim=1)
        y, x = torch.meshgrid(torch.arange(one.shape[2]), torch.arange(one.shape[3]), indexing="ij")
        shift = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4) * stride
        rows.append((base + shift).view(-1, 4))
    return torch.cat(rows)


def mm_boxes(boxes: Tensor, deltas: Tensor, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """DeltaXYWHBBoxCoder."""
    dx, dy, dw, dh = (deltas * torch.tensor(stds)).unbind(-1)
    px, py = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    pw, ph = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y, w, h = px + pw * dx, py + ph * dy, pw * dw.exp(), ph * dh.exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)


def mm_rpn_state(numbers: int) -> State:
    state: State = {}
    conv(state, "rpn_head.rpn_conv", C, C, 3)
    conv(state, "rpn_head.rpn_cls", len(RATIOS), C)
    conv(state, "rpn_head.rpn_reg", numbers * len(RATIOS), C)
    return state


def mm_rpn(state: State, maps: list[Tensor], numbers: int) -> tuple[Tensor, Tensor]:
    seen = [through(state, "rpn_head.rpn_conv", one).relu() for one in maps]
    scores = flat([through(state, "rpn_head.rpn_cls", one) for one in seen], 1)[..., 0]
    return scores, flat([through(state, "rpn_head.rpn_reg", one) for one in seen], numbers)


def mm_roi_state(regression: int, front: str = "roi_head.bbox_head", width: int = 10, size: int = 7) -> State:
    state: State = {}
    linear(state, f"{front}.shared_fcs.0", width, C * size**2)
    linear(state, f"{front}.shared_fcs.1", width, width)
    linear(state, f"{front}.fc_cls", K + 1, width)
    linear(state, f"{front}.fc_reg", regression, width)
    return state


def mm_roi(state: State, pooled: Tensor, front: str = "roi_head.bbox_head") -> tuple[Tensor, Tensor]:
    x = pooled.flatten(1)  # channel by channel, row by row
    for i in (0, 1):
        x = through(state, f"{front}.shared_fcs.{i}", x).relu()
    return through(state, f"{front}.fc_cls", x), through(state, f"{front}.fc_reg", x)


def mm_pooled(maps: list[Tensor], rois: Tensor, size: int, sampling: int = 0) -> Tensor:
    """SingleRoIExtractor: the level by the root of the area, from 56 * 2^i at strides 4 * 2^i; RoIAlign, aligned."""
    scale = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
    level = (scale / 56 + 1e-6).log2().floor().clamp(0, len(maps) - 1)
    read = [
        roi_align(one[:1], [rois], size, 1 / stride, sampling, aligned=True)
        for one, stride in zip(maps, STRIDES, strict=True)
    ]
    return torch.stack([read[int(k)][i] for i, k in enumerate(level)])


ROIS = torch.tensor([[1.0, 2.0, 30.0, 20.0], [0.0, 0.0, 120.0, 110.0], [7.0, 3.0, 9.0, 25.0]])


@torch.no_grad()
@pytest.mark.parametrize("config", [FpnConfig(channels=C), FpnConfig(channels=C, skip=1, extra="conv", extra_levels=2)])
def test_a_pyramid(config):
    torch.manual_seed(0)
    widths = (3, 4, 5)
    specs = tuple(FeatureSpec(channels=width, stride=4 * 2**i) for i, width in enumerate(widths))
    state: State = {}
    used = widths[config.skip :]
    for i, width in enumerate(used):
        conv(state, f"lateral_convs.{i}.conv", C, width)
        conv(state, f"fpn_convs.{i}.conv", C, C, 3)
    if config.extra == "conv":
        conv(state, f"fpn_convs.{len(used)}.conv", C, widths[-1], 3)
        conv(state, f"fpn_convs.{len(used) + 1}.conv", C, C, 3)
    neck = config.build(specs)
    neck.load_state_dict(neck.traits.convert_keys(state))
    maps = [torch.randn(1, width, 16 // 2**i, 16 // 2**i) for i, width in enumerate(widths)]
    inner = [through(state, f"lateral_convs.{i}.conv", one) for i, one in enumerate(maps[config.skip :])]
    for i in range(len(inner) - 1, 0, -1):
        inner[i - 1] = inner[i - 1] + F.interpolate(inner[i], size=inner[i - 1].shape[2:], mode="nearest")
    outs = [through(state, f"fpn_convs.{i}.conv", one) for i, one in enumerate(inner)]
    if config.extra == "conv":  # add_extra_convs="on_input", start_level=1
        outs.append(through(state, f"fpn_convs.{len(used)}.conv", maps[-1], stride=2))
        outs.append(through(state, f"fpn_convs.{len(used) + 1}.conv", outs[-1], stride=2))
    else:
        outs.append(F.max_pool2d(outs[-1], 1, stride=2))
    for ours, theirs in zip(neck(maps), outs, strict=True):
        assert_close(ours, theirs)


@torch.no_grad()
def test_proposals_are_scored_and_moved_anchor_by_anchor():
    torch.manual_seed(0)
    state = mm_rpn_state(4) | mm_roi_state(4 * K)
    head = loaded(FasterRcnnConfig(roi=RoiConfig(width=10)).build(SPECS, K), state)
    out = head(maps := levels())
    scores, deltas = mm_rpn(state, maps, 4)
    assert_close(out.objectness, scores)
    assert_close(out.deltas, deltas)
    anchors = mm_anchors(maps, [8.0], STRIDES)
    assert float((out.anchors - anchors).abs().max()) <= 0.5  # ours have whole pixels: the one thing that differs
    assert_close(head.rpn.kind.decode(anchors, out.deltas[0]), mm_boxes(anchors, deltas[0]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("agnostic", [False, True])
def test_a_second_look_at_boxes(agnostic):
    torch.manual_seed(0)
    state = mm_rpn_state(4) | mm_roi_state(4 if agnostic else 4 * K)
    config = FasterRcnnConfig(roi=RoiConfig(width=10, sampling=0), class_agnostic=agnostic)
    head = loaded(config.build(SPECS, K), state)
    maps = levels()
    logits, deltas = head.roi(maps, 0, ROIS)
    scores, moves = mm_roi(state, mm_pooled(maps, ROIS, 7))
    assert_close(logits, scores)  # the background last
    assert_close(deltas, moves)
    moves = moves.view(len(ROIS), -1, 4)  # class by class
    expected = torch.stack([mm_boxes(ROIS, moves[:, k], (0.1, 0.1, 0.2, 0.2)) for k in range(moves.shape[1])], dim=1)
    h, w = 400, 500
    expected = expected.clamp(min=0).minimum(torch.tensor([w, h, w, h]))
    assert_close(head.roi.move(ROIS, deltas, (h, w)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_look_of_a_cascade():
    torch.manual_seed(0)
    state = mm_rpn_state(4)
    for k in range(3):
        state |= mm_roi_state(4, f"roi_head.bbox_head.{k}")
    head = loaded(CascadeRcnnConfig(roi=RoiConfig(width=10, sampling=0)).build(SPECS, K), state)
    pooled = mm_pooled(maps := levels(), ROIS, 7)
    for k, look in enumerate(head.looks):
        ours, theirs = look(maps, 0, ROIS), mm_roi(state, pooled, f"roi_head.bbox_head.{k}")
        assert_close(ours, theirs)


@torch.no_grad()
def test_the_mask_of_each_class():
    torch.manual_seed(0)
    state, front = mm_rpn_state(4) | mm_roi_state(4 * K), "roi_head.mask_head"
    for i, width in enumerate((C, 5)):
        conv(state, f"{front}.convs.{i}.conv", 5, width, 3)
    state[f"{front}.upsample.weight"], state[f"{front}.upsample.bias"] = torch.randn(5, 5, 2, 2) * 0.3, torch.randn(5)
    conv(state, f"{front}.conv_logits", K, 5)
    box = FasterRcnnConfig(roi=RoiConfig(width=10, sampling=0))
    head = loaded(MaskRcnnConfig(box=box, mask_width=5, mask_convs=2).build(SPECS, K), state)
    maps, labels = levels(), torch.tensor([2, 0, 1])
    x = mm_pooled(maps, ROIS, 14)
    for i in (0, 1):
        x = through(state, f"{front}.convs.{i}.conv", x).relu()
    x = F.conv_transpose2d(x, state[f"{front}.upsample.weight"], state[f"{front}.upsample.bias"], stride=2).relu()
    expected = through(state, f"{front}.conv_logits", x)[torch.arange(3), labels]
    assert expected.shape == (3, 28, 28)
    assert_close(head._mask_logits(head(maps), 0, ROIS, labels), expected)
    assert_close(head(maps).objectness, mm_rpn(state, maps, 4)[0])


@torch.no_grad()
def test_retinanet_anchor_by_anchor_and_class_by_class():
    torch.manual_seed(0)
    state: State = {}
    for i in range(4):
        conv(state, f"bbox_head.cls_convs.{i}.conv", C, C, 3)
        conv(state, f"bbox_head.reg_convs.{i}.conv", C, C, 3)
    conv(state, "bbox_head.retina_cls", 9 * K, C, 3)
    conv(state, "bbox_head.retina_reg", 9 * 4, C, 3)
    head = loaded(RetinaConfig().build(SPECS, K), state)
    out = head(maps := levels())
    found = []
    for branch, last, numbers in (("cls_convs", "retina_cls", K), ("reg_convs", "retina_reg", 4)):
        seen = maps
        for i in range(4):
            seen = [through(state, f"bbox_head.{branch}.{i}.conv", one).relu() for one in seen]
        found.append(flat([through(state, f"bbox_head.{last}", one) for one in seen], numbers))
    assert_close(out.logits, found[0])
    assert_close(out.deltas, found[1])
    anchors = mm_anchors(maps, [4 * 2 ** (k / 3) for k in range(3)], STRIDES)
    assert float((out.anchors - anchors).abs().max()) <= 0.5 + 1e-4
    decoded = head.coder.decode_single(out.deltas[0], anchors)
    assert_close(decoded, mm_boxes(anchors, found[1][0]), rtol=1e-4, atol=1e-4)


def same_quads(ours: Tensor, theirs: Tensor) -> None:
    """Four corners each, from whichever the list begins and in whichever direction."""
    turns = [theirs.view(-1, 4, 2).roll(k, dims=1) for k in range(4)]
    ways = torch.stack(turns + [turn.flip(1) for turn in turns])  # [8, N, 4, 2]
    assert float((ways - ours.view(1, -1, 4, 2)).abs().amax(dim=(2, 3)).amin(dim=0).max()) < 1e-2


@torch.no_grad()
def test_oriented_proposals_touch_their_hulls_where_the_published_ones_do():
    torch.manual_seed(0)
    state = mm_rpn_state(6) | mm_roi_state(5)
    head = loaded(OrientedRcnnConfig(roi=OrientedRoiConfig(width=10)).build(SPECS, K), state)
    out = head(maps := levels())
    scores, deltas = mm_rpn(state, maps, 6)
    assert_close(out.objectness, scores)
    assert_close(out.deltas, deltas)
    anchors = mm_anchors(maps, [8.0], STRIDES)
    assert_close(out.anchors, anchors)
    moves = deltas[0] * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    hull = mm_boxes(anchors, moves[:, :4])
    x, y = (hull[:, 0] + hull[:, 2]) / 2, (hull[:, 1] + hull[:, 3]) / 2
    w, h = hull[:, 2] - hull[:, 0], hull[:, 3] - hull[:, 1]
    at_top, at_right = moves[:, 4].clamp(-0.5, 0.5) * w, moves[:, 5].clamp(-0.5, 0.5) * h
    corners = torch.stack(  # about the centre: on the top side, the right, the bottom, the left
        [torch.stack([at_top, -h / 2], 1), torch.stack([w / 2, at_right], 1)], dim=1
    )
    corners = torch.cat([corners, -corners], dim=1)  # [N, 4, 2]
    length = corners.norm(dim=2, keepdim=True)
    quads = corners * (length.amax(dim=1, keepdim=True) / length) + torch.stack([x, y], dim=1)[:, None]
    same_quads(cxcywha_to_quads(head.rpn.kind.decode(anchors, out.deltas[0])), quads.flatten(1))


@torch.no_grad()
def test_a_second_look_at_oriented_boxes():
    torch.manual_seed(0)
    state = mm_rpn_state(6) | mm_roi_state(5)
    head = loaded(OrientedRcnnConfig(roi=OrientedRoiConfig(width=10)).build(SPECS, K), state)
    maps = levels()
    rois = torch.tensor([[20.0, 14.0, 30.0, 8.0, 0.4], [24.0, 16.0, 20.0, 10.0, -1.2], [15.0, 12.0, 9.0, 8.0, 1.5]])
    logits, deltas = head.roi(maps, 0, rois)
    pooled = roi_align_rotated(maps[0][:1], F.pad(rois, (1, 0)), (7, 7), spatial_scale=1 / 4, sampling_ratio=2)
    scores, moves = mm_roi(state, pooled)
    assert_close(logits, scores)
    assert_close(deltas, moves)
    dx, dy, dw, dh, da = (moves * torch.tensor([0.1, 0.1, 0.2, 0.2, 0.1])).unbind(1)
    px, py, pw, ph, pa = rois.unbind(1)
    x = dx * pw * pa.cos() - dy * ph * pa.sin() + px  # proj_xy
    y = dx * pw * pa.sin() + dy * ph * pa.cos() + py
    w, h, a = pw * dw.exp(), ph * dh.exp(), pa + da
    a, w, h = torch.where(w > h, a, a + math.pi / 2), torch.maximum(w, h), torch.minimum(w, h)  # edge_swap
    a = (a + math.pi / 2) % math.pi - math.pi / 2  # le90
    expected = torch.stack([x, y, w, h, a], dim=1)
    assert_close(head.roi.move(rois, deltas, (100, 100))[:, 0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_upernet():
    torch.manual_seed(0)
    specs = (FeatureSpec(channels=3, stride=4), FeatureSpec(channels=4, stride=8))
    config, front = UperNetConfig(channels=C, bins=(1, 2)), "decode_head"
    state: State = {}

    def block(name: str, inp: int, kernel: int) -> None:
        state[f"{name}.conv.weight"] = torch.randn(C, inp, kernel, kernel) * 0.3
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{key}"] = torch.rand(C) + 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def run(name: str, x: Tensor) -> Tensor:
        bn = [state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        weight = state[f"{name}.conv.weight"]
        return F.batch_norm(F.conv2d(x, weight, padding=weight.shape[-1] // 2), *bn).relu()

    def scaled(x: Tensor, to: Tensor) -> Tensor:
        return F.interpolate(x, to.shape[2:], mode="bilinear", align_corners=False)

    for i in range(2):
        block(f"{front}.psp_modules.{i}.1", 4, 1)
    block(f"{front}.bottleneck", 4 + 2 * C, 3)
    block(f"{front}.lateral_convs.0", 3, 1)
    block(f"{front}.fpn_convs.0", C, 3)
    block(f"{front}.fpn_bottleneck", 2 * C, 3)
    conv(state, f"{front}.conv_seg", K, C)
    head = loaded(config.build(specs, K), state)
    fine, coarse = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
    pooled = [run(f"{front}.psp_modules.{i}.1", F.adaptive_avg_pool2d(coarse, bins)) for i, bins in enumerate((1, 2))]
    top = run(f"{front}.bottleneck", torch.cat([coarse, *(scaled(one, coarse) for one in pooled)], dim=1))
    side = run(f"{front}.lateral_convs.0", fine)
    side = run(f"{front}.fpn_convs.0", side + scaled(top, side))
    x = run(f"{front}.fpn_bottleneck", torch.cat([side, scaled(top, side)], dim=1))
    assert_close(head([fine, coarse]), through(state, f"{front}.conv_seg", x), rtol=1e-4, atol=1e-4)
