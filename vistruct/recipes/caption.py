"""Captions of images: a transformer that reads the map of a backbone and writes a sentence, or the text in the image.

Run:      vistruct train caption --data captions.jsonl --train-fraction 0.9 --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   the decoder of Vaswani et al., arXiv:1706.03762; words as in the public captioning tutorials
Differs:  no pretrained language; `train instruct` recipes have one
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import Eval, Part, Run
from vistruct.data.at_path import captions_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.heads.caption_transformer import CaptionTransformerConfig
from vistruct.heads.show_attend_tell import ShowAttendTellConfig
from vistruct.metrics.caption_scores import CaptionsConfig
from vistruct.recipes.detect import Normalisation, architecture, is_raw, model_at, one_task
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_captions import karpathy_file
from vistruct.tasks.caption import CaptionConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import Size

HEADS: dict[str, Part] = {
    "caption_transformer": CaptionTransformerConfig(),
    "show_attend_tell": ShowAttendTellConfig(),
}


def recipe(
    *,
    data: Path,  # captions to train on: a json, jsonl or table, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # captions to measure on, never trained on; None: see val_split and train_fraction
    split: str
    | None = None,  # part of `data` to train on, where it holds several, as train+restval; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    train_fraction: float
    | None = None,  # part of the images drawn for training, the rest is measured; None: as on disk
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path | None = None,  # a caption model to begin with whole, with its words: run or model
    head: Literal["caption_transformer", "show_attend_tell"] | None = None,  # None: of start, or the transformer
    units: Literal["words", "characters", "subwords"] = "words",  # characters: the text in the image as it is written
    words: Path | None = None,  # a WORDMAP json, or the tokenizer.json of subwords; None: made of the training captions
    least_count: int = 3,  # how often a word or character must occur to be known
    longest: int = 50,  # units of a caption
    beams: int = 3,  # sentences followed at once; 1: greedy
    steps: int | None = None,  # None: those of epochs
    size: int = 224,  # pixels that every image is brought to, both sides
    batch: BatchSize = 64,  # samples in a step; auto: in micro-batches that fit into memory
    lr: float = 2e-4,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,  # of the weights, the order, the captions drawn, the split and the choice of the fraction
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A model that describes images in sentences like those of its training data."""
    intake = intake_of(values)
    random_split = None if train_fraction is None else {"train": train_fraction, "val": 1 - train_fraction}
    whole = Size(height=size, width=size, keep_aspect=False)
    train = captions_at(
        data,
        reading,
        values,
        split="train" if random_split else split,
        random_split=random_split,
        split_seed=seed,
        augment=None if is_raw(intake) else Augment(photometric=0.2),
        resize=whole,
        fraction=fraction,
        fraction_seed=seed,
    )
    wanted = "val" if random_split else val_split
    update: dict[str, Any] = {"split": wanted, "augment": None, "fraction": 1.0}
    if val is not None:
        update |= {"annotation": val, "images": None, "split": val_split, "random_split": None, "format": "auto"}
    evals = (
        {}
        if val is None and wanted is None
        else {"val": Eval(data=train.model_copy(update=update), metric=CaptionsConfig())}
    )
    parts, mean_std = architecture(backbone, timm, normalise, intake, start)
    begun = model_at(start, CaptionConfig)
    own = HEADS[head] if head is not None else HEADS["caption_transformer"] if begun is None else begun.task.head
    task = CaptionConfig(
        backbone=parts,
        neck=None if begun is None else begun.task.neck,
        head=own,
        units=units if begun is None else begun.task.units,
        words=words,
        least_count=least_count,
        longest=longest,
        beams=beams,
        **mean_std,
    )
    return one_task(
        "caption",
        task,
        train,
        evals,
        backbone=backbone,
        start=start,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        fit=fit,
    )


def tiny() -> Run:
    """A few steps on made-up stripes; it hardly learns."""
    run = recipe(data=karpathy_file(), split="train+restval", val_split="val", steps=6, size=32, longest=8, beams=2)
    head = CaptionTransformerConfig(width=32, depth=1, heads=2, mlp_width=64, dropout=0.0)
    return quick(run, {"backbone": small_vit(), "head": head})
