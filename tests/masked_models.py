"""Small models of the task `masked`, and batches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.contracts import DataInfo, Sample
from vistruct.heads.patch_decoder import PatchDecoderConfig
from vistruct.tasks.masked import Masked, MaskedConfig
from vistruct.tasks.masked_batches import MaskedBatch

SMALL = PatchDecoderConfig(width=16, depth=2, heads=2, norm_eps=1e-12)


def vit(stem: Literal["patch", "conv"] = "patch", channels: int = 3) -> InternVitConfig:
    return InternVitConfig(
        width=24, depth=2, heads=2, mlp_width=48, patch=8, image_size=32, stem=stem, layer_scale=1.0, norm_eps=1e-12,
        channels=channels,
    )  # fmt: skip


def task(channels: int = 3, **settings: Any) -> Masked:
    torch.manual_seed(0)
    config = MaskedConfig(
        **{"backbone": vit(channels=channels), "decoder": SMALL, "mean": (0.5,), "std": (0.25,)} | settings
    )
    return config.build(DataInfo(channels=channels), Path())


def batch_of(model: Masked, count: int = 3, side: int = 32, channels: int = 3) -> MaskedBatch:
    draw = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (channels, side, side), generator=draw, dtype=torch.uint8) for _ in range(count)]
    return model.collator([Sample(id=f"{i}", image_id=f"{i}", seed=i, images=[one]) for i, one in enumerate(images)])


def part_of(batch: MaskedBatch, at: slice) -> MaskedBatch:
    """Some of its samples."""
    return MaskedBatch(**{name: None if one is None else one[at] for name, one in vars(batch).items()})


def same_as_halves(model: Masked, batch: MaskedBatch | None = None) -> None:
    """Loss, units and gradient of a batch are those of its parts together."""
    whole = batch_of(model, 4, channels=model.channels) if batch is None else batch
    parts = [part_of(whole, at) for at in (slice(0, 1), slice(1, len(whole)))]
    (term,) = model.traits.terms
    (loss,) = model(whole).terms.values()
    torch.testing.assert_close(loss, sum(model(one).terms[term] for one in parts))
    assert float(model.units(whole)[term]) == sum(float(model.units(one)[term]) for one in parts) > 0
    found = torch.autograd.grad(loss, list(model.decoder.parameters()), allow_unused=True)
    together = sum(model(one).terms[term] for one in parts)
    expected = torch.autograd.grad(together, list(model.decoder.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
