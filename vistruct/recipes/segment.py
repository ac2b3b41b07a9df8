"""Segmentation of a folder of your own: images with masks, annotated objects, GeoTIFF, NIfTI volumes or DICOM series.

Run:      vistruct train segment --data data/fields --split train --val-split val --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   UPerNet (Xiao et al., arXiv:1807.10221), Mask2Former (Cheng et al., arXiv:2112.01527); pyramid and layer-wise
          learning rates of ViTDet (Li et al., arXiv:2203.16527)
Differs:  windows of large images while training, and smoothly joined windows afterwards, in place of resized images
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.config import Eval, Part, Run
from vistruct.data.at_path import intake_of, maps_at, volumes_at
from vistruct.data.formats import find_format
from vistruct.data.formats.detect import matching
from vistruct.data.maps import MapDataConfig
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.data.volumes import VolumeDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.heads.linear import LinearConfig
from vistruct.heads.mask2former_maps import Mask2FormerMapsConfig
from vistruct.heads.mask_queries import sized
from vistruct.heads.pixel_loss import Dice, PixelLoss
from vistruct.heads.unet import UNetConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.kinds import BackbonePart
from vistruct.metrics.pixels import PixelsConfig
from vistruct.metrics.volumes import VolumesConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.recipes.detect import (
    Normalisation,
    architecture,
    is_raw,
    measured_on,
    model_at,
    one_task,
    pyramid_strides,
)
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.recipes.imbalance import AS_MANY, Imbalance, focal_gamma_asked, weights_asked
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_maps import loveda_folder
from vistruct.tasks.segment import Fusion, SegmentConfig
from vistruct.transforms.augment import Augment
from vistruct.windows.slide import Slide
from vistruct.windows.tiles import Tiles

HeadName = Literal["upernet", "unet", "linear", "mask2former"]


def recipe(
    *,
    data: Path,  # folder of images and masks, in any format that `vistruct check` knows; volumes too
    val: Path | None = None,  # the same to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path
    | None = None,  # a segmenter to begin with whole, of whatever classes: run or model; or a published file
    head: HeadName | None = None,  # None: of start, or upernet
    steps: int | None = None,  # None: those of epochs
    size: int = 512,  # pixels of a window; larger images are cut into windows
    overlap: int = 128,  # pixels shared by neighbouring windows of predictions
    batch: BatchSize = 8,  # windows in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training windows used (of the patients, for volumes)
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int | None = None,  # of pyramid and head; None: those of start, or 256
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    flips: bool = True,  # left and right; false where sides matter, as in a body
    dice: float = 0.0,  # weight of the dice loss beside cross-entropy; 1 helps where objects are small
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    imbalance: Imbalance = AS_MANY,  # of classes
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A segmenter for images of any size, 8-bit or not, and for volumes slice by slice."""
    train = pixel_data(
        data,
        reading,
        values,
        split=split,
        size=size,
        fraction=fraction,
        seed=seed,
        augment=varied(size, intake_of(values), flips=flips, rot90=rot90),
    )
    return segmenter(
        "segment",
        train=train,
        val=evaluated(train, measured_on(data, val, val_split)),
        metric=VolumesConfig() if isinstance(train, VolumeDataConfig) else PixelsConfig(),
        head=head,
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
    """A few steps on made-up scenes; it hardly learns."""
    run = recipe(data=loveda_folder(), split="train", val_split="val", steps=6, size=64, overlap=16, batch=2)
    return made_tiny(run)


def pixel_data(
    data: Path,
    reading: Reading,
    values: PixelValues,
    *,
    split: str | None,
    size: int,
    fraction: float,
    seed: int,
    augment: Augment,
) -> MapDataConfig | VolumeDataConfig:
    """Training data with the class of every pixel, as what lies at `data` asks for."""
    shared: dict[str, Any] = {"split": split, "fraction": fraction, "fraction_seed": seed, "augment": augment}
    format = reading.format
    if reading.labels is None and (
        matching(data, "volumes") if format == "auto" else find_format(format).kind == "volumes"
    ):
        return volumes_at(data, reading, values, empty=1 / 3, **shared)
    return maps_at(data, reading, values, tiles=Tiles(size=size, overlap=0), **shared)


def varied(size: int, intake: Intake | None, *, flips: bool, rot90: bool, exchange: float = 0.0) -> Augment:
    """How the training images of the generic recipes for pixels are varied."""
    return Augment(
        hflip=flips,
        vflip=rot90,
        rot90=rot90,
        exchange=exchange,
        photometric=0.0 if is_raw(intake) else 0.2,
        scale=(0.8, 1.25),
        crop=(size, size),
    )


def evaluated(train: MapDataConfig | VolumeDataConfig, val: tuple[Path, str | None] | None) -> Part | None:
    """The data to measure on, read as the training data, whole and without variation."""
    if val is None:
        return None
    changes: dict[str, Any] = {"root": val[0], "split": val[1], "augment": None, "fraction": 1.0}
    changes |= {"empty": 1.0} if isinstance(train, VolumeDataConfig) else {"tiles": None}
    return train.model_copy(update=changes)


def segmenter(
    name: str,
    *,
    train: MapDataConfig | VolumeDataConfig,
    val: Part | None,
    metric: Part,
    head: HeadName | None,
    backbone: Path | None,
    timm: str | None,
    start: Path | None,
    steps: int | None,
    size: int,
    overlap: int,
    batch: BatchSize,
    lr: float,
    seed: int,
    channels: int | None,
    dice: float = 0.0,
    fusion: Fusion | None = None,
    normalise: Normalisation | None = None,
    imbalance: Imbalance = AS_MANY,
    fit: Fit = BY_DATA,
) -> Run:
    """What the generic recipes for pixels share: any head on any backbone, for one image or a pair."""
    parts, mean_std = architecture(backbone, timm, normalise, train.intake, start)
    begun = model_at(start, SegmentConfig)
    named = head or ("upernet" if fusion is None else "unet")
    neck, part = neck_of(parts, channels or 256, named), head_of(named, channels or 256)
    if begun is not None and head is None and channels is None:
        neck, part = begun.task.neck, begun.task.head
    if dice and isinstance(part, Mask2FormerMapsConfig):
        what = (
            f"--dice {dice:g} beside mask2former, which has a dice loss of its own (weight {part.loss.dice_weight:g})"
        )
        raise UserError(what, where="--dice", fix=f"--set task.head.loss.dice_weight={dice:g} in its place")
    loss = PixelLoss(
        class_weights=weights_asked(imbalance),
        focal_gamma=focal_gamma_asked(imbalance),
        dice=Dice(weight=dice) if dice else None,
    )
    if isinstance(part, Mask2FormerMapsConfig) and loss != PixelLoss():
        option = "--loss focal" if loss.focal_gamma else "--class-weights"
        what = f"{option} beside mask2former, which has a loss of its own"
        raise UserError(what, where=option, fix="another head: --head upernet")
    task = SegmentConfig(
        kind="segment" if fusion is None else "change",
        backbone=parts,
        neck=neck,
        head=part,
        fusion=fusion,
        loss=loss,
        slide=Slide(size=size, overlap=min(overlap, size // 2)),
        **mean_std,
    )
    evals = {} if val is None else {"val": Eval(data=val, metric=metric)}
    return one_task(
        name, task, train, evals, backbone=backbone, start=start, steps=steps, batch=batch, lr=lr, seed=seed, fit=fit
    )


def neck_of(backbone: BackbonePart, channels: int, head: HeadName) -> Part | None:
    """A pyramid for a plain ViT; none where the backbone has one, or where the head is to see nothing but it."""
    if head == "linear":
        return None
    with torch.device("meta"):  # no memory for its weights
        specs = backbone.build().specs
    return SimplePyramidConfig(channels=channels, strides=pyramid_strides(specs[0].stride)) if len(specs) == 1 else None


def head_of(name: HeadName, channels: int) -> Part:
    """Heads as wide as the pyramid; group norm, because a micro-batch may be one image."""
    if name == "upernet":
        return UperNetConfig(channels=channels, norm="group")
    if name == "unet":
        return UNetConfig(channels=tuple(max(16, channels >> halvings) for halvings in range(4)), norm="group")
    if name == "mask2former":
        return Mask2FormerMapsConfig(layers=sized(channels))
    return LinearConfig()


def made_tiny(run: Run) -> Run:
    """The same run with parts so small that a few steps take seconds on two cores."""
    task: Any = run.only.task
    neck = SimplePyramidConfig(channels=16, strides=(4, 8, 16))
    head = head_of(task.head.kind, 16)
    return quick(run, {"backbone": small_vit(), "neck": neck, "head": head})
