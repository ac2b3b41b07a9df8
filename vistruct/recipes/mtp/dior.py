"""Horizontal detection on DIOR (20 classes) from a backbone pretrained with MTP: Faster R-CNN.

Run:      vistruct train mtp.dior --data data/DIOR --model rvsa_l --backbone mtp_l_encoder.pth --devices 4
Needs:    published: 4 accelerators of 3.8 (rvsa_b), 8.7 (rvsa_l) or 7.9 GB (intern_xl). The
          folder of DIOR as published, with its horizontal xml
Expect:   published AP50 on test, without MTP -> with it: rvsa_b 75.8 -> 79.0 (79.4 in the paper), rvsa_l
          78.3 -> 81.7, intern_xl 77.1 -> 78.3
Source:   MTP (arXiv:2403.13430), `faster_rcnn_*_dior` of its public code: 12 epochs of 2,932 steps of 4 images
Differs:  the public code reads a COCO json of the same boxes and watches the test set while training; here that is
          measured once, at the end. As `mtp.detection` and `mtp.fine_tuning`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import DIOR
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.recipes.mtp import detection
from vistruct.recipes.mtp.fine_tuning import BOX_RATES, Downstream, recipe_for, tiny_for
from vistruct.samples.made_scenes import dior_folder
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Size


def data(root: Path, split: str, size: int) -> tuple[BoxDataConfig, dict[str, Eval]]:
    resize, flips = Size(height=size, width=size), Augment(hflip=True)
    train = BoxDataConfig(annotation=root, format="dior", split=split, classes=DIOR, resize=resize, augment=flips)
    return detection.whole_images(train, CocoBoxesConfig(max_detections=100))


SET = Downstream(
    name="mtp.dior",
    size=800,
    split="train+val",
    batch=4,
    steps=12 * 2932,
    rates=BOX_RATES,
    data=data,
    task=detection.faster_rcnn,
    schedule=detection.TWELVE_EPOCHS,
)
recipe = recipe_for(SET)
tiny = tiny_for(SET, dior_folder, size=96)
