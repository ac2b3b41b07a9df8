"""Weights of ImageNet, of MTP and of OpenMMLab into an InternImage, and out again: names from what is published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from public_folders import ship_task
from torch import Tensor

from vistruct.backbones.intern_image import SIZES, InternImage, InternImageConfig
from vistruct.checkpoint.export import export
from vistruct.checkpoint.weights import load_backbone
from vistruct.cli.inspect import gather
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.tasks.segment import SegmentConfig

TINY = InternImageConfig(width=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8))
Shapes = dict[str, tuple[int, ...]]


def published(width: int, depths: tuple[int, ...], groups: tuple[int, ...]) -> Shapes:
    """Names and shapes of S, B, L and XL, as their files have them."""

    def layer(name: str, out: int, *rest: int) -> Shapes:
        return {f"{name}.weight": (out, *rest), f"{name}.bias": (out,)}

    half = width // 2
    shapes = layer("patch_embed.conv1", half, 3, 3, 3) | layer("patch_embed.norm1.1", half)
    shapes |= layer("patch_embed.conv2", width, half, 3, 3) | layer("patch_embed.norm2.1", width)
    for stage, (depth, number) in enumerate(zip(depths, groups, strict=True)):
        d = width * 2**stage
        for i in range(depth):
            block = f"levels.{stage}.blocks.{i}"
            shapes |= {f"{block}.gamma1": (d,), f"{block}.gamma2": (d,)}
            shapes |= layer(f"{block}.norm1.0", d) | layer(f"{block}.norm2.0", d)
            shapes |= layer(f"{block}.dcn.dw_conv.0", d, 1, 3, 3) | layer(f"{block}.dcn.dw_conv.1.1", d)
            shapes |= layer(f"{block}.dcn.offset", number * 18, d) | layer(f"{block}.dcn.mask", number * 9, d)
            shapes |= layer(f"{block}.dcn.input_proj", d, d) | layer(f"{block}.dcn.output_proj", d, d)
            shapes |= layer(f"{block}.mlp.fc1", 4 * d, d) | layer(f"{block}.mlp.fc2", d, 4 * d)
        if stage < 3:
            shapes[f"levels.{stage}.downsample.conv.weight"] = (2 * d, d, 3, 3)
            shapes |= layer(f"levels.{stage}.downsample.norm.1", 2 * d)
    return shapes


def classifier(width: int) -> Shapes:
    """What ImageNet's files have above the backbone; `width` is of the last stage."""
    hidden = width * 3 // 2
    norm: Shapes = {f"conv_head.1.0.{name}": (hidden,) for name in ("weight", "bias", "running_mean", "running_var")}
    return norm | {
        "conv_head.0.weight": (hidden, width, 1, 1),
        "conv_head.1.0.num_batches_tracked": (),
        "head.weight": (1000, hidden),
        "head.bias": (1000,),
    }


def weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


OWN = published(16, TINY.depths, TINY.groups)


def check(net: InternImage, state: dict[str, Tensor]) -> None:
    own = net.state_dict()
    assert own.keys() == OWN.keys()
    assert all(torch.equal(value, state[name]) for name, value in own.items())


@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
def test_real_sizes_have_the_published_names_and_shapes(size: Any) -> None:
    config = SIZES[size]
    with torch.device("meta"):
        net = config.build()
    shapes = published(config.width, config.depths, config.groups)
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == sum(p.numel() for p in net.parameters())
    if size == "XL":
        whole = sum(math.prod(s) for n, s in classifier(8 * 192).items() if "running" not in n) + sum(
            math.prod(shape) for shape in shapes.values()
        )
        assert round(whole / 1e6) == 335  # as published


@pytest.mark.parametrize("key", ["model", "state_dict"])
@pytest.mark.parametrize("front", ["", "module.", "backbone."])
def test_a_classifier_of_imagenet_gives_its_backbone_and_its_head_is_named(
    tmp_path: Path, key: str, front: str
) -> None:
    state, head = weights(OWN), weights(classifier(128))
    torch.save({key: {front + n: v for n, v in (state | head).items()}, "epoch": 299}, tmp_path / "internimage.pth")
    net = TINY.build()
    report = load_backbone(net, tmp_path / "internimage.pth")
    check(net, state)
    assert (report.missing, report.fresh, report.resized) == ((), (), ())
    assert set(report.unexpected) == head.keys()
    assert report.lines()[0].endswith(f"{len(OWN)} of {len(OWN)} tensors")
    assert any("not used: conv_head.0.weight" in line for line in report.lines())


