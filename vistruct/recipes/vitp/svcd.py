"""What changed in SVCD (also called CDD: seasons, and what is not a season) from a ViT-L pretrained with ViTP.

Run:      vistruct train vitp.svcd --data data/SVCD --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
Needs:    8 GPUs. SVCD's patches of 256 pixels: train, val and test with A, B, OUT
Expect:   published 98.63 F1 of what changed, on test
Source:   ViTP (arXiv:2509.17562), `vitp_svcd_upernet` of its public code. The labels are JPEG: changed from 128 on
Differs:  layer decay 0.94 over the ViT's 24 blocks; the public configuration counts 39 layers, left over from another
          backbone, so that its highest block learns at 0.372 of the rate and its lowest at 0.089; here at 0.94 and
          0.226. It loads a finished checkpoint of its own before training. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.maps import MapDataConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import svcd_folder


def recipe(
    *,
    data: Path,  # folder with train/, val/ and test/, each with A/, B/ and OUT/ (or label/)
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 256,  # pixels of an image
    lr: float = 2e-5,
    steps: int = 120_000,
    seed: int = 0,
) -> Run:
    """Change detection on SVCD, trained on train, measured on test."""
    augment = segmentation.varied_pairs(size, max_share=1.0, exchange=0.0)
    train = MapDataConfig(root=data, format="change_folders", split="train", augment=augment)
    return segmentation.change(
        "vitp.svcd",
        train=train,
        backbone=backbone,
        size=size,
        lr=lr,
        steps=steps,
        seed=seed,
        layer_decay=0.94,
    )


def tiny() -> Run:
    """A few steps on made-up pairs in SVCD's layout."""
    return segmentation.tiny(recipe(data=svcd_folder(), size=32, steps=6))
