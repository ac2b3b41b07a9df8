"""What ViTP's published recipes for every pixel share: ViT-Adapter-L and UPerNet; segmentation, change, medical slices.

Source: the segmentation and change configurations of ViTP's public code (arXiv:2509.17562): AdamW without clipping,
    layer-wise rates, drop path 0.1; segmentation 80,000 steps with a cosine after 1,500 steps of warm-up, change
    detection mostly 120,000 with a straight line after 1,000; UPerNet with 512 channels and no auxiliary head, for
    pairs on the maps of both images beside each other.
Differs from all of them: bf16 in place of fp16 with loss scaling (segmentation) and of float32 (change); batch norm
    sees one device's images; layer decay leaves `level_embed` where the public code has it, at the lowest rate, and
    decays neither positions nor other vectors. The README there speaks of a UNet, the configurations of UPerNet: so
    does this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import AdamW, Eval, Part, Run, Schedule
from vistruct.heads.upernet import UperNetConfig
from vistruct.recipes.small import quick, small_adapter
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD
from vistruct.tasks.segment import SegmentConfig
from vistruct.tasks.slide import Slide
from vistruct.tasks.views import Views
from vistruct.transforms.distort import Distort

NARROW = Distort(brightness=10.0, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=10.0)  # of ViTP's change detection


def published(
    name: str,
    *,
    train: Part,
    evals: dict[str, Eval],
    backbone: Path | None,
    image_size: int,
    lr: float,
    seed: int,
    steps: int,
    batch: int,
    shape: Literal["cosine", "poly"] = "cosine",
    warmup_steps: int = 1500,
    weight_decay: float = 0.05,
    layer_decay: float = 0.9,
    width: int = 512,
    pair: bool = False,
    slide: Slide | None = None,
    views: Views | None = None,
    channels: int = 3,
) -> Run:
    """A published run.

    Args:
        image_size: pixels; only says how many positions the ViT learns, and so what a checkpoint's are resized to.
        batch: images in a step, over all devices.
        width: channels of UPerNet.
        pair: what changed between two images, in place of what is seen in one.
        slide: windows in which images are looked at; None: whole.
        channels: of the images; a mean and deviation of 0.5 where they are no colours.
    """
    vit = InternVitConfig(patch=16, image_size=image_size, drop_path=0.1, channels=channels)
    return Run(
        recipe=name,
        task=SegmentConfig(
            kind="change" if pair else "segment",
            backbone=VitAdapterConfig(vit=vit),
            head=UperNetConfig(channels=width),
            fusion="concat" if pair else None,
            size_divisor=32,
            slide=slide,
            views=views,
            mean=IMAGENET_MEAN if channels == 3 else (0.5,),
            std=IMAGENET_STD if channels == 3 else (0.5,),
        ),
        data=train,
        evals=evals,
        init=backbone,
        steps=steps,
        batch=batch,
        optim=AdamW(lr=lr, weight_decay=weight_decay, layer_decay=layer_decay),
        schedule=Schedule(shape=shape, warmup_steps=min(warmup_steps, steps // 2), warmup_from=1e-6),
        clip_norm=None,
        seed=seed,
        workers=4,
        save_every=1000,
    )


def tiny(run: Run) -> Run:
    """The same run made so small that a few steps take seconds on two cores: every part stays what it is."""
    task: Any = run.task
    head = task.head.model_copy(update={"channels": 16})
    return quick(run, {"backbone": small_adapter(task.backbone.vit.channels), "head": head})
