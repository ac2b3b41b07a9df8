"""Reading text in images of words: a light transformer that spells what it finds on the map of a frozen backbone.

Run:      vistruct train ocr --data words/train --val words/test --backbone runs/pretrained
Needs:    one GPU for a ViT-g
Expect:   no published number of this protocol
Source:   the evaluation that ViSFT (Jiang et al., arXiv:2401.10222) names and has not released: a light head on frozen
          features. Images squashed to one size, and the longest text of 25 characters, as in the benchmarks of scene
          text recognition (Baek et al., arXiv:1904.01906)
Differs:  which head and which data ViSFT took is not known, so that figures compare backbones here, before and after an
          adapter (`vistruct eval RUN --lora FILE`), and nothing else
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vistruct.config import Eval, Part, Run
from vistruct.data.at_path import captions_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.caption_transformer import CaptionTransformerConfig
from vistruct.metrics.texts import TextConfig
from vistruct.recipes.detect import one_task
from vistruct.recipes.fit import HEAD_ONLY, BatchSize, Fit
from vistruct.recipes.small import quick, small_vit
from vistruct.recipes.visft.parts import Model, Normalisation, backbone_of
from vistruct.samples.made_words import words_folder
from vistruct.tasks.caption import CaptionConfig
from vistruct.transforms.sizing import Size


def recipe(
    *,
    data: Path,  # images of words with their text: a list, json, jsonl or table, or a folder of them
    val: Path | None = None,  # those to measure on, never trained on; None: see val_split
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    model: Model | None = None,  # None: what `backbone` is, where it is a run or directory, or --timm
    backbone: Path | None = None,  # its weights: a file, a run or a backbone directory
    timm: str | None = None,  # name of a timm model; `backbone` is then a file of its weights
    height: int = 112,  # pixels that every image is brought to
    width: int = 448,
    least_count: int = 1,  # how often a character must occur to be known
    longest: int = 25,  # characters of a text; the rest of a longer one is cut off, and counted
    beams: int = 1,  # texts followed at once; 1: greedy
    normalise: Normalisation | None = None,  # mean and std of; None: imagenet for EVA, of others their own
    batch: BatchSize = 64,  # samples in a step; auto: in micro-batches that fit into memory
    steps: int | None = None,  # None: those of epochs
    lr: float = 3e-4,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    fit: Fit = HEAD_ONLY,  # how long, and which weights are kept
) -> Run:
    """A head that spells the text in an image, on one map of a backbone that stays as it is."""
    size = Size(height=height, width=width, keep_aspect=False)
    train = captions_at(data, reading, values, split=split, resize=size, fraction=fraction, fraction_seed=seed)
    evals = {}
    if val is not None or val_split is not None:
        own: dict[str, Any] = {"split": val_split, "fraction": 1.0}
        own |= {} if val is None else {"annotation": val, "images": None, "format": "auto"}
        evals = {"val": Eval(data=train.model_copy(update=own), metric=TextConfig())}
    trunk, mean_std = backbone_of(model, backbone, timm, None, normalise, intake_of(values))
    task = CaptionConfig(
        backbone=trunk,
        head=CaptionTransformerConfig(depth=2),
        units="characters",
        least_count=least_count,
        longest=longest,
        beams=beams,
        **mean_std,
    )
    return one_task(
        "ocr",
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


def tiny() -> Run:
    """A few steps on made-up words; it hardly learns."""
    words = words_folder()
    run = recipe(
        data=words / "train", val=words / "test", model="eva_g", backbone=words, height=32, width=96, longest=6, steps=6
    )
    small: dict[str, Part] = {
        "backbone": small_vit(),
        "head": CaptionTransformerConfig(width=32, depth=1, heads=2, mlp_width=64, dropout=0.0),
    }
    return quick(run.model_copy(update={"init": None}), small)  # of random weights
