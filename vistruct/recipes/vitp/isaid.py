"""Segmentation of iSAID (16 classes with the background) from a ViT-L pretrained with ViTP: UPerNet on a ViT-Adapter.

Run:      vistruct train vitp.isaid --data data/iSAID --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. iSAID cut into patches of 896 pixels, as its tools leave it
Expect:   published 71.14 mIoU on val, most likely in 3 scales and flipped (--flip horizontal --scale 0.75 --scale 1
          --scale 1.5 of `vistruct eval`)
Source:   ViTP (arXiv:2509.17562), `vitp_isaid_upernet` of its public code, which was changed after its results from
          whole images to windows and several views
Differs:  evaluated flipped at one scale while training, as there. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Run
from vistruct.data.maps import MapDataConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import isaid_folder
from vistruct.transforms.augment import Augment
from vistruct.transforms.distort import Distort
from vistruct.windows.slide import Slide
from vistruct.windows.views import Views


def recipe(
    *,
    data: Path,  # folder of the patches: img_dir/ and ann_dir/, each with train/ and val/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 896,  # pixels of a crop, and of a window
    lr: float = 1.5e-5,
    steps: int = 80_000,
    seed: int = 0,
) -> Run:
    """UPerNet on iSAID, trained on train, measured on val."""
    train = MapDataConfig(
        root=data,
        format="isaid",
        split="train",
        augment=Augment(fit=(size, size), crop=(size, size), hflip=True, distort=Distort()),
    )
    test = train.model_copy(update={"split": "val", "augment": None})
    return segmentation.published(
        "vitp.isaid",
        train=train,
        evals={"val": Eval(data=test, metric=PixelsConfig())},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=16,
        seed=seed,
        slide=Slide(size=size, overlap=size // 2),
        views=Views(flips=("none", "horizontal")),
    )


def tiny() -> Run:
    """A few steps on made-up patches in iSAID's layout."""
    return segmentation.tiny(recipe(data=isaid_folder(), size=64, steps=6))
