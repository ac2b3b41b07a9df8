"""Oriented detection on DOTA-v2.0 (18 classes) from a backbone pretrained with MTP: Oriented R-CNN, one scale.

Run:      vistruct train mtp.dota_v2 --data data/DOTA --model rvsa_l --backbone mtp_l_encoder.pth --devices 4
          vistruct predict runs/mtp.dota_v2 data/DOTA/test-dev/images --format dota      (Task1.zip for the server)
Needs:    published: 2 A40 of 2 images each. DOTA-v2.0 as published: train and val with images
          and labelTxt
Expect:   published figures on test-dev come from the server and are not repeated here
Source:   MTP (arXiv:2403.13430), `oriented_rcnn_*_dota20` of its public code: 40 epochs of 4,389 steps of 4 windows, a
          tenth of the rate after 24, 32 and 38; flips and no rotation
Differs:  it trains on train and val and watches val, which it knows by heart; `--split train` leaves val to be
          measured. As `mtp.detection` and `mtp.fine_tuning`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import DOTA_2_0
from vistruct.recipes.mtp import detection
from vistruct.recipes.mtp.fine_tuning import BOX_RATES, Downstream, recipe_for, step_schedule, tiny_for
from vistruct.samples.made_scenes import dota_folder


def data(root: Path, split: str, size: int) -> tuple[BoxDataConfig, dict[str, Eval]]:
    return detection.oriented_windows(
        root,
        split,
        format="dota",
        classes=DOTA_2_0,
        size=size,
        tiles=detection.cut(size),
        augment=detection.FLIPS,
    )


SET = Downstream(
    name="mtp.dota_v2",
    size=1024,
    split="train+val",
    batch=4,
    steps=40 * 4389,
    rates=BOX_RATES,
    data=data,
    task=detection.oriented_rcnn,
    schedule=step_schedule(40, (24, 32, 38)),
)
recipe = recipe_for(SET)
tiny = tiny_for(SET, dota_folder, size=96)
