"""Segmentation of UAVid (8 classes, drone images of 4K) from a ViT-L pretrained with ViTP: UPerNet on a ViT-Adapter.

Run:      vistruct train vitp.uavid --data data/UAVid --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
          vistruct predict runs/vitp.uavid data/UAVid/uavid_test --format uavid --flip horizontal --scale 0.5 ...
Needs:    8 GPUs. UAVid as published: sequences with Images and Labels
Expect:   published 73.39 mIoU on test, from the server, in 6 scales and flipped
Source:   ViTP (arXiv:2509.17562), `vitp_uavid_upernet` of its public code
Differs:  the published evaluation shrinks 3840 x 2160 to 1024 x 576, which is smaller than its window and stops it;
          here images are looked at in full size, in windows. It trains on train and val and watches val: here val is
          measured where `--split train` leaves it out. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import uavid_folder


def recipe(
    *,
    data: Path,  # folder with uavid_train/ and uavid_val/, or train/ and val/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    split: str = "train+val",  # train: val is then measured on
    size: int = 768,  # pixels of a crop, and of a window
    base: int = 1024,  # pixels that an image's longer side is brought to before it is varied
    lr: float = 1e-5,
    steps: int = 80_000,
    seed: int = 0,
) -> Run:
    """UPerNet on UAVid."""
    return segmentation.scenes(
        "vitp.uavid",
        data=data,
        format="uavid",
        split=split,
        backbone=backbone,
        fit=base,
        size=size,
        overlap=size // 3,
        lr=lr,
        steps=steps,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on made-up sequences in UAVid's layout."""
    return segmentation.tiny(recipe(data=uavid_folder(), split="train", size=64, base=96, steps=6))
