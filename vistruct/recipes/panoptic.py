"""Things and stuff together: each object with its mask, and the class of every other pixel, by Mask2Former.

Run:      vistruct train panoptic --data coco --format coco-panoptic --split train --val-split val --backbone runs/pre
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   no published number for these backbones
Source:   Mask2Former (Cheng et al., arXiv:2112.01527), its head, losses and inference; pyramid and layer-wise learning
          rates of ViTDet (Li et al., arXiv:2203.16527)
Differs:  scales and crops of the generic recipes in place of large-scale jitter
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vistruct.config import Eval, Run
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask_loss import MaskLoss
from vistruct.heads.mask_queries import MaskQueriesConfig, sized
from vistruct.metrics.panoptic_quality import PanopticQualityConfig
from vistruct.recipes.detect import Normalisation, architecture, made_tiny, measured_on, one_task, pyramid_on
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.recipes.segment import varied
from vistruct.samples.made_scenes import coco_folder
from vistruct.tasks.panoptic import PanopticConfig


def recipe(
    *,
    data: Path,  # COCO's panoptic annotations (`--format coco-panoptic`), or objects with masks in any format
    val: Path | None = None,  # the same to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    steps: int | None = None,  # None: those of epochs
    size: int = 512,  # pixels of what is cut out of an image in training; predictions look at whole images
    batch: BatchSize = 8,  # samples in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int = 256,  # of pyramid and head
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """Every pixel as part of a thing or of stuff.

    Without `--label-maps` the maps of panoptic annotations are read, and of objects with masks the rest of the image is
    stuff called background.
    """
    if reading.label_maps == "none":
        reading = replace(reading, label_maps="files" if reading.format == "coco-panoptic" else "painted")
    intake = intake_of(values)
    train = boxes_at(
        data,
        reading,
        values,
        split=split,
        masks=True,
        augment=varied(size, intake, flips=True, rot90=rot90),
        fraction=fraction,
        fraction_seed=seed,
    )
    parts, mean_std = architecture(backbone, timm, normalise, intake)
    evals, place = {}, measured_on(data, val, val_split)
    if place is not None:
        whole: dict[str, Any] = {"annotation": place[0], "split": place[1], "augment": None, "fraction": 1.0}
        whole |= {} if place[0] == data else {"images": None}
        evals["val"] = Eval(data=train.model_copy(update=whole), metric=PanopticQualityConfig())
    return one_task(
        "panoptic",
        PanopticConfig(
            backbone=parts,
            neck=pyramid_on(parts, channels),
            head=Mask2FormerConfig(layers=sized(channels)),
            **mean_std,
        ),
        train,
        evals,
        backbone=backbone,
        start=None,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        fit=fit,
    )


def tiny() -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    folder = coco_folder(("plane", "ship"), "annotations", "JPEGImages_{split}", masks=True)
    run = recipe(data=folder, split="train", val_split="test", steps=6, size=64, batch=2, channels=16)
    layers = MaskQueriesConfig(queries=8, width=16, heads=2, encoder_layers=1, decoder_layers=2)
    return made_tiny(run, head=Mask2FormerConfig(layers=layers, loss=MaskLoss(points=64)))
