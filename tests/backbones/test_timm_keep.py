"""Some of the patches through timm's ViTs: beside timm's own run in which the others are hidden from attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from vistruct.backbones.timm_model import TimmConfig, TimmModel
from vistruct.contracts import DataInfo, Sample
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import PatchDecoderConfig
from vistruct.tasks.masked import MaskedConfig

NARROW = {"embed_dim": 64, "depth": 2, "num_heads": 2}
VITS = (
    "test_vit",  # a class token with a position
    "vit_small_patch14_reg4_dinov2",  # registers without
    "vit_small_patch16_dinov3",  # rotary positions
    "vit_base_patch16_siglip_224",  # no class token
    "eva02_tiny_patch14_224",  # learned and rotary positions
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_mixed_224",  # rotary positions that every block and head learns
    "vit_base_patch16_rope_reg1_gap_256",  # registers and no class token
    "vit_pe_core_tiny_patch16_384",  # a norm before the blocks
)


def build(name: str, **settings: Any) -> TimmModel:
    torch.manual_seed(0)
    narrow = {} if name.startswith("test_") else NARROW
    model = TimmConfig(name=name, final_norm=True, options=narrow, **settings).build().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.1)
    return model


def drawn(model: TimmModel, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 3 x 4 patches, and so many of the patches of each, in any order."""
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 3 * model.patch, 4 * model.patch, generator=draw)
    return image, torch.stack([torch.randperm(12, generator=draw)[:keep] for _ in range(2)])


def gathered(patches: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))


@pytest.mark.parametrize("name", VITS)
def test_what_is_left_out_is_as_hidden_from_attention(name: str) -> None:
    model = build(name)
    image, keep = drawn(model, 5)
    found = model.tokens(image, keep)
    first = int(model.model.num_prefix_tokens)
    seen = torch.ones(2, first + 12, dtype=torch.bool)
    seen[:, first:] = torch.zeros(2, 12, dtype=torch.bool).scatter(1, keep, value=True)
    whole, _ = model.model.forward_intermediates(image, attn_mask=seen[:, None, None])
    assert_close(found.patches, gathered(whole[:, first:], keep), atol=1e-4, rtol=1e-4)
    assert found.grid_hw is None
    if found.class_token is not None:
        assert_close(found.class_token, whole[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VITS)
def test_all_patches_in_any_order_are_the_whole_image(name: str) -> None:
    model = build(name)
    image, keep = drawn(model, 12)
    assert_close(model.tokens(image, keep).patches, gathered(model.tokens(image).patches, keep), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_no_images_and_recomputing(name: str) -> None:
    model, again = build(name), build(name, recompute=True)
    image, keep = drawn(model, 3)
    assert model.tokens(image[:0], keep[:0]).patches.shape == (0, 3, 64)
    assert model.layers(image[:0], [0])[0].map.shape == (0, 64, 3, 4)
    for one in (model, again):
        one.tokens(image, keep).patches.square().sum().backward()
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert_close(p.grad, q.grad)


def test_a_beit_says_that_it_takes_all_patches() -> None:
    with pytest.raises(UserError, match="takes all patches"):
        build("beit_base_patch16_224").tokens(torch.randn(1, 3, 224, 224), torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_hidden_pixels_are_learned_over_it(name: str) -> None:
    torch.manual_seed(0)
    backbone = TimmConfig(name=name, options={} if name == "test_vit" else NARROW)
    decoder = PatchDecoderConfig(width=32, depth=1, heads=2)
    model = MaskedConfig(backbone=backbone, decoder=decoder).build(DataInfo(channels=3), Path())
    ramp = (torch.arange(64)[:, None] * 2 + torch.arange(64)).to(torch.uint8).expand(3, -1, -1)
    batch = model.collator([Sample(id=f"{i}", image_id=f"{i}", seed=i, images=[ramp]) for i in range(4)])
    optim, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(12):
        loss = model(batch).terms["pixels"] / model.units(batch)["pixels"]
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert [n for n, p in model.backbone.named_parameters() if p.grad is None] == []
