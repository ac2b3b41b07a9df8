"""Grounded object identification: which class is in each given box, by a light head on the map of a frozen backbone.

Run:      vistruct train identify --data data/train.json --val data/val.json --backbone runs/pretrained
Needs:    one GPU for a ViT-g
Expect:   no published number of this protocol
Source:   the evaluation that ViSFT (Jiang et al., arXiv:2401.10222) names and has not released: a light head on frozen
          features. RoIAlign (He et al., arXiv:1703.06870) reads 7 x 7 cells of a box
Differs:  which head and which data ViSFT took is not known, so that figures compare backbones here, before and after an
          adapter (`vistruct eval RUN --lora FILE`), and nothing else; the class is one of the data's, not a text
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.backbones.timm_model import TimmConfig
from vistruct.config import Run
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.pooled import PooledConfig
from vistruct.metrics.identified import IdentifiedConfig
from vistruct.recipes.detect import measured_on, one_task
from vistruct.recipes.fit import HEAD_ONLY, BatchSize, Fit
from vistruct.recipes.small import quick, small_vit
from vistruct.recipes.visft.parts import Model, Normalisation, backbone_of, shown
from vistruct.samples.made_scenes import coco_folder
from vistruct.tasks.identify import IdentifyConfig, are_levels
from vistruct.transforms.sizing import PlacedSizing, Size
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # annotated objects: a COCO json, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # those to measure on, never trained on; None: see val_split
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    model: Model | None = None,  # None: what `backbone` is, where it is a run or directory, or --timm
    backbone: Path | None = None,  # its weights: a file, a run or a backbone directory
    timm: str | None = None,  # name of a timm model; `backbone` is then a file of its weights
    pooling: Literal["mean", "attention"] = "mean",  # of the cells of a box
    size: int = 448,  # pixels that each image (or window) fits into, its aspect kept
    tile: int | None = None,  # pixels of a window that images are cut into; None: whole images
    overlap: int = 0,  # pixels shared by neighbouring windows
    normalise: Normalisation | None = None,  # mean and std of; None: imagenet for EVA, of others their own
    batch: BatchSize = 16,  # images (or windows) in a step; auto: in micro-batches that fit into memory
    steps: int | None = None,  # None: those of epochs
    lr: float = 1e-3,
    fraction: float = 1.0,  # part of the training images (or windows) used
    seed: int = 0,
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    fit: Fit = HEAD_ONLY,  # how long, and which weights are kept
) -> Run:
    """A head that says what is in boxes that are given, on a backbone that stays as it is."""
    resize: PlacedSizing = Size(height=size, width=size)
    tiles = None if tile is None else Tiles(size=tile, overlap=overlap)
    found = boxes_at(data, reading, values, split=split, tiles=tiles, fraction=fraction, fraction_seed=seed)
    train, evals = shown(found, None, resize, measured_on(data, val, val_split), IdentifiedConfig())
    trunk, mean_std = backbone_of(model, backbone, timm, None, normalise, intake_of(values))
    levels = "by_size" if _is_pyramid(trunk) else "each"
    task = IdentifyConfig(backbone=trunk, head=PooledConfig(pooling=pooling), levels=levels, **mean_std)
    return one_task(
        "identify",
        task,
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


def _is_pyramid(backbone: Any) -> bool:
    with torch.device("meta"):  # no memory for its weights
        return are_levels(backbone.outline().specs if isinstance(backbone, TimmConfig) else backbone.build().specs)


def tiny() -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    folder = coco_folder(("plane", "ship"), "annotations", "{split}", masks=True)
    train, test = (folder / "annotations" / f"{split}.json" for split in ("train", "test"))
    run = recipe(data=train, val=test, model="eva_g", backbone=folder, size=96, steps=6)
    return quick(run.model_copy(update={"init": None}), {"backbone": small_vit()})  # of random weights