@pytest.mark.parametrize("front", ["", "encoder.", "module.encoder."])
def test_files_of_mtp_are_read_whole_and_what_else_is_in_them_is_said(tmp_path: Path, front: str) -> None:
    """`*_encoder.pth` and `*_model.pth`: a state dict beside an optimizer, a schedule and an array of numpy."""
    state = weights(OWN)
    whole = {front + name: value for name, value in state.items()}
    if front:
        beside = front.removesuffix("encoder.")
        whole[f"{beside}semsegdecoder.decode_head.conv_seg.weight"] = torch.ones(2)
        whole[f"{beside}rotdetroiboxhead_fc_cls1.weight"] = torch.ones(2, 2)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=2e-5)
    content = {
        "epoch": 3,
        "iteration": 80_000,
        "state_dict": whole,
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80_000).state_dict(),
        "loss_pretrain": np.array([[1.5, 2.0], [1.0, 0.5]]),
    }
    torch.save(content, tmp_path / "last_internimage_xl_ss_is_rd_pretrn_model.pth")
    net = TINY.build()
    report = load_backbone(net, tmp_path / "last_internimage_xl_ss_is_rd_pretrn_model.pth")
    check(net, state)
    assert (set(report.matched), report.missing, report.unexpected) == (OWN.keys(), (), ())
    assert any("optimizer" in note and "loss_pretrain" in note for note in report.notes)


def test_a_detector_of_openmmlab_gives_its_backbone(tmp_path: Path) -> None:
    state = weights(OWN)
    others = {"neck.lateral_convs.0.conv.weight": torch.ones(3, 3, 1, 1), "bbox_head.retina_cls.weight": torch.ones(2)}
    content = {"meta": {"epoch": 12}, "state_dict": {f"backbone.{n}": v for n, v in state.items()} | others}
    torch.save(content, tmp_path / "epoch_12.pth")
    net = TINY.build()
    assert load_backbone(net, tmp_path / "epoch_12.pth").missing == ()
    check(net, state)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("post_norm", ("false", "true")),
        ("layer_scale", ("null", "1.0e-5")),
        ("center_feature_scale", ("true", "false")),
        ("res_post_norm", ("true", "false")),
    ],
)
def test_weights_of_another_variant_are_refused_with_its_setting(
    tmp_path: Path, field: str, values: tuple[str, str]
) -> None:
    """For no tensor may be left out that the others were trained with."""
    common = {"post_norm": False, "layer_scale": None} if field == "res_post_norm" else {}
    one = TINY.model_copy(update=common)
    other = InternImageConfig.model_validate(one.model_dump() | {field: yaml.safe_load(values[0])})
    for saved, built, value in ((one, other, values[1]), (other, one, values[0])):
        torch.save(saved.build().state_dict(), tmp_path / "x.pth")
        with pytest.raises(UserError, match="the weights") as caught:
            load_backbone(built.build(), tmp_path / "x.pth")
        assert caught.value.fix == f"--set task.backbone.{field}={value}"
        report = load_backbone(saved.build(), tmp_path / "x.pth")
        assert report.missing == report.unexpected == ()


def test_another_reach_than_the_published_one_is_said() -> None:
    with torch.device("meta"):
        right, wrong = SIZES["S"].build(), SIZES["S"].model_copy(update={"offset_scale": 2.0}).build()
        own = SIZES["S"].model_copy(update={"depths": (1, 1, 1, 1), "offset_scale": 3.0}).build()
    assert right.match_state({}) == own.match_state({}) == []
    (said,) = wrong.match_state({})
    assert "published S was trained with 1: --set task.backbone.offset_scale=1" in said


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_an_export_is_a_published_file_and_the_same_model_again(tmp_path: Path, dtype: str) -> None:
    info = DataInfo(class_names=("ground", "ship"))
    task = SegmentConfig(backbone=TINY, head=LinearConfig()).build(info, tmp_path)
    task.backbone.load_state_dict(weights(OWN))
    out = export(ship_task(tmp_path / "model", task, info), tmp_path / "out", format="backbone-original", dtype=dtype)
    read = torch.load(out.path / "model.pth", weights_only=True)  # holds tensors and nothing else
    assert {name: tuple(value.shape) for name, value in read["state_dict"].items()} == OWN
    again = TINY.build().eval()
    report = load_backbone(again, out.path)
    assert (set(report.matched), report.unexpected) == (OWN.keys(), ())
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(task.backbone.eval()(image), again(image), strict=True):
        assert dtype == "bf16" or torch.equal(ours, theirs)
    assert (out.verified.rounding > 0) == (dtype == "bf16")
    assert gather(out.path)["what"] == gather(out.path / "model.pth")["what"]  # `vistruct inspect`
