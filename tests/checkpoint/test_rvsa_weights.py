"""Weights of MTP and of MAE into a VitRvsa, and out again: names written down from what is published."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from public_folders import ship_task
from torch import Tensor
from torch.testing import assert_close

from vistruct.backbones.vit_rvsa import MTP_B, MTP_L, VitRvsa, VitRvsaConfig
from vistruct.checkpoint.export import export
from vistruct.checkpoint.weights import load_backbone
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.tasks.segment import SegmentConfig

TINY = VitRvsaConfig(width=16, depth=4, heads=2, interval=2, out_indices=(0, 1, 2, 3), image_size=64)
Shapes = dict[str, tuple[int, ...]]


def published(
    width: int, depth: int, heads: int, interval: int, side: int, *, rel_pos: bool = True, norm: bool = True
) -> Shapes:
    """Names and shapes of an MTP encoder, as its files have them."""
    d, shapes = width // heads, {"pos_embed": (1, side * side, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        block: Shapes = {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        if i % interval == interval - 1:
            block |= {f"attn.full_attn_rel_pos_{axis}": (2 * side - 1, d) for axis in "hw" if rel_pos}
        else:
            block |= {f"attn.rel_pos_{axis}": (13, d) for axis in "hw"}
            block |= {"attn.relative_position_bias_table": (169, heads), "attn.relative_position_index": (49, 49)}
            for name, number in (("offsets", 2), ("scales", 2), ("angles", 1)):
                block[f"attn.sampling_{name}.2.weight"] = (number * heads, width, 1, 1)
                block[f"attn.sampling_{name}.2.bias"] = (number * heads,)
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    for name in ("fpn1.0", "fpn1.3", "fpn2.0"):
        shapes |= {f"{name}.weight": (width, width, 2, 2), f"{name}.bias": (width,)}
    shapes |= {"fpn1.1.ln.weight": (width,), "fpn1.1.ln.bias": (width,)}
    return shapes | ({"norm.weight": (width,), "norm.bias": (width,)} if norm else {})


def weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    index = TINY.build().state_dict()["blocks.0.attn.relative_position_index"]
    made = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    return made | {name: index for name in shapes if name.endswith("relative_position_index")}


def training_file(path: Path, state: dict[str, Tensor]) -> Path:
    """As MTP's training writes both of its files."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=6e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80_000)
    torch.save(
        {
            "epoch": 3,
            "iteration": 80_000,
            "state_dict": state,
            "optimizer": optimizer.state_dict(),
            "scheduler": schedule.state_dict(),
            "loss_pretrain": np.array([[1.5, 2.0], [1.0, 0.5]]),
        },
        path,
    )
    return path


def mae(width: int, depth: int, side: int) -> dict[str, Tensor]:
    """A plain ViT with a class token, and the decoder that it was trained with."""
    plain = {
        name: value
        for name, value in weights(published(width, depth, 2, 1, side, rel_pos=False)).items()
        if not name.startswith("fpn")
    }
    return plain | {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 1 + side * side, width),
        "mask_token": torch.randn(1, 1, 8),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
    }


@pytest.mark.parametrize(
    ("config", "shapes", "millions"),
    [
        (MTP_B, published(768, 12, 12, 3, 14, norm=False), 93.3),
        (MTP_L, published(1024, 24, 16, 6, 28, norm=False), 318.2),
        (
            MTP_B.model_copy(update={"full_rel_pos": False, "pyramid": "last", "image_size": 800}),
            published(768, 12, 12, 3, 50, rel_pos=False),
            None,
        ),
    ],
    ids=["B", "L", "B for detection from the last block"],
)
def test_real_sizes_have_the_published_names_and_shapes(
    config: VitRvsaConfig, shapes: Shapes, millions: float | None
) -> None:
    with torch.device("meta"):
        vit = config.build()
    assert {name: tuple(value.shape) for name, value in vit.state_dict().items()} == shapes
    number = sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith("_index"))
    assert number == sum(p.numel() for p in vit.parameters())
    assert millions in (None, round(number / 1e6, 1))  # published: 93.3 and 318


