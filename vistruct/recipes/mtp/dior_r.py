"""Oriented detection on DIOR-R (20 classes) from a backbone pretrained with MTP: Oriented R-CNN.

Run:      vistruct train mtp.dior_r --data data/DIOR --model rvsa_l --backbone mtp_l_encoder.pth --devices 4
Needs:    published: 4 accelerators of 8.1 to 8.7 GB. The folder of DIOR as published, with its
          oriented xml
Expect:   published mAP50 (11-point) on test, without MTP -> with it: rvsa_b 68.06 -> 71.29, rvsa_l 70.54
          -> 74.54, intern_xl 71.14 -> 72.17
Source:   MTP (arXiv:2403.13430), `oriented_rcnn_*_diorr` of its public code: 12 epochs of 2,932 steps of 4 images
Differs:  as `mtp.detection` and `mtp.fine_tuning`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import DIOR_R
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.recipes.mtp import detection
from vistruct.recipes.mtp.fine_tuning import BOX_RATES, Downstream, recipe_for, tiny_for
from vistruct.samples.made_scenes import dior_folder
from vistruct.transforms.sizing import Size

METRIC = OrientedBoxesConfig(rule="11-point", thresholds=(0.5,), rules="mmrotate", difficult="count")


def data(root: Path, split: str, size: int) -> tuple[BoxDataConfig, dict[str, Eval]]:
    resize = Size(height=size, width=size)
    train = BoxDataConfig(
        annotation=root, format="dior_r", split=split, classes=DIOR_R, resize=resize, augment=detection.FLIPS
    )
    return detection.whole_images(train, METRIC)


SET = Downstream(
    name="mtp.dior_r",
    size=800,
    split="train+val",
    batch=4,
    steps=12 * 2932,
    rates=BOX_RATES,
    data=data,
    task=detection.oriented_rcnn,
    schedule=detection.TWELVE_EPOCHS,
)
recipe = recipe_for(SET)
tiny = tiny_for(SET, dior_folder, size=96)
