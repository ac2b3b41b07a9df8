"""A sweep over timm's families: the promised maps, gradients, layers and weights; no network."""

from __future__ import annotations

import math
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig, TimmModel
from vistruct.checkpoint.weights import load_backbone
from vistruct.engine.optim import layer_factor
from vistruct.errors import UserError

# name, an image size that is not the model's own, strides
FAMILIES = [
    ("test_resnet", (72, 100), (4, 8, 16, 32)),
    ("test_convnext", (64, 96), (4, 8, 16, 32)),
    ("test_efficientnet", (72, 100), (4, 8, 16, 32)),
    ("test_nfnet", (65, 97), (4, 8, 16, 32)),
    ("test_byobnet", (65, 97), (4, 8, 16, 32)),
    ("test_vit", (80, 48), (16,)),
    ("test_vit3", (80, 48), (16,)),
    ("swin_tiny_patch4_window7_224", (64, 100), (4, 8, 16, 32)),
    ("eva02_tiny_patch14_224", (56, 84), (14,)),
    ("vit_small_patch14_reg4_dinov2", (56, 84), (14,)),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a backbone went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def build(name: str, **values: object) -> TimmModel:
    torch.manual_seed(0)
    return TimmConfig.model_validate({"name": name, **values}).build()


@pytest.mark.parametrize(("name", "size_hw", "strides"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_every_family_gives_the_maps_it_promises_and_learns(name, size_hw, strides):
    model = build(name)
    assert tuple(spec.stride for spec in model.specs) == strides
    maps = model(torch.randn(2, 3, *size_hw))
    for level, spec in zip(maps, model.specs, strict=True):
        assert level.shape[:2] == (2, spec.channels)
        for got, side in zip(level.shape[2:], size_hw, strict=True):
            assert got in (side // spec.stride, math.ceil(side / spec.stride))
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    # A weight without a gradient would be dead weight; those behind a gain of zero at the start have one of zero.
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_layer_decay_is_timm_s_own(name):
    own = timm.create_model(name, pretrained=False)
    theirs = {}
    for group in param_groups_layer_decay(own, layer_decay=0.7):
        theirs |= {id(p): group["lr_scale"] for p in group["params"]}
    task = torch.nn.Module()
    task.backbone = build(name)
    known = dict(own.named_parameters())
    ours = {n: layer_factor(task, n, 0.7) for n, _ in task.named_parameters()}
    assert ours == pytest.approx({n: theirs[id(known[n.removeprefix("backbone.model.")])] for n in ours})
    assert len(set(ours.values())) > 3


def test_without_a_classifier_the_last_block_is_still_below_the_head():
    model = build("vit_small_patch14_reg4_dinov2")
    assert model.layer_of("model.blocks.11.norm1.weight") == (12, 12)
    assert model.layer_of("model.pos_embed") == (0, 12)


def test_a_public_file_of_the_model_fits_and_its_classifier_is_not_used(tmp_path):
    torch.manual_seed(1)
    own = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(own.state_dict(), tmp_path / "model.safetensors")
    model = build("test_resnet").eval()
    coverage = load_backbone(model, tmp_path / "model.safetensors")
    assert (coverage.missing, coverage.resized) == ((), ())
    assert all("fc" in name for name in coverage.unexpected)
    image = torch.randn(1, 3, 64, 64)
    for level, theirs in zip(
        model(image)[-2:], own.forward_intermediates(image, intermediates_only=True)[-2:], strict=True
    ):
        assert_close(level, theirs)


def test_positions_of_another_image_size_are_resized_and_named(tmp_path):
    own = timm.create_model("test_vit", pretrained=False)
    save_file(own.state_dict(), tmp_path / "model.safetensors")
    coverage = load_backbone(build("test_vit", image_size=96), tmp_path / "model.safetensors")
    assert coverage.resized == ("model.pos_embed",)
    assert coverage.missing == ()


def test_our_own_names_load_again(tmp_path):
    first = build("test_convnext")
    save_file({f"backbone.{k}": v for k, v in first.state_dict().items()}, tmp_path / "x.safetensors")
    again = build("test_convnext")
    torch.nn.init.zeros_(again.model.stem[0].weight)
    coverage = load_backbone(again, tmp_path / "x.safetensors")
    assert (coverage.missing, coverage.unexpected) == ((), ())
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_maps_can_be_chosen_and_what_lies_beyond_them_is_gone():
    model, every = build("test_resnet", out_indices=(1, 3)), build("test_resnet")
    assert [spec.stride for spec in model.specs] == [4, 16]
    assert len(list(model.parameters())) < len(list(every.parameters()))
    blocks = build("test_vit", out_indices=(1, 3, 5))(torch.randn(1, 3, 64, 64))
    assert [m.shape for m in blocks] == [(1, 64, 4, 4)] * 3


def test_recomputing_gives_the_same_gradients():
    image, grads = torch.randn(1, 3, 64, 64), []
    for recompute in (False, True):
        model = build("test_vit", recompute=recompute).train()
        sum(m.square().sum() for m in model(image)).backward()
        grads.append([p.grad for p in model.parameters()])
    for kept, again in zip(*grads, strict=True):
        assert_close(again, kept)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_an_outline_says_what_the_model_is_without_weights(name):
    outline, model = TimmConfig(name=name).outline(), build(name)
    assert (outline.specs, outline.mean, outline.std) == (model.specs, model.mean, model.std)


def test_mean_and_std_are_those_of_the_public_weights():
    model = build("test_resnet")
    assert model.mean == pytest.approx(timm.create_model("test_resnet").pretrained_cfg["mean"])
    assert len(model.std) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet5O"}, "did you mean 'resnet50'"),
        ({"name": "hf-hub:timm/resnet50"}, "no model"),
        ({"name": ""}, "no model"),
        ({"name": "test_resnet", "out_indices": (1, 9)}, "stride 32"),
        ({"name": "test_resnet", "out_indices": (3, 1)}, "in order"),
        ({"name": "test_resnet", "image_size": 64}, "img_size"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        TimmConfig.model_validate(values).build()


@pytest.mark.parametrize("name", ["test_vit", "levit_128s"])
def test_a_size_that_does_not_fit_is_named(name):
    with pytest.raises(UserError, match="does not take an image of 72 x 80 pixels"):
        build(name)(torch.zeros(1, 3, 72, 80))
