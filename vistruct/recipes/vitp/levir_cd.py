"""What changed in LEVIR-CD (buildings) from a ViT-L pretrained with ViTP: UPerNet on the maps of both images.

Run:      vistruct train vitp.levir_cd --data data/LEVIR-CD --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. LEVIR-CD as published: train, val and test with A, B and label
Expect:   published 92.67 F1 of what changed, on test
Source:   ViTP (arXiv:2509.17562), `vitp_levir_upernet` of its public code: the only one with 1,024 channels in the
          decoder and a rate of 1e-4
Differs:  windows of 256 are cut while training from the images of 1,024; the public code needs them cut beforehand.
          It loads a finished checkpoint of its own before training. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.maps import MapDataConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import levir_folder
from vistruct.windows.slide import Slide
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # folder with train/, val/ and test/, each with A/, B/ and label/; or with A, B, label and list
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 256,  # pixels of a window
    lr: float = 1e-4,
    steps: int = 80_000,
    width: int = 1024,  # channels of UPerNet
    seed: int = 0,
) -> Run:
    """Change detection on LEVIR-CD, trained on train, measured on test."""
    train = MapDataConfig(
        root=data,
        format="change_folders",
        split="train",
        tiles=Tiles(size=size, overlap=0),
        augment=segmentation.varied_pairs(size),
    )
    return segmentation.change(
        "vitp.levir_cd",
        train=train,
        backbone=backbone,
        size=size,
        lr=lr,
        steps=steps,
        seed=seed,
        shape="cosine",
        width=width,
        slide=Slide(size=size, overlap=size // 2),
    )


def tiny() -> Run:
    """A few steps on made-up pairs in LEVIR-CD's layout."""
    return segmentation.tiny(recipe(data=levir_folder(), size=32, steps=6))
