"""Captions on a frozen backbone, by an LSTM that looks: the first stage of ViSFT for captions.

Run:      vistruct train visft.caption --data data/dataset_coco.json --split train+restval --val-split val
              --model eva02_e --backbone EVA02_CLIP_E_psz14_plus_s9B.pt --devices 8
Needs:    published: 8 accelerators of 32 GB, 32 images on each
Expect:   no published number: its evaluation was never released
Source:   ViSFT (Jiang et al., arXiv:2401.10222): soft attention (arXiv:1502.03044) on the last map of the ViT, pooled
          to 14 x 14, 384 wide; words that occur more than five times in the captions; images squashed to 256 x 256, not
          varied; AdamW at 4e-4, 256 images in a step, 100,000 steps
Differs:  as `visft.parts`. One caption of an image is drawn each time; there all are samples of their own, which is the
          same in the mean. Words are counted over the training captions alone, not over all splits, unless --words
          gives a word map. Captions are measured as they are said; there words are guessed from the true ones before
          them. A caption of more than 50 words is cut, not left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import Eval, Part, Run
from vistruct.data.at_path import captions_at, intake_of
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError
from vistruct.heads.caption_transformer import CaptionTransformerConfig
from vistruct.heads.show_attend_tell import ShowAttendTellConfig
from vistruct.metrics.caption_scores import CaptionsConfig
from vistruct.recipes.small import quick
from vistruct.recipes.visft.parts import SMALL, Model, Normalisation, backbone_of, kept_maps, stage_one
from vistruct.samples.made_captions import karpathy_file
from vistruct.tasks.caption import CaptionConfig
from vistruct.transforms.sizing import Size


def recipe(
    *,
    data: Path,  # captions: Karpathy's json, COCO captions, the hdf5 folder, or any that `vistruct check` knows
    val: Path | None = None,  # captions to measure on, never trained on; None: see val_split
    split: str | None = None,  # part of `data` to train on, where it holds several; published: train+restval
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    model: Model | None = None,  # None: what `backbone` is, where it is a run or directory, or --timm
    backbone: Path | None = None,  # its weights: a file, a run or a backbone directory
    timm: str | None = None,  # name of a timm model; `backbone` is then a file of its weights
    start: Path | None = None,  # a head to begin with: a run or model, or the file that ViSFT released, with --words
    head: Literal["show_attend_tell", "caption_transformer"] = "show_attend_tell",  # as published, or the better one
    words: Path | None = None,  # a WORDMAP json; None: made of the training captions
    size: int = 256,  # pixels that every image is brought to, both sides
    cache: str | None = None,  # folder for the backbone's maps, computed once
    cache_limit: float = 200.0,  # GB that this folder may take
    normalise: Normalisation | None = None,  # mean and std of; None: imagenet for EVA, of others their own
    batch: int = 256,  # images in a step
    steps: int = 100_000,
    lr: float = 4e-4,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """A caption head on one map of a backbone that stays as it is."""
    if start is not None and start.is_file() and words is None:
        what = "the released head counts in words that are in no file of its own"
        raise UserError(what, where=start, fix="--words WORDMAP_coco_5_cap_per_img_5_min_word_freq.json")
    whole = Size(height=size, width=size, keep_aspect=False)
    train = captions_at(data, reading, values, split=split, resize=whole, fraction=fraction, fraction_seed=seed)
    evals = {}
    if val is not None or val_split is not None:
        own: dict[str, Any] = {"split": val_split, "fraction": 1.0}
        own |= {} if val is None else {"annotation": val, "images": None, "format": "auto"}
        evals = {"val": Eval(data=train.model_copy(update=own), metric=CaptionsConfig())}
    kept = kept_maps(cache, None, cache_limit)
    trunk, mean_std = backbone_of(model, backbone, timm, start, normalise, intake_of(values))
    heads: dict[str, Part] = {
        "show_attend_tell": ShowAttendTellConfig(),
        "caption_transformer": CaptionTransformerConfig(),
    }
    task = CaptionConfig(backbone=trunk, head=heads[head], words=words, **mean_std)
    return stage_one(
        "visft.caption", task, train, evals, backbone=backbone, start=start, steps=steps, batch=batch, lr=lr, seed=seed,
        cache=kept,
    )  # fmt: skip


def tiny() -> Run:
    """A few steps on made-up stripes; it hardly learns."""
    data = karpathy_file()
    run = recipe(
        data=data, split="train+restval", val_split="val", model="eva_g", backbone=data.parent, size=56, steps=4
    )
    head = ShowAttendTellConfig(attention=16, embed=16, hidden=16, pool=4)
    return quick(run.model_copy(update={"init": None}), {"backbone": SMALL, "head": head})  # of random weights
