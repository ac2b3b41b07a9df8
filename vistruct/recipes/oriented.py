"""Detection of oriented boxes in a folder of any format: Oriented R-CNN, or a single-stage head for speed.

Run:      vistruct train oriented --data data/DOTA --split train --val-split val --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   Oriented R-CNN (Xie et al., arXiv:2108.05699); FCOS (Tian et al., arXiv:2006.09214), its locations giving
          centre, sides and twice the angle; DOTA's evaluation (Xia et al., arXiv:1711.10398)
Differs:  windows are cut while training, nothing is written; turned by any angle half of the time
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.config import Run
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.oriented_fcos import OrientedFcosConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.recipes.detect import Normalisation, chosen_head, detector, is_raw, made_tiny, measured_on
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.samples.made_scenes import dota_folder
from vistruct.transforms.augment import Augment
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # folder in a format with oriented boxes (DOTA, DIOR-R, FAIR1M, HRSC2016, YOLO-OBB, ...)
    val: Path | None = None,  # the same to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path | None = None,  # a detector to begin with whole, of whatever classes: run or model; or a published file
    head: Literal["oriented_rcnn", "oriented_fcos"] | None = None,  # None: of start, or oriented_rcnn
    steps: int | None = None,  # None: those of epochs
    size: int = 512,  # pixels of a window; larger images are cut into windows
    overlap: int = 128,  # pixels shared by neighbouring windows; as large as the largest object if possible
    batch: BatchSize = 8,  # windows in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training windows used
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int | None = None,  # of pyramid and head; None: those of start, or 256
    rotate: float = 0.5,  # how often a window is turned by any angle; 0 where images have an up
    difficult: Literal["learn", "ignore", "drop"] = "learn",
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A detector for oriented boxes; of horizontal annotations it learns turned ones by turning the images."""
    return detector(
        "oriented",
        data=boxes_at(
            data,
            reading,
            values,
            split=split,
            oriented=True,
            difficult=difficult,
            tiles=Tiles(size=size, overlap=overlap),
            augment=Augment(
                hflip=True,
                vflip=rotate > 0,
                rotate=rotate,
                photometric=0.0 if is_raw(intake_of(values)) else 0.2,
                scale=(0.8, 1.25),
            ),
            fraction=fraction,
            fraction_seed=seed,
        ),
        val=measured_on(data, val, val_split),
        metric=OrientedBoxesConfig(),
        head=chosen_head("oriented", start, head),
        backbone=backbone,
        timm=timm,
        start=start,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        channels=channels,
        normalise=normalise,
        fit=fit,
    )


def tiny() -> Run:
    """A few steps on three made-up scenes in DOTA's format; it hardly learns."""
    run = recipe(data=dota_folder(), split="train", val_split="val", steps=4, size=128, overlap=32, batch=2)
    return made_tiny(run, head=OrientedFcosConfig(num_convs=1))
