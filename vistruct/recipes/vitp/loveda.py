"""Segmentation of LoveDA (7 classes) from a ViT-L pretrained with ViTP: UPerNet on a ViT-Adapter.

Run:      vistruct train vitp.loveda --data data/LoveDA --backbone ViTP_ViT_L_300M_rs.safetensors --devices 8
          vistruct predict runs/vitp.loveda data/LoveDA/Test --format loveda               (the files to submit)
Needs:    8 GPUs. LoveDA as published: Train, Val and Test, Urban and Rural
Expect:   published 54.28 mIoU on test, from the server
Source:   ViTP (arXiv:2509.17562), `vitp_loveda_upernet` of its public code
Differs:  the published run trains on train and val and watches val, which it knows by heart; here val is measured
          where `--split train` leaves it out. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_maps import loveda_folder


def recipe(
    *,
    data: Path,  # folder with Train/, Val/ and Test/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    split: str = "train+val",  # train: val is then measured on
    size: int = 512,  # pixels of a crop, and of a window
    lr: float = 1e-5,
    steps: int = 80_000,
    seed: int = 0,
) -> Run:
    """UPerNet on LoveDA."""
    return segmentation.scenes(
        "vitp.loveda",
        data=data,
        format="loveda",
        split=split,
        backbone=backbone,
        fit=size,  # the published 512 halves the images of 1024 before their size is varied
        size=size,
        overlap=size // 4,
        lr=lr,
        steps=steps,
        weight_decay=0.1,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on made-up scenes in LoveDA's layout."""
    return segmentation.tiny(recipe(data=loveda_folder(), split="train", size=64, steps=6))
