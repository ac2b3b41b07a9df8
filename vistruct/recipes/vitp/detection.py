"""What ViTP's published detection recipes share: ViT-Adapter-L, the neck, the schedule; and their tiny twins.

Source: the detection configurations of ViTP's public code (arXiv:2509.17562): AdamW with weight decay 0.05, layer-wise
    rates, 500 steps of warm-up from a third of the rate, a tenth of it after epochs 8 and 11 of 12, gradients clipped
    at norm 35, drop path 0.1, a step of 8 images.
Differs from all of them: bf16 in place of fp16 with loss scaling; layer decay leaves `level_embed` where the public
    code has it, at the lowest rate, and decays neither positions nor other vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.vit_adapter import VitAdapterConfig
from vistruct.config import MAIN, AdamW, Eval, Part, Run, Schedule, Stream
from vistruct.data.boxes import BoxDataConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.necks.laterals import LateralsConfig
from vistruct.recipes.small import quick, small_adapter
from vistruct.tasks.dense import DetectConfig
from vistruct.transforms.augment import Augment
from vistruct.windows.views import Views

BATCH = 8  # images in a step: one on each of the published 8 GPUs
Attention = Literal["mmcv", "ddetr"]


def published(
    name: str,
    *,
    train: BoxDataConfig,
    test: BoxDataConfig | None,
    metric: Part,
    head: Part,
    backbone: Path | None,
    image_size: int,
    images: int,
    lr: float,
    layer_decay: float,
    seed: int,
    steps: int | None,
    epochs: int = 12,
    drops: tuple[int, ...] = (8, 11),
    neck: Part | None = None,
    views: Views | None = None,
) -> Run:
    """A published detection run.

    Args:
        image_size: pixels; only says how many positions the ViT learns, and so what a checkpoint's are resized to.
        images: in an epoch, which the schedule is counted in.
        steps: None: the published number of epochs. Drops of the rate move along.
        drops: epochs after which the rate is a tenth of what it was.
    """
    full = round(epochs * images / BATCH)
    steps = full if steps is None else steps
    return Run(
        recipe=name,
        streams={
            MAIN: Stream(
                task=DetectConfig(
                    backbone=VitAdapterConfig(vit=InternVitConfig(patch=16, image_size=image_size, drop_path=0.1)),
                    neck=neck or LateralsConfig(),
                    head=head,
                    size_divisor=32,
                    views=views,
                ),
                data=train,
                batch=BATCH,
            )
        },
        evals={} if test is None else {"test": Eval(data=test, metric=metric)},
        init=backbone,
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=0.05, layer_decay=layer_decay),
        schedule=Schedule(
            shape="step",
            warmup_steps=min(500, steps // 2),
            warmup_from=1 / 3,
            drops_at=tuple(max(1, steps * epoch // epochs) for epoch in drops),
        ),
        clip_norm=35.0,
        seed=seed,
        workers=4,
        save_every=1000,
    )


def turned(class_names: Sequence[str], upright: Sequence[str]) -> Augment:
    """The published variation of images from above: one flip of three or none, half of the time turned by any angle.

    Args:
        upright: classes that are round and drawn upright; an image with one of them is turned by quarters.
    """
    numbers = tuple(class_names.index(name) for name in upright)
    return Augment(hflip=True, vflip=True, dflip=True, flips="one", rotate=0.5, upright_classes=numbers)


def tiny(run: Run) -> Run:
    """The same run made so small that a few steps take seconds on two cores: every part stays what it is."""
    task: Any = run.only.task
    neck = task.neck.model_copy(update={"channels": 16})
    return quick(run, {"backbone": small_adapter(), "neck": neck, "head": narrow(task.head)})


def narrow(head: Any) -> Any:
    """A head of two stages with narrow layers and few proposals."""
    if isinstance(head, MaskRcnnConfig):
        return head.model_copy(update={"box": narrow(head.box), "mask_width": 16, "mask_convs": 1})
    few = {"proposals_train": 64, "proposals_test": 64}
    if isinstance(head, OrientedRcnnConfig):
        few = {"proposals": 64, "candidates": 128}
    rpn, roi = head.rpn.model_copy(update=few), head.roi.model_copy(update={"width": 32, "samples": 64})
    return head.model_copy(update={"rpn": rpn, "roi": roi})
