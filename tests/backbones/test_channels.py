"""Images of other channels than three: what is built, and weights of three colours that are inflated to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import nn
from transformers import InternVLVisionConfig

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.backbones.intern_image import InternImageConfig
from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.backbones.vit_rvsa import VitRvsaConfig
from vistruct.checkpoint.public import write_backbone
from vistruct.checkpoint.verify import verify_backbone
from vistruct.checkpoint.weights import load_backbone
from vistruct.config import Part
from vistruct.errors import UserError


def vit(channels: int = 3, **values: Any) -> InternVitConfig:
    sizes = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48, "patch": 16, "image_size": 64}
    return InternVitConfig.model_validate(sizes | values | {"channels": channels})


def adapter(channels: int = 3) -> VitAdapterConfig:
    groups = ((0, 0), (1, 1))
    return VitAdapterConfig(vit=vit(channels), groups=groups, heads=2, conv_width=8, dropout=0.0, drop_path=0.0)


def convnext(channels: int = 3) -> TimmConfig:
    return TimmConfig(name="test_convnext", channels=channels)


def intern_image(channels: int = 3) -> InternImageConfig:
    return InternImageConfig(width=8, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), layer_scale=0.5, channels=channels)


def rvsa(channels: int = 3) -> VitRvsaConfig:
    return VitRvsaConfig(
        width=16, depth=2, heads=2, interval=2, out_indices=(1,), pyramid="last", image_size=64, channels=channels
    )


def eva_vit(channels: int = 3) -> EvaVitConfig:
    return EvaVitConfig(width=16, depth=2, heads=2, mlp_width=32, patch=16, image_size=64, channels=channels)


def eva(channels: int = 3) -> TimmConfig:
    return TimmConfig(name="test_vit", channels=channels, image_size=64)


KINDS = {
    "vit": vit,
    "conv": lambda channels=3: vit(channels, stem="conv"),
    "adapter": adapter,
    "convnext": convnext,
    "timm_vit": eva,
    "intern_image": intern_image,
    "rvsa": rvsa,
    "eva_vit": eva_vit,
}
KERNELS = {
    "vit": {"embeddings.patch_embedding.weight"},
    "conv": {"embeddings.patch_embedding.convs.0.weight"},
    "adapter": {"spm.stem.0.weight", "vit.embeddings.patch_embedding.weight"},
    "convnext": {"model.stem.0.weight"},
    "timm_vit": {"model.patch_embed.proj.weight"},
    "intern_image": {"patch_embed.conv1.weight"},
    "rvsa": {"patch_embed.proj.weight"},
    "eva_vit": {"patch_embed.proj.weight"},
}


def built(part: Part, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config: Any = part
    return config.build().eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 4, 13])
def test_images_of_these_channels_give_the_maps_of_the_specs(kind, channels):
    backbone = built(KINDS[kind](channels))
    found = backbone(torch.randn(2, channels, 64, 64))
    assert [m.shape[1:] for m in found] == [(s.channels, 64 // s.stride, 64 // s.stride) for s in backbone.specs]
    assert backbone.traits.channels == channels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_weights_of_three_colours_are_inflated_as_timm_does_and_it_is_said(kind, channels, tmp_path):
    source = built(KINDS[kind](), seed=1)
    save_file(source.state_dict(), tmp_path / "x.safetensors")
    backbone = built(KINDS[kind](channels), seed=2)
    coverage = load_backbone(backbone, tmp_path / "x.safetensors")
    assert (set(coverage.inflated), coverage.resized, coverage.missing) == (KERNELS[kind], (), ())
    assert f"{len(KERNELS[kind])} inflated from 3 channels: {min(KERNELS[kind])}" in "\n".join(coverage.lines())
    total = len(source.state_dict())
    assert f"{total} of {total} tensors" in coverage.lines()[0]
    for name, value in backbone.state_dict().items():
        theirs = source.state_dict()[name]
        assert torch.equal(value, adapt_input_conv(channels, theirs) if name in KERNELS[kind] else theirs), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 6, 9])
def test_a_grey_image_gives_what_it_gave(kind, channels, tmp_path):
    """Of whole turns of the colours and of their sum; other numbers of channels weigh one colour more."""
    source = built(KINDS[kind](), seed=1)
    save_file(source.state_dict(), tmp_path / "x.safetensors")
    backbone = built(KINDS[kind](channels), seed=2)
    load_backbone(backbone, tmp_path / "x.safetensors")
    grey = torch.randn(1, 1, 64, 64)
    before, after = source(grey.expand(-1, 3, -1, -1)), backbone(grey.expand(-1, channels, -1, -1))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, atol=1e-3, rtol=1e-3)


def test_the_same_channels_are_not_inflated(tmp_path):
    save_file(built(vit(4), seed=1).state_dict(), tmp_path / "x.safetensors")
    coverage = load_backbone(built(vit(4), seed=2), tmp_path / "x.safetensors")
    assert (coverage.inflated, coverage.resized) == ((), ())


def test_a_kernel_can_be_resized_and_inflated_and_counts_once(tmp_path):
    source = built(vit(patch=8), seed=1)
    save_file(source.state_dict(), tmp_path / "x.safetensors")
    backbone = built(vit(4), seed=2)
    coverage = load_backbone(backbone, tmp_path / "x.safetensors")
    kernel = "embeddings.patch_embedding.weight"
    assert coverage.inflated == (kernel,)
    assert kernel in coverage.resized
    assert len(coverage.matched) + len({*coverage.resized, *coverage.inflated}) == len(source.state_dict())
    old = source.embeddings.patch_embedding.weight
    expected = nn.functional.interpolate(old[:, [0, 1, 2, 0]] * 3 / 4, (16, 16), mode="bicubic")
    torch.testing.assert_close(backbone.embeddings.patch_embedding.weight, expected)


@pytest.mark.parametrize("channels", [3, 5])
def test_weights_of_other_channels_than_three_are_refused(channels, tmp_path):
    save_file(built(vit(4)).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="another shape") as caught:
        load_backbone(built(vit(channels)), tmp_path / "x.safetensors")
    assert "channels" in caught.value.fix


def test_a_fresh_adapter_around_inflated_weights_is_named_as_such(tmp_path):
    save_file(built(vit()).state_dict(), tmp_path / "x.safetensors")
    coverage = load_backbone(built(adapter(4)), tmp_path / "x.safetensors")
    assert coverage.inflated == ("vit.embeddings.patch_embedding.weight",)
    assert "spm.stem.0.weight" in coverage.fresh


def test_mean_and_deviation_go_with_the_kernels():
    rgb, five, grey = convnext().outline(), convnext(5).outline(), convnext(1).outline()
    assert five.mean == (*rgb.mean, *rgb.mean[:2])
    assert five.std == (*rgb.std, *rgb.std[:2])
    assert grey.mean == pytest.approx((sum(rgb.mean) / 3,))
    assert five.specs == rgb.specs


@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_a_public_layout_keeps_the_channels(layout, tmp_path):
    backbone = built(vit(4))
    write_backbone(tmp_path, backbone.config, backbone.state_dict(), layout, "float32", 1 << 30)
    assert InternVLVisionConfig.from_pretrained(tmp_path).num_channels == 4
    verify_backbone(Path(tmp_path), backbone, layout, "float32")


@pytest.mark.parametrize("config", [InternVitConfig, VitAdapterConfig])
def test_published_models_take_three_channels(config):
    with torch.device("meta"):
        assert config().build().traits.channels == 3
