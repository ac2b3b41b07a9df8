"""The parts of the published family together, tiny: CLIP below its last layer, padding, nine parts, a tower of maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_pointing import POINTING, pointing, squares
from toy_vlm import gradients

from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import Trainable
from vistruct.engine.trainable import apply_rules, set_train_mode
from vistruct.transforms.crop import crop
from vistruct.vlm.clip import CLIP_MEAN, CLIP_STD
from vistruct.vlm.region_tokens import RegionTokensConfig
from vistruct.vlm.tiling import Tiling

CLIP = TimmConfig(
    name="vit_large_patch14_clip_quickgelu_336",
    image_size=84,
    out_indices=(1,),
    options={"embed_dim": 24, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0},
)
TOWER = TimmConfig(name="convnext_large", options={"depths": (1, 1, 1, 1), "dims": (6, 8, 10, 12)})


def family(style: str) -> Any:
    regions = RegionTokensConfig(style=style)
    return pointing(
        backbone=CLIP,
        shuffle=1,
        projector_norm=False,
        tiling=Tiling(size=84, max_tiles=1, fit="pad", fill=(122, 116, 104)),
        mean=CLIP_MEAN,
        std=CLIP_STD,
        pointing=POINTING.model_copy(update={"regions": regions, "tower": TOWER, "tower_size": 64}),
    )


@pytest.mark.parametrize("style", ["pooled", "published"])
def test_it_learns_with_its_towers_frozen(style: str) -> None:
    task = family(style)
    plan = apply_rules(
        task, (Trainable(pattern="backbone", mode="frozen"), Trainable(pattern="pointing.tower", mode="frozen"))
    )
    set_train_mode(task, plan)
    wide = squares("a", 1, 2)
    high, wide_px = wide.images[0].shape[1:]
    wide = crop(wide, (0, 0, wide_px, high - 10), min_kept=0.0)
    assert len(wide.objects) == len(squares("a", 1, 2).objects)
    batch = task.collator([wide, squares("b", 2, 3)])
    assert batch.tiles.shape == (2, 3, 84, 84)
    assert batch.pointed.pictures.shape == (2, 3, 64, 64)
    seen = task.backbone(torch.zeros(1, 3, 84, 84))[0]
    assert seen.grad_fn is None
    found = gradients(task, [batch])
    moving = {".".join(name.split(".")[: 1 + name.startswith("pointing.")]) for name in found}
    assert moving == {"language", "projector", "pointing.regions", "pointing.decoders"}
    assert batch.pointed.frames[0].corner_yx == (5, 0)
