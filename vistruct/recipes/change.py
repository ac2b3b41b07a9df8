"""What changed between two images of one place: folders of your own with before, after and a mask of the change.

Run:      vistruct train change --data data/pairs --split train --val-split val --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   shared backbone and fusion as in Open-CD and MTP (arXiv:2403.13430): absolute differences and a UNet, or, as
          ViTP (arXiv:2509.17562) has it, both maps beside each other and UPerNet
Differs:  before and after are exchanged half of the time; windows of large pairs while training
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vistruct.config import Run
from vistruct.data.at_path import intake_of, maps_at
from vistruct.data.formats.maps.coding import CHANGE
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.detect import Normalisation, measured_on
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.recipes.imbalance import AS_MANY, Imbalance
from vistruct.recipes.segment import HeadName, evaluated, made_tiny, segmenter, varied
from vistruct.samples.made_maps import levir_folder
from vistruct.tasks.segment import Fusion
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # folder with A/, B/ and label/, in any layout that `vistruct check` knows
    val: Path | None = None,  # the same to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path | None = None,  # a change detector or segmenter to begin with whole: run, model or published file
    head: HeadName | None = None,  # None: of start, or unet
    fusion: Fusion = "difference",
    steps: int | None = None,  # None: those of epochs
    size: int = 256,  # pixels of a window; larger images are cut into windows
    overlap: int = 64,  # pixels shared by neighbouring windows of predictions
    batch: BatchSize = 8,  # pairs of windows in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training windows used
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int | None = None,  # of pyramid and head; None: those of start, or 256
    rot90: bool = True,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    exchange: float = 0.5,  # how often before and after are swapped; 0 where only one direction is a change
    dice: float = 0.0,  # weight of the dice loss beside cross-entropy; 1 helps where little changes
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    imbalance: Imbalance = AS_MANY,  # of classes
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A change detector for pairs of any size."""
    if reading.classes is None and (reading.values, reading.threshold) != (None, None):
        reading = replace(reading, classes=CHANGE.classes)
    train = maps_at(
        data,
        reading,
        values,
        split=split,
        tiles=Tiles(size=size, overlap=0),
        augment=varied(size, intake_of(values), flips=True, rot90=rot90, exchange=exchange),
        fraction=fraction,
        fraction_seed=seed,
    )
    return segmenter(
        "change",
        train=train,
        val=evaluated(train, measured_on(data, val, val_split)),
        metric=PixelsConfig(positive="changed"),
        head=head,
        fusion=fusion,
        backbone=backbone,
        timm=timm,
        start=start,
        steps=steps,
        size=size,
        overlap=overlap,
        batch=batch,
        lr=lr,
        seed=seed,
        channels=channels,
        dice=dice,
        normalise=normalise,
        imbalance=imbalance,
        fit=fit,
    )


def tiny() -> Run:
    """A few steps on made-up pairs; it hardly learns."""
    run = recipe(data=levir_folder(), split="train", val_split="test", steps=6, size=32, overlap=8, batch=2)
    return made_tiny(run)
