"""Oriented detection on FAIR1M-2.0 (37 classes) from a backbone pretrained with MTP: Oriented R-CNN.

Run:      vistruct train mtp.fair1m_v2 --data data/FAIR1M --model rvsa_l --backbone mtp_l_encoder.pth
          vistruct predict runs/mtp.fair1m_v2 data/FAIR1M/test/images --format fair1m    (the xml for the server)
Needs:    published: as `mtp.dior_r`. FAIR1M as published: train and validation with images and
          xml
Expect:   published figures come from the server and are not repeated here
Source:   MTP (arXiv:2403.13430), `oriented_rcnn_*_fair1m20` of its public code for MMRotate 1: 12 epochs of 10,467
          steps. On how many accelerators of one image each is not said: 4 here, as its other detectors
Differs:  how the images were cut is not published: windows of 800 pixels here that share a fifth, cut while training.
          The configuration for MMRotate 0.3.4 turns images with classes 9 and 11 by quarters, which are DOTA's round
          ones and here Boeing777 and Bridge: this one does not. It trains on train and val; `--split train` leaves val
          to be measured. As `mtp.detection` and `mtp.fine_tuning`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import FAIR1M
from vistruct.recipes.mtp import detection
from vistruct.recipes.mtp.fine_tuning import BOX_RATES, Downstream, recipe_for, tiny_for
from vistruct.samples.made_scenes import fair1m_folder


def data(root: Path, split: str, size: int) -> tuple[BoxDataConfig, dict[str, Eval]]:
    tiles, turned = detection.cut(size), detection.FLIPS.model_copy(update={"rotate": 0.5})
    return detection.oriented_windows(
        root, split, format="fair1m", classes=FAIR1M, size=size, tiles=tiles, augment=turned
    )


SET = Downstream(
    name="mtp.fair1m_v2",
    size=800,
    split="train+val",
    batch=4,
    steps=12 * 10_467,
    rates=BOX_RATES,
    data=data,
    task=detection.oriented_rcnn,
    schedule=detection.TWELVE_EPOCHS,
)
recipe = recipe_for(SET)
tiny = tiny_for(SET, fair1m_folder, size=96)
