"""Segmentation of COVID-QU-Ex (infected lung in chest X-rays) from a ViT-L pretrained with ViTP on medical images.

Run:      vistruct train vitp.covid_quex --data data/COVID-QU-Ex --backbone ViTP_ViT_L_300M_med.safetensors --devices 8
Needs:    8 GPUs. The infection part of COVID-QU-Ex as published: Train, Val, Test
Expect:   published 91.55 mean Dice ("X-ray, 2 classes")
Source:   ViTP (arXiv:2509.17562): the number and the head (UPerNet); there is no code and no configuration of it
Differs:  everything else is our choice: infection masks (the mean Dice is over background and infection), images of 256
          pixels, and the schedule of the other segmentation recipes for 20,000 steps. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Run
from vistruct.data.maps import MapDataConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_volumes import covid_folder
from vistruct.transforms.augment import Augment


def recipe(
    *,
    data: Path,  # folder with Infection Segmentation Data/, or that folder
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 256,  # pixels of an image
    lr: float = 2e-5,
    steps: int = 20_000,
    seed: int = 0,
) -> Run:
    """UPerNet on COVID-QU-Ex, trained on train, measured on test."""
    train = MapDataConfig(
        root=data,
        format="covid_quex",
        split="train",
        augment=Augment(
            scale=(0.8, 1.25), rotate=0.5, rotate_range=(-10.0, 10.0), crop=(size, size), hflip=True, photometric=0.2
        ),
    )
    test = train.model_copy(update={"split": "test", "augment": None})
    return segmentation.published(
        "vitp.covid_quex",
        train=train,
        evals={"test": Eval(data=test, metric=PixelsConfig())},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=16,
        seed=seed,
    )


def tiny() -> Run:
    """A few steps on made-up X-rays in COVID-QU-Ex's layout."""
    return segmentation.tiny(recipe(data=covid_folder(), size=32, steps=6))
