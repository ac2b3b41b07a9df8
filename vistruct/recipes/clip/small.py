"""A CLIP so small that a few steps take seconds on two cores, and small images with captions for it."""

from __future__ import annotations

from vistruct.backbones.eva_vit import EvaVitConfig
from vistruct.checkpoint.clip_layouts import PublicClip
from vistruct.transforms.sizing import Size
from vistruct.vlm.clip import ClipConfig, PoolConfig
from vistruct.vlm.text_tower import TextConfig


def small_clip() -> PublicClip:
    """EVA02-CLIP-E's form, for images of 32 pixels."""
    text = TextConfig(options={"width": 16, "heads": 2, "layers": 2}, width=24)
    return PublicClip(
        backbone=EvaVitConfig(
            width=32, depth=2, heads=2, mlp_width=64, patch=8, image_size=32, post_norm=True, class_token=True
        ),
        clip=ClipConfig(pool=PoolConfig(project="bias"), text=text),
        size=Size(height=32, width=32, middle=1.0, interpolation="bicubic"),
    )
