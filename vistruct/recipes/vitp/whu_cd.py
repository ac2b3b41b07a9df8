"""What changed in WHU-CD (buildings of one town) from a ViT-L pretrained with ViTP: UPerNet on the maps of both images.

Run:      vistruct train vitp.whu_cd --data data/WHU-CD --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. WHU-CD in patches of 256 pixels: A, B, label and list/
Expect:   published 94.98 F1 of what changed, on test
Source:   ViTP (arXiv:2509.17562), `vitp_whu_upernet` of its public code
Differs:  the public code watches the test set while training; so does this, once, at the end. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.maps import MapDataConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import whu_folder


def recipe(
    *,
    data: Path,  # folder with A/, B/, label/ and list/{train,val,test}.txt; or with train/, val/ and test/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 256,  # pixels of an image
    lr: float = 2e-5,
    steps: int = 120_000,
    seed: int = 0,
) -> Run:
    """Change detection on WHU-CD, trained on train, measured on test."""
    augment = segmentation.varied_pairs(size, degrees=20.0)
    train = MapDataConfig(root=data, format="change_folders", split="train", augment=augment)
    return segmentation.change("vitp.whu_cd", train=train, backbone=backbone, size=size, lr=lr, steps=steps, seed=seed)


def tiny() -> Run:
    """A few steps on made-up pairs in WHU-CD's layout."""
    return segmentation.tiny(recipe(data=whu_folder(), size=32, steps=6))
