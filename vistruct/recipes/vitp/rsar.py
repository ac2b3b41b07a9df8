"""Oriented detection in radar images (RSAR, 6 classes) from a ViT-L pretrained with ViTP: Oriented R-CNN.

Run:      vistruct train vitp.rsar --data data/RSAR --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. RSAR as published: train, val and test with images and annfiles
Expect:   published 72.31 mAP50 (11-point) on test
Source:   ViTP (arXiv:2509.17562), `vitp_rsar_orcnn` of its public code
Differs:  images are stretched to 800 x 800 as published, but boxes are stretched with them: the public code scales
          their sides by one number and leaves the angle alone. It watches the test set while training, this measures
          there once, at the end. As `vitp.detection`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import RSAR
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.recipes.vitp import detection
from vistruct.samples.made_scenes import dota_folder
from vistruct.transforms.sizing import Size

ROUND = ("tank",)


def recipe(
    *,
    data: Path,  # folder with train/, val/ and test/, each with images/ and annfiles/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    test_split: str = "test",
    size: int = 800,  # pixels that both sides are stretched to
    lr: float = 2.5e-5,
    steps: int | None = None,  # None: 12 epochs of the 78,837 training images
    seed: int = 0,
) -> Run:
    """Oriented R-CNN on RSAR, trained on train, measured on test."""
    train = BoxDataConfig(
        annotation=data,
        format="dota",
        split="train",
        classes=RSAR,
        resize=Size(height=size, width=size, keep_aspect=False),
        augment=detection.turned(RSAR, ROUND),
    )
    return detection.published(
        "vitp.rsar",
        train=train,
        test=train.model_copy(update={"split": test_split, "augment": None, "as_written": True}),
        metric=OrientedBoxesConfig(rule="11-point", thresholds=(0.5,), rules="mmrotate", difficult="count"),
        head=OrientedRcnnConfig(),
        backbone=backbone,
        image_size=size,
        images=78_837,
        lr=lr,
        layer_decay=0.95,
        steps=steps,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on three made-up scenes in RSAR's layout."""
    data = dota_folder(("ship", "aircraft"), labels="annfiles")
    return detection.tiny(recipe(data=data, test_split="val", size=96, steps=6))
