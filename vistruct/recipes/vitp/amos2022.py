"""Segmentation of abdominal organs in AMOS2022's CT volumes from a ViT-L pretrained with ViTP on medical images.

Run:      vistruct train vitp.amos2022 --data data/amos22 --backbone ViTP_ViT_L_300M_med.safetensors --devices 8
          vistruct predict runs/vitp.amos2022 data/amos22/imagesTs/amos_0009.nii.gz       (NIfTI on the same grid)
Needs:    8 GPUs. AMOS2022 as published: imagesTr, labelsTr, imagesVa, labelsVa
Expect:   published 90.60 mean Dice ("CT, 14 classes")
Source:   ViTP (arXiv:2509.17562): the number and the head (UPerNet); there is no code and no configuration of it
Differs:  everything else is our choice: axial slices in a soft-tissue CT window, grey repeated in three channels as in
          pretraining, crops of 512 pixels, size and turn varied a little and never flipped (a liver has its side), a
          third of the slices without organs, and the schedule of the other segmentation recipes for 40,000 steps.
          Measured by volume, 15 organs, on the 100 CT volumes of the validation split. As `vitp.segmentation`
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Run
from vistruct.data.formats.volumes.amos import INTAKE
from vistruct.data.volumes import VolumeDataConfig
from vistruct.metrics.volumes import VolumesConfig
from vistruct.recipes.vitp import segmentation
from vistruct.samples.made_volumes import amos_folder
from vistruct.transforms.augment import Augment
from vistruct.windows.slide import Slide


def recipe(
    *,
    data: Path,  # folder with imagesTr/, labelsTr/, imagesVa/ and labelsVa/
    backbone: Path | None = None,  # ViT weights, a run or a backbone directory; None: random weights
    size: int = 512,  # pixels of a crop, and of a window
    lr: float = 2e-5,
    steps: int = 40_000,
    seed: int = 0,
) -> Run:
    """UPerNet on AMOS2022's CT slices, trained on train, measured on val by volume."""
    train = VolumeDataConfig(
        root=data,
        format="amos2022",
        split="train",
        intake=INTAKE,
        empty=1 / 3,
        augment=Augment(scale=(0.75, 1.25), rotate=0.5, rotate_range=(-15.0, 15.0), crop=(size, size)),
    )
    val = train.model_copy(update={"split": "val", "augment": None, "empty": 1.0})
    return segmentation.published(
        "vitp.amos2022",
        train=train,
        evals={"val": Eval(data=val, metric=VolumesConfig(), at_end=True)},
        backbone=backbone,
        image_size=size,
        lr=lr,
        steps=steps,
        batch=16,
        seed=seed,
        slide=Slide(size=size, overlap=size // 4),
    )


def tiny() -> Run:
    """A few steps on made-up volumes in AMOS2022's layout."""
    return segmentation.tiny(recipe(data=amos_folder(), size=32, steps=6))
