"""Boxes on a frozen backbone, by DETR: the first stage of ViSFT for detection.

Run:      vistruct train visft.detect --data data/coco/annotations/instances_train2017.json --model eva02_e
              --backbone EVA02_CLIP_E_psz14_plus_s9B.pt --devices 8
Needs:    published: 8 accelerators of 32 GB. docs/visft.md has what kept maps save
Expect:   no published number: its evaluation was never released
Source:   ViSFT (Jiang et al., arXiv:2401.10222): DETR (arXiv:2005.12872) of 100 queries, an encoder 128 wide, on the
          last map of the ViT; flips; the shorter side at 480 to 672 in steps of 32, the longer never above 672; half
          of the time before that at 400, 500 or 600, and a window of 384 to 600 of it; measured at 672
Differs:  as `visft.parts`. Classes are those of the data, counted from 0, not the 91 numbers of COCO. Crowds are left
          out of account, not taken for background.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.detr import VISFT_DETR
from vistruct.metrics.coco import CocoBoxesConfig
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
from vistruct.transforms.resized_crop import SizedCrop
from vistruct.transforms.sizing import ShortSide
from vistruct.windows.tiles import Tiles


def recipe(
    *,
    data: Path,  # annotations to train on: a COCO json, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # annotations to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    model: Model | None = None,  # None: what `backbone` is, where it is a run or directory, or --timm
    backbone: Path | None = None,  # its weights: a file, a run or a backbone directory
    timm: str | None = None,  # name of a timm model; `backbone` is then a file of its weights
    start: Path | None = None,  # heads to begin with: a run or model, or the file that ViSFT released
    queries: int = 100,  # objects in an image at most
    size: int = 672,  # pixels of the longer side; all other sizes follow
    tile: int | None = None,  # pixels of windows that large images are cut into before; None: images whole
    augment: bool = True,  # flips, crops and sizes as published; --no-augment: every image as it is measured
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
    """DETR on one map of a backbone that stays as it is."""
    tiles = None if tile is None else Tiles(size=tile, overlap=tile // 4)
    found = boxes_at(data, reading, values, split=split, tiles=tiles, fraction=fraction, fraction_seed=seed)
    varied = _varied(size) if augment else None
    kept = kept_maps(cache, varied, cache_limit)
    trunk, mean_std = backbone_of(model, backbone, timm, start, normalise, intake_of(values))
    plain = ShortSide(short=_scaled(800, size), longest=size)
    train, evals = shown(found, varied, plain, measured_on(data, val, val_split), CocoBoxesConfig())
    head = VISFT_DETR.model_copy(update={"queries": queries})
    task = DetectConfig(backbone=trunk, head=head, size_divisor=canvas(trunk, size, kept), **mean_std)
    return stage_one(
        "visft.detect", task, train, evals, backbone=backbone, start=start, steps=steps, batch=batch, lr=lr, seed=seed,
        cache=kept,
    )  # fmt: skip


def tiny() -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    small = {"encoder_width": 16, "decoder_width": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2}
    return tiny_for(recipe, VISFT_DETR.model_copy(update={**small, "hidden": 32, "queries": 10}))


def _varied(size: int) -> Augment:
    """The published variation; sizes are parts of 672 pixels."""
    return Augment(
        hflip=True,
        sized_crop=SizedCrop(
            sizes=tuple(_scaled(short, size) for short in (400, 500, 600)),
            sides=(_scaled(384, size), _scaled(600, size)),
        ),
        sizes=tuple(_scaled(short, size) for short in range(480, 673, 32)),
        longest=size,
        min_kept=0,
    )


def _scaled(pixels: int, size: int) -> int:
    return max(1, round(pixels * size / 672))
