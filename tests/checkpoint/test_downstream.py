"""Published models of backbone and head in one file: the names of the mm toolboxes, into a whole task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.checkpoint.whole import load_start
from vistruct.contracts import DataInfo
from vistruct.errors import UserError
from vistruct.heads.linear import LinearConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.tasks.segment import SegmentConfig


def task(*, classes: int = 3, channels: int = 3, head: Any = None, fusion: Any = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    vit = InternVitConfig(
        width=32, depth=2, heads=2, mlp_width=48, patch=16, image_size=64, layer_scale=0.1, channels=channels
    )
    config = SegmentConfig(
        kind="segment" if fusion is None else "change",
        backbone=VitAdapterConfig(vit=vit, groups=((0, 0), (1, 1)), heads=2, conv_width=8),
        head=head or UperNetConfig(channels=8),
        fusion=fusion,
        mean=(0.5,),
        std=(0.25,),
    )
    names = tuple(f"class {i}" for i in range(classes))
    return config.build(DataInfo(class_names=names, channels=channels), Path()).eval()


def published(source: Any) -> dict[str, Tensor]:
    """What mmseg would have written of this model, with what else lies in such files."""
    state = {}
    for key, value in source.state_dict().items():
        part, _, name = key.partition(".")
        if part == "backbone":
            name = name.removeprefix("vit.").removeprefix("encoder.")
        state[f"{'decode_head' if part == 'head' else part}.{name}"] = torch.rand_like(value.float())
    return state | {"auxiliary_head.conv_seg.weight": torch.rand(3, 4, 1, 1)}


@pytest.mark.parametrize("fusion", [None, "concat"])
def test_every_tensor_of_a_published_model_finds_its_place(fusion, tmp_path):
    state = published(task(fusion=fusion))
    save_file(state, tmp_path / "x.safetensors")
    model = task(fusion=fusion, seed=1)
    coverage = load_start(model, tmp_path / "x.safetensors")
    assert set(coverage.matched) == set(model.state_dict())
    assert coverage.unexpected == ("auxiliary_head.conv_seg.weight",)
    own = model.state_dict()
    assert torch.equal(own["head.fpn_bottleneck.conv.weight"], state["decode_head.fpn_bottleneck.conv.weight"])
    blocks = "layers.1.mlp.fc1.weight"
    assert torch.equal(own[f"backbone.vit.encoder.{blocks}"], state[f"backbone.{blocks}"])
    assert torch.equal(own["backbone.spm.fc1.weight"], state["backbone.spm.fc1.weight"])
    assert "model from" in coverage.lines()[0]


def test_a_pickle_as_mmengine_writes_it_is_read(tmp_path):
    torch.save({"meta": {"epoch": 3}, "state_dict": published(task())}, tmp_path / "x.pth")
    model = task(seed=1)
    assert set(load_start(model, tmp_path / "x.pth").matched) == set(model.state_dict())


def test_its_kernels_are_inflated_to_other_channels(tmp_path):
    save_file(published(task()), tmp_path / "x.safetensors")
    coverage = load_start(task(channels=4), tmp_path / "x.safetensors")
    kernels = ("backbone.spm.stem.0.weight", "backbone.vit.embeddings.patch_embedding.weight")
    assert coverage.inflated == kernels


def test_another_number_of_classes_is_refused(tmp_path):
    save_file(published(task()), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="conv_seg"):
        load_start(task(classes=4), tmp_path / "x.safetensors")


def test_a_file_without_a_head_is_refused(tmp_path):
    state = {k: v for k, v in published(task()).items() if k.startswith("backbone.")}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="nothing of its head fits this one: there are no tensors of one"):
        load_start(task(), tmp_path / "x.safetensors")


def test_a_head_that_reads_no_published_weights_is_refused(tmp_path):
    save_file(published(task()), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="Linear reads no published weights"):
        load_start(task(head=LinearConfig()), tmp_path / "x.safetensors")