@pytest.mark.parametrize("front", ["", "module.", "encoder.", "module.encoder.", "backbone."])
def test_a_published_file_is_read_whole_and_the_rest_of_it_is_named(tmp_path: Path, front: str) -> None:
    state = weights(published(16, 4, 2, 2, 4))
    whole = {f"{front}{name}": value for name, value in state.items()}
    if front.endswith(("encoder.", "backbone.")):
        beside = front.removesuffix("encoder.").removesuffix("backbone.")
        whole[f"{beside}semsegdecoder.decode_head.conv_seg.weight"] = torch.ones(2)
    vit = TINY.build()
    report = load_backbone(vit, training_file(tmp_path / "x_model.pth", whole))
    own = vit.state_dict()
    assert set(report.matched) == own.keys()
    assert report.missing == report.fresh == report.resized == ()
    assert report.unexpected == ("norm.bias", "norm.weight")
    assert all(torch.equal(value, own[name]) for name, value in state.items() if not name.startswith("norm."))
    assert any("optimizer" in note and "loss_pretrain" in note for note in report.notes)


def test_tables_of_another_size_are_resized_each_to_its_own_length(tmp_path: Path) -> None:
    state = weights(published(16, 4, 2, 2, 4))
    vit = TINY.model_copy(update={"image_size": 112}).build()
    report = load_backbone(vit, training_file(tmp_path / "x.pth", state))
    tables = [f"blocks.{i}.attn.full_attn_rel_pos_{axis}" for i in (1, 3) for axis in "hw"]
    assert sorted(report.resized) == sorted(["pos_embed", *tables])
    own = vit.state_dict()
    grid = state["pos_embed"].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (7, 7), mode="bicubic", align_corners=False)
    assert_close(own["pos_embed"], grid.flatten(2).transpose(1, 2))
    for name in tables:
        # As an image of one channel, 2 g - 1 high and d wide: the published way, of every table to its own length.
        image = torch.nn.functional.interpolate(state[name][None, None], (13, 8), mode="bicubic", align_corners=False)
        assert_close(own[name], image[0, 0])


def test_what_a_variant_does_not_have_is_fresh_or_not_used(tmp_path: Path) -> None:
    file = training_file(tmp_path / "x.pth", weights(published(16, 4, 2, 2, 4)))
    report = load_backbone(TINY.model_copy(update={"full_rel_pos": False, "pyramid": "none"}).build(), file)
    assert {name.rsplit(".", 1)[-1] for name in report.unexpected if "blocks" in name} == {
        "full_attn_rel_pos_h", "full_attn_rel_pos_w",
    }  # fmt: skip
    assert {name.partition(".")[0] for name in report.unexpected if "blocks" not in name} == {"fpn1", "fpn2", "norm"}
    assert report.missing == report.fresh == ()
    branches = training_file(tmp_path / "y.pth", weights(published(16, 4, 2, 2, 4, rel_pos=False, norm=False)))
    vit = TINY.model_copy(update={"pyramid": "last"}).build()
    report = load_backbone(vit, branches)
    assert {name.rpartition(".")[0] for name in report.fresh} == {"norm", "blocks.1.attn", "blocks.3.attn"}
    assert not vit.state_dict()["blocks.1.attn.full_attn_rel_pos_h"].any()  # neutral: the same function as without


def test_an_mae_gives_its_blocks_and_positions_without_the_class_token(tmp_path: Path) -> None:
    state = mae(16, 4, 4)
    torch.save({"model": state, "epoch": 1599}, tmp_path / "mae.pth")
    vit = TINY.build()
    report = load_backbone(vit, tmp_path / "mae.pth")
    assert torch.equal(vit.state_dict()["pos_embed"], state["pos_embed"][:, 1:])
    assert report.missing == report.resized == ()
    assert {"cls_token", "mask_token", "decoder_blocks.0.norm1.weight", "norm.weight"} <= set(report.unexpected)
    new = set(published(16, 4, 2, 2, 4, norm=False)) - state.keys()
    assert set(report.fresh) == new
    assert any("start from random weights" in line for line in report.lines())
    larger = TINY.model_copy(update={"image_size": 112}).build()
    assert load_backbone(larger, tmp_path / "mae.pth").resized == ("pos_embed",)


