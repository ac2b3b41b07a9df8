"""Horizontal detection in radar images (SARDet-100K, 6 classes) from a ViT-L pretrained with ViTP: Cascade R-CNN.

Run:      vistruct train vitp.sardet100k --data data/SARDet_100K --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. SARDet-100K as published: Annotations/*.json, JPEGImages/*/
Expect:   published 57.9 AP in the README of the code, 59.7 in the paper
Source:   ViTP (arXiv:2509.17562), `vitp_sardet100k_cascade_rcnn` of its public code
Differs:  the paper says 800 pixels for radar images, the configuration 1024, and so does this. The public code
          watches the test set while training. As `vitp.detection`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.boxes import BoxDataConfig
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.recipes.vitp import detection
from vistruct.samples.made_scenes import coco_folder
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Size


def recipe(
    *,
    data: Path,  # the folder of SARDet-100K
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 1024,  # pixels that both sides are stretched to
    lr: float = 1e-5,
    steps: int | None = None,  # None: 12 epochs of the 94,493 training images
    seed: int = 0,
) -> Run:
    """Cascade R-CNN on SARDet-100K, trained on train, measured on test."""
    train = BoxDataConfig(
        annotation=data,
        format="coco",
        split="train",
        resize=Size(height=size, width=size, keep_aspect=False),
        augment=Augment(hflip=True),
    )
    return detection.published(
        "vitp.sardet100k",
        train=train,
        test=train.model_copy(update={"split": "test", "augment": None, "as_written": True}),
        metric=CocoBoxesConfig(max_detections=100),
        head=CascadeRcnnConfig(),
        backbone=backbone,
        image_size=size,
        images=94_493,
        lr=lr,
        layer_decay=0.95,
        steps=steps,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on three made-up scenes in the layout of SARDet-100K."""
    data = coco_folder(("ship", "aircraft"), "Annotations", "JPEGImages/{split}", masks=False)
    return detection.tiny(recipe(data=data, size=96, steps=6))
