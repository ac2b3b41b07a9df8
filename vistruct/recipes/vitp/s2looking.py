"""What changed in S2Looking (buildings, seen from aside) from a ViT-L pretrained with ViTP: UPerNet on both maps.

Run:      vistruct train vitp.s2looking --data data/S2Looking --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. S2Looking as published: Image1, Image2 and label in each split
Expect:   published 69.89 F1 of what changed, on test
Source:   ViTP (arXiv:2509.17562), `vitp_s2looking_upernet` of its public code
Differs:  as `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.maps import MapDataConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import s2looking_folder
from vistruct.windows.slide import Slide


def recipe(
    *,
    data: Path,  # folder with train/, val/ and test/, each with Image1/, Image2/ and label/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 512,  # pixels of a crop, and of a window
    lr: float = 2e-5,
    steps: int = 120_000,
    seed: int = 0,
) -> Run:
    """Change detection on S2Looking, trained on train, measured on test."""
    train = MapDataConfig(
        root=data, format="s2looking", split="train", augment=segmentation.varied_pairs(size, degrees=20.0)
    )
    return segmentation.change(
        "vitp.s2looking",
        train=train,
        backbone=backbone,
        size=size,
        lr=lr,
        steps=steps,
        seed=seed,
        batch=8,
        slide=Slide(size=size, overlap=size // 2),
    )


def tiny() -> Run:
    """A few steps on made-up pairs in S2Looking's layout."""
    return segmentation.tiny(recipe(data=s2looking_folder(), size=32, steps=6))
