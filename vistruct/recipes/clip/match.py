"""A CLIP that matches images and captions, measured by retrieval; taught more within each micro-batch.

Run:      vistruct train clip.match --clip EVA02_CLIP_E_psz14_plus_s9B.pt --data dataset_flickr30k.json --val-split test
          vistruct train clip.match --clip CLIP --data instructions.jsonl --format instructions --among bank
Needs:    memory for the whole CLIP; `vistruct eval CLIP --data PATH` trains nothing
Expect:   EVA02_CLIP_E_plus as published 75.0 R@5 of images for captions on COCO, without training
Source:   CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343)
Differs:  captions are compared with the images of one micro-batch, or an image with all texts of the data; the text
          tower stays as it is
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vistruct.config import Run, with_values
from vistruct.data.at_path import captions_at
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, AS_USUAL, PixelValues, Reading, Worded
from vistruct.recipes.clip.parts import clip_at, run_of
from vistruct.recipes.clip.small import small_clip
from vistruct.samples.made_captions import karpathy_file


def recipe(
    *,
    data: Path,  # images with captions: Karpathy's or COCO's json, a table, lines, the hdf5 layout
    clip: Path,  # a CLIP: file, folder, or one of our runs
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `data` to measure on; None: nothing is measured
    steps: int = 1000,
    batch: int = 64,
    lr: float = 1e-5,
    among: Literal["batch", "bank"] = "batch",  # what a caption is told from: others of a micro-batch, all of the data
    loss: Literal["softmax", "sigmoid"] = "softmax",  # sigmoid: of a SigLIP, among the bank
    seed: int = 0,
    worded: Worded = AS_USUAL,  # which CLIP
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """A CLIP with the captions of these data."""
    train = captions_at(data, reading, values, split=split)
    val = None if val_split is None else train.model_copy(update={"split": val_split})
    found = clip_at(clip, worded)
    run = run_of("clip.match", clip, found, worded, train, val, steps=steps, batch=batch, lr=lr, seed=seed)
    return with_values(run, task=run.only.task.model_copy(update={"among": among, "loss": loss}))


def tiny() -> Run:
    """A few steps on made-up images with captions; it hardly learns."""
    data = captions_at(karpathy_file(), AS_FOUND, AS_THEY_ARE, split="train")
    val = data.model_copy(update={"split": "test"})
    run = run_of("clip.match", None, small_clip(), AS_USUAL, data, val, steps=3, batch=4, lr=1e-3, seed=0)
    return run.model_copy(update={"workers": 0})
