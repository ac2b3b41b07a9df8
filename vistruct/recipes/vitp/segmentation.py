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
from vistruct.config import MAIN, AdamW, Eval, Part, Run, Schedule, Stream
from vistruct.data.maps import MapDataConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.small import quick, small_adapter
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD
from vistruct.tasks.segment import SegmentConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.distort import Distort
from vistruct.windows.slide import Slide
from vistruct.windows.views import Views

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
        streams={
            MAIN: Stream(
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
                batch=batch,
            )
        },
        evals=evals,
        init=backbone,
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=weight_decay, layer_decay=layer_decay),
        schedule=Schedule(shape=shape, warmup_steps=min(warmup_steps, steps // 2), warmup_from=1e-6),
        clip_norm=None,
        seed=seed,
        workers=4,
        save_every=1000,
    )


def scenes(
    name: str,
    *,
    data: Path,
    format: str,
    split: str,
    backbone: Path | None,
    fit: int,
    size: int,
    overlap: int,
    lr: float,
    steps: int,
    seed: int,
    weight_decay: float = 0.05,
) -> Run:
    """A published segmenter of scenes from above: learned from `split`, measured on val where that leaves it out.

    Args:
        fit: pixels that an image's longer side is brought to before it is varied.
        size: pixels of a crop, and of a window; windows overlap by `overlap`.
    """
    train = MapDataConfig(root=data, format=format, split=split, augment=varied_scenes(fit, size))
    val = train.model_copy(update={"split": "val", "augment": None})
    return published(
        name,
        train=train,
        evals={} if "val" in split.split("+") else {"val": Eval(data=val, metric=PixelsConfig())},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=8,
        weight_decay=weight_decay,
        seed=seed,
        slide=Slide(size=size, overlap=overlap),
    )


def varied_scenes(fit: int, size: int) -> Augment:
    """The published variation of scenes: of half to twice the size that fits, a crop, flipped, its colours changed."""
    return Augment(
        fit=(fit, fit),
        scale=(0.5, 2.0),
        scale_draw="even",
        crop=(size, size),
        crop_max_share=0.75,
        hflip=True,
        distort=Distort(),
    )


def change(
    name: str,
    *,
    train: MapDataConfig,
    backbone: Path | None,
    size: int,
    lr: float,
    steps: int,
    seed: int,
    batch: int = 32,
    shape: Literal["cosine", "poly"] = "poly",
    layer_decay: float = 0.9,
    width: int = 512,
    slide: Slide | None = None,
) -> Run:
    """A published change detector: learned from `train`, measured on the split `test` of the same data, whole pairs."""
    test = train.model_copy(update={"split": "test", "augment": None, "tiles": None})
    return published(
        name,
        train=train,
        evals={"test": Eval(data=test, metric=PixelsConfig(positive="changed"))},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=batch,
        shape=shape,
        warmup_steps=1000 if shape == "poly" else 1500,
        layer_decay=layer_decay,
        width=width,
        pair=True,
        seed=seed,
        slide=slide,
    )


def varied_pairs(size: int, *, degrees: float = 180.0, max_share: float = 0.75, exchange: float = 0.5) -> Augment:
    """The published variation of pairs: flipped, half of the time turned, cropped, exchanged, their colours changed.

    Args:
        size: pixels of a crop.
        degrees: that they are turned by at most, either way.
        max_share: most of a crop for one class, else it is drawn again.
        exchange: how often before and after change places.
    """
    return Augment(
        rotate=0.5,
        rotate_range=(-degrees, degrees),
        crop=(size, size),
        crop_max_share=max_share,
        hflip=True,
        vflip=True,
        exchange=exchange,
        distort=NARROW,
    )


def tiny(run: Run) -> Run:
    """The same run made so small that a few steps take seconds on two cores: every part stays what it is."""
    task: Any = run.only.task
    head = task.head.model_copy(update={"channels": 16})
    return quick(run, {"backbone": small_adapter(task.backbone.vit.channels), "head": head})
