"""Masks of objects on a frozen backbone, by Mask2Former: the first stage of ViSFT for instance segmentation.

Run:      vistruct train visft.segment --data data/coco/annotations/instances_train2017.json --model eva02_e
              --backbone EVA02_CLIP_E_psz14_plus_s9B.pt --devices 8
Needs:    published: 8 accelerators of 32 GB, one image on each
Expect:   no published number: its evaluation was never released
Source:   ViSFT (Jiang et al., arXiv:2401.10222): Mask2Former (arXiv:2112.01527) on the last map of the ViT alone, 100
          queries; flips and large-scale jitter: a factor of 0.1 to 2 of 1024 pixels, a crop of that; masks drawn four
          times as large and brought down, so that edges are soft; measured with the shorter side at 800, the longer
          at most 1333
Differs:  as `visft.parts`. Any number of images in a batch: there the targets of the first are taken for all. Classes
          are those of the data, counted from 0: there all are one too high, and the last of COCO's counts for nothing.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.mask2former import VISFT_MASK2FORMER
from vistruct.metrics.coco import CocoMasksConfig
from vistruct.recipes.detect import measured_on
from vistruct.recipes.visft.parts import (
    Model,
    Normalisation,
    backbone_of,
    canvas,
    kept_maps,
    shown,
    stage_one,
    tiny_for,
)
from vistruct.tasks.dense import DetectConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import ShortSide, Size
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # annotations with masks: a COCO json, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # annotations to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    model: Model | None = None,  # None: what `backbone` is, where it is a run or directory, or --timm
    backbone: Path | None = None,  # its weights: a file, a run or a backbone directory
    timm: str | None = None,  # name of a timm model; `backbone` is then a file of its weights
    start: Path | None = None,  # heads to begin with: a run or model, or the file that ViSFT released
    queries: int = 100,  # objects in an image at most
    size: int = 1024,  # pixels of a crop, both sides; all other sizes follow
    tile: int | None = None,  # pixels of windows that large images are cut into before; None: images whole
    augment: bool = True,  # flips and jitter as published; --no-augment: every image as large as fits the crop
    cache: str | None = None,  # folder for the backbone's maps, computed once; with --no-augment
    cache_limit: float = 200.0,  # GB that this folder may take
    normalise: Normalisation | None = None,  # mean and std of; None: imagenet for EVA, of others their own
    batch: int = 8,  # images in a step
    steps: int = 150_000,
    lr: float = 5e-5,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """Mask2Former on one map of a backbone that stays as it is."""
    tiles = None if tile is None else Tiles(size=tile, overlap=tile // 4)
    found = boxes_at(
        data, reading, values, split=split, tiles=tiles, masks="soft", fraction=fraction, fraction_seed=seed
    )
    varied = jitter(size) if augment else None
    kept = kept_maps(cache, varied, cache_limit)
    trunk, mean_std = backbone_of(model, backbone, timm, start, normalise, intake_of(values))
    longest = round(1333 * size / 1024)
    whole = ShortSide(short=round(800 * size / 1024), longest=longest, limited="down")
    plain = whole if augment else Size(height=size, width=size)
    train, evals = shown(found, varied, plain, measured_on(data, val, val_split), CocoMasksConfig())
    head = VISFT_MASK2FORMER.model_copy(
        update={"layers": VISFT_MASK2FORMER.layers.model_copy(update={"queries": queries})}
    )
    task = DetectConfig(backbone=trunk, head=head, size_divisor=canvas(trunk, size, kept), **mean_std)
    return stage_one(
        "visft.segment", task, train, evals, backbone=backbone, start=start, steps=steps, batch=batch, lr=lr, seed=seed,
        cache=kept,
    )  # fmt: skip


def jitter(size: int) -> Augment:
    """Flips and large-scale jitter of crops of `size` pixels, with the published grey beside what is too small."""
    return Augment(
        hflip=True,
        fit=(size, size),
        scale=(0.1, 2.0),
        scale_draw="even",
        crop=(size, size),
        fill=128 / 255,
        min_kept=0,
    )


def tiny() -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    small = VISFT_MASK2FORMER.layers.model_copy(
        update={"queries": 10, "width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn": 32}
    )
    loss = VISFT_MASK2FORMER.loss.model_copy(update={"points": 256})
    return tiny_for(recipe, VISFT_MASK2FORMER.model_copy(update={"layers": small, "loss": loss}))
