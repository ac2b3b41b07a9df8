"""A ViT-Adapter around timm's ViTs: their blocks run as timm runs them, their weights find their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig
from vistruct.backbones.vit_adapter import VitAdapter, VitAdapterConfig
from vistruct.checkpoint.weights import load_backbone
from vistruct.errors import UserError

VITS = ("test_vit", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224")


def adapter(name: str, **settings: Any) -> VitAdapter:
    torch.manual_seed(0)
    options = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 16}
    config = VitAdapterConfig(
        vit=TimmConfig(name=name, options=options), groups=((0, 0), (1, 1)), heads=4, conv_width=8, **settings
    )
    built = config.build().eval()
    with torch.no_grad():
        for p in built.vit.parameters():  # ty: ignore[unresolved-attribute]
            p.normal_(std=0.1)
    return built


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", VITS)
def test_where_nothing_is_injected_its_tokens_are_timm_s_and_all_of_it_learns(name: str, recompute: bool) -> None:
    model, seen = adapter(name, injector_scale=0.0, recompute=recompute), []
    vit: Any = model.vit
    model.interactions[-1].register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    image = torch.randn(2, 3, 64, 96)
    maps = model(image)
    assert [m.shape[2:] for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert_close(seen[0], vit.tokens(image).patches, atol=1e-5, rtol=1e-4)
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_public_weights_and_those_of_a_run_find_their_place(tmp_path: Path) -> None:
    first = adapter("vit_small_patch14_reg4_dinov2")
    own: dict[str, Tensor] = first.vit.state_dict()  # ty: ignore[unresolved-attribute]
    save_file({k.removeprefix("model."): v for k, v in own.items()}, tmp_path / "public.safetensors")
    save_file({f"backbone.{k}": v for k, v in first.state_dict().items()}, tmp_path / "run.safetensors")
    fresh = adapter("vit_small_patch14_reg4_dinov2")
    report = load_backbone(fresh, tmp_path / "public.safetensors")
    assert (report.missing, report.unexpected, len(report.matched)) == ((), (), len(own))
    assert all(not name.startswith("vit.") for name in report.fresh)
    report = load_backbone(fresh, tmp_path / "run.safetensors")
    assert (report.missing, report.unexpected, report.fresh) == ((), (), ())
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in first.state_dict().items())
    assert fresh.layer_of("vit.model.blocks.1.norm1.weight") == (2, 2)
    assert fresh.layer_of("spm.conv2.0.weight") == (3, 2)


def test_windows_hide_their_filling_and_are_refused_beside_registers() -> None:
    model = adapter("vit_base_patch16_siglip_224", window=3, global_blocks=())
    x = torch.randn(2, 9, 64)
    is_real = torch.ones(2, 9, dtype=torch.bool)
    is_real[:, 6:] = False
    whole = model.vit.block(0, x, None, is_real)[:, :6]
    assert_close(whole, model.vit.block(0, x[:, :6], None, None), atol=1e-5, rtol=1e-4)
    assert model(torch.randn(1, 3, 64, 64))[2].shape == (1, 64, 4, 4)
    with pytest.raises(UserError, match="windows have no class token"):
        adapter("test_vit", window=3)(torch.randn(1, 3, 64, 64))
    with pytest.raises(UserError, match="intern_vit or timm"):
        VitAdapterConfig(vit=TimmConfig(name="test_resnet")).build()