@pytest.mark.parametrize(("config", "width", "depth"), [(MTP_B, 768, 12), (MTP_L, 1024, 24)], ids=["ViT-B", "ViT-L"])
def test_an_mae_of_a_real_size_fits_name_by_name(config: VitRvsaConfig, width: int, depth: int) -> None:
    with torch.device("meta"):
        vit, state = config.build(), mae(width, depth, 14)
    state, resized = vit.traits.resize_state(vit.traits.convert_keys(state))
    assert resized == ([] if config is MTP_B else ["pos_embed"])
    own, fresh = vit.state_dict(), vit.traits.fresh_parts(state)
    assert own.keys() - state.keys() == fresh
    assert all(state[name].shape == own[name].shape for name in own.keys() - fresh)


def test_half_of_a_part_is_missing_and_not_fresh(tmp_path: Path) -> None:
    state = weights(published(16, 4, 2, 2, 4))
    del state["blocks.2.attn.sampling_angles.2.weight"]
    with pytest.raises(UserError, match=r"1 of the backbone's .* blocks\.2\.attn\.sampling_angles\.2\.weight"):
        load_backbone(TINY.build(), training_file(tmp_path / "x.pth", state))


def test_a_table_of_places_in_no_square_is_a_question(tmp_path: Path) -> None:
    state = weights(published(16, 4, 2, 2, 4)) | {"pos_embed": torch.zeros(1, 15, 16)}
    with pytest.raises(UserError, match="15 places, which is no square"):
        load_backbone(TINY.build(), training_file(tmp_path / "x.pth", state))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_malicious_file_runs_nothing(tmp_path: Path) -> None:
    state = weights(published(16, 4, 2, 2, 4))
    torch.save({"state_dict": state, "loss_pretrain": Evil(tmp_path / "ran")}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="could run code"):
        load_backbone(TINY.build(), tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def random(config: VitRvsaConfig) -> VitRvsa:
    torch.manual_seed(3)
    vit = config.build()
    for p in vit.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return vit.eval()


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize("pyramid", ["blocks", "last"])
def test_an_export_is_a_published_file_and_the_same_model_again(tmp_path: Path, pyramid: Any, dtype: str) -> None:
    config = TINY.model_copy(update={"pyramid": pyramid})
    info = DataInfo(class_names=("ground", "ship"))
    task = SegmentConfig(backbone=config, head=LinearConfig()).build(info, tmp_path)
    task.backbone.load_state_dict(random(config).state_dict())
    model = ship_task(tmp_path / "model", task, info)
    out = export(model, tmp_path / "out", format="backbone-original", dtype=dtype)
    read = torch.load(out.path / "model.pth", weights_only=True)  # holds tensors and nothing else
    shapes = published(16, 4, 2, 2, 4, norm=pyramid == "last")
    assert {name: tuple(value.shape) for name, value in read["state_dict"].items()} == shapes
    again = config.build().eval()
    report = load_backbone(again, out.path)
    assert set(report.matched) == again.state_dict().keys()
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(task.backbone.eval()(image), again(image), strict=True):
        assert dtype == "bf16" or torch.equal(ours, theirs)
    assert (out.verified.rounding > 0) == (dtype == "bf16")
    plain = export(model, tmp_path / "plain", format="backbone-plain", dtype=dtype).path
    assert json.loads((plain / "backbone.json").read_text())["config"]["kind"] == "vit_rvsa"
    assert load_backbone(config.build(), plain).unexpected == ()
