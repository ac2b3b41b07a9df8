"""A CLIP that tells classes apart by their names, measured as it is or taught more with its texts as the classifier.

Run:      vistruct train clip.zero_shot --clip EVA02_CLIP_E_psz14_plus_s9B.pt --data data/EuroSAT --val-split test
Needs:    memory for the whole CLIP (EVA02-E-14-plus: 5.0 B parameters); `vistruct eval CLIP --data PATH` trains nothing
Expect:   EVA02_CLIP_E_plus as published 82.0 on ImageNet without training
Source:   CLIP (arXiv:2103.00020); the text tower stays, as in FLYP and WiSE-FT's zero-shot start (arXiv:2109.01903)
Differs:  only the image's side learns
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Run
from vistruct.data.at_path import classes_at
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, AS_USUAL, PixelValues, Reading, Worded
from vistruct.recipes.clip.parts import clip_at, run_of
from vistruct.recipes.clip.small import small_clip
from vistruct.samples.made_classes import eurosat_folder


def recipe(
    *,
    data: Path,  # folder of class folders, or a csv
    clip: Path,  # a CLIP: file, folder, or one of our runs
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `data` to measure on; None: nothing is measured
    train_fraction: float
    | None = None,  # part of each class drawn for training, the rest is measured; None: as on disk
    steps: int = 1000,
    batch: int = 64,
    lr: float = 1e-5,
    seed: int = 0,
    worded: Worded = AS_USUAL,  # which CLIP, and how classes are put into words
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """A CLIP with the classes of these data."""
    random_split = None if train_fraction is None else {"train": train_fraction, "val": 1 - train_fraction}
    own = {"random_split": random_split, "split_seed": seed}
    train = classes_at(data, reading, values, split="train" if random_split else split, **own)
    wanted = "val" if random_split else val_split
    val = None if wanted is None else train.model_copy(update={"split": wanted})
    found = clip_at(clip, worded)
    return run_of("clip.zero_shot", clip, found, worded, train, val, steps=steps, batch=batch, lr=lr, seed=seed)


def tiny() -> Run:
    """A few steps on made-up images; it hardly learns."""
    data = classes_at(eurosat_folder(), AS_FOUND, AS_THEY_ARE, random_split={"train": 0.6, "val": 0.4}, split="train")
    val, worded = data.model_copy(update={"split": "val"}), Worded(templates="a photo of a {}.")
    run = run_of("clip.zero_shot", None, small_clip(), worded, data, val, steps=3, batch=4, lr=1e-3, seed=0)
    return run.model_copy(update={"workers": 0})
