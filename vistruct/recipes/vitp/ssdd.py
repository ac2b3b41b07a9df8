"""Ships with masks in radar images (SSDD) from a ViT-L pretrained with ViTP: Mask R-CNN on a ViT-Adapter.

Run:      vistruct train vitp.ssdd --data data/SSDD --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. SSDD as published, with masks: annotations/*.json
Expect:   published 70.80 AP of boxes and 65.90 of masks, in two views
Source:   ViTP (arXiv:2509.17562), `vitp_ssdd_orcnn` of its public code, which is Mask R-CNN in spite of its name
Differs:  one class in the heads; the public code has the 80 of COCO. As `vitp.detection`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.boxes import BoxDataConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.metrics.coco import CocoMasksConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.recipes.vitp import detection
from vistruct.samples.made_scenes import coco_folder
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Size
from vistruct.windows.views import Views


def recipe(
    *,
    data: Path,  # the folder of SSDD
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 608,  # pixels that both sides are stretched to
    lr: float = 1e-5,
    steps: int | None = None,  # None: 24 epochs of the 928 training images
    seed: int = 0,
) -> Run:
    """Mask R-CNN on SSDD, trained on train, measured on test as it is and flipped."""
    train = BoxDataConfig(
        annotation=data,
        format="coco",
        split="train",
        masks=True,
        resize=Size(height=size, width=size, keep_aspect=False),
        augment=Augment(hflip=True),
    )
    box = FasterRcnnConfig(
        rpn=RpnConfig(beta=0.0, least_iou=0.3),
        roi=RoiConfig(sampling=0, low_quality=True, beta=0.0),
        max_detections=100,
    )
    return detection.published(
        "vitp.ssdd",
        train=train,
        test=train.model_copy(update={"split": "test", "augment": None, "as_written": True}),
        metric=CocoMasksConfig(max_detections=100),
        head=MaskRcnnConfig(box=box),
        neck=FpnConfig(),
        views=Views(flips=("none", "horizontal")),
        backbone=backbone,
        image_size=size,
        images=928,
        lr=lr,
        layer_decay=0.90,
        steps=steps,
        epochs=24,
        drops=(16, 22),
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on three made-up scenes in the layout of SSDD."""
    data = coco_folder(("ship",), "annotations", "JPEGImages_{split}", masks=True)
    return detection.tiny(recipe(data=data, size=96, steps=6))
