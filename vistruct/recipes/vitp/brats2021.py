"""Segmentation of brain tumours in BraTS2021's MR volumes from a ViT-L pretrained with ViTP on medical images.

Run:      vistruct train vitp.brats2021 --data data/BraTS2021 --backbone ViTP_ViT_L_300M_med.safetensors --devices 8
Needs:    8 GPUs. BraTS2021 as published: a folder of five volumes for each patient
Expect:   published 72.11 mean Dice ("MRI, 3 classes")
Source:   ViTP (arXiv:2509.17562): the number and the head (UPerNet); there is no code and no configuration of it
Differs:  everything else is our choice: axial slices; T1ce, T2 and FLAIR as the three channels that a pretrained ViT
          has (`--modalities t1,t1ce,t2,flair` for all four), a fifth of the patients held out, drawn by seed, and the
          schedule of the other segmentation recipes for 40,000 steps. Measured by volume, in
          the challenge's three regions. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Run
from vistruct.data.formats.volumes.brats import REGIONS
from vistruct.data.volumes import VolumeDataConfig
from vistruct.metrics.volumes import VolumesConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_volumes import brats_folder
from vistruct.transforms.augment import Augment


def recipe(
    *,
    data: Path,  # folder of the patients' folders
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    modalities: tuple[str, ...] = ("t1ce", "t2", "flair"),  # the channels, in their order
    size: int = 224,  # pixels of a crop; slices have 240
    lr: float = 2e-5,
    steps: int = 40_000,
    seed: int = 0,
) -> Run:
    """UPerNet on BraTS2021's slices, trained on four fifths of the patients, measured on the others by volume."""
    train = VolumeDataConfig(
        root=data,
        format="brats2021",
        split="train",
        random_split={"train": 0.8, "val": 0.2},
        split_seed=seed,
        modalities=modalities,
        empty=1 / 3,
        augment=Augment(scale=(0.8, 1.25), rotate=0.5, rotate_range=(-15.0, 15.0), hflip=True, crop=(size, size)),
    )
    val = train.model_copy(update={"split": "val", "augment": None, "empty": 1.0})
    return segmentation.published(
        "vitp.brats2021",
        train=train,
        evals={"val": Eval(data=val, metric=VolumesConfig(regions=REGIONS), at_end=True)},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=16,
        seed=seed,
        channels=len(modalities),
    )


def tiny() -> Run:
    """A few steps on made-up patients in BraTS2021's layout."""
    return segmentation.tiny(recipe(data=brats_folder(), size=32, steps=6))
