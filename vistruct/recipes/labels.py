"""The labels themselves: annotated objects found as boxes, and painted as pixels, by one backbone in one pass.

Run:      vistruct train labels --data data/train.json --val data/val.json
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   multi-task pretraining, MTP (Wang et al., arXiv:2403.13430): several tasks learn from the same samples over
          one backbone; the parts are those of the recipes detect and segment
Differs:  horizontal boxes and the pixels that they cover (or masks, where there are some), in place of MTP's three
          tasks on its data sets: those are `mtp.pretrain`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import Eval, Part, Run, Stream
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes import detect
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit, fitted
from vistruct.recipes.segment import HeadName, head_of, neck_of
from vistruct.tasks.segment import SegmentConfig
from vistruct.windows.slide import Slide

BOXES, FILLED = "boxes", "filled"  # the two tasks


def recipe(
    *,
    data: Path,  # annotations to train on: a COCO json, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # annotations to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    head: Literal[
        "fcos", "retina", "faster_rcnn", "cascade_rcnn", "mask_rcnn", "detr", "mask2former"
    ] = "fcos",  # boxes
    map_head: HeadName = "upernet",  # of the pixels
    steps: int | None = None,  # None: those of epochs
    size: int = 512,  # pixels of a window; larger images are cut into windows
    overlap: int = 128,  # pixels shared by neighbouring windows; as large as the largest object if possible
    batch: BatchSize = 8,  # windows in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training windows used
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int = 256,  # of pyramids and heads
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A detector and a segmenter that learn from the same samples; each is left as a model of its own."""
    found = detect.recipe(
        data=data, val=val, split=split, val_split=val_split, backbone=backbone, timm=timm, head=head, steps=steps,
        size=size, overlap=overlap, batch=batch, lr=lr, fraction=fraction, seed=seed, channels=channels, rot90=rot90,
        reading=reading, values=values,
    )  # fmt: skip
    task: Any = found.only.task
    filled = SegmentConfig(
        backbone=task.backbone,
        neck=neck_of(task.backbone, channels, map_head),
        head=head_of(map_head, channels),
        slide=Slide(size=size, overlap=min(overlap, size // 2)),
        mean=task.mean,
        std=task.std,
    )
    both = of_both(found, filled)
    return Run.model_validate(dict(both) | fitted(fit, steps, both.evals, task))


def of_both(found: Run, filled: Part) -> Run:
    """A run of a detector with a segmenter beside it, on its samples and their label maps."""
    data, batch = _painted(found.only.data), found.only.batch
    streams = {
        BOXES: found.only.model_copy(update={"data": data}),
        FILLED: Stream(task=filled, data=data, batch=batch, samples=BOXES),
    }
    evals = {}
    for name, one in found.evals.items():
        evals[f"{BOXES}_{name}"] = one.model_copy(update={"task": BOXES})
        whole = _painted(one.data).model_copy(update={"tiles": None})  # a segmenter puts its windows together itself
        evals[f"{FILLED}_{name}"] = Eval(data=whole, metric=PixelsConfig(), task=FILLED)
    return found.model_copy(update={"recipe": "labels", "streams": streams, "evals": evals, "keep_model": "last"})


def _painted(data: Any) -> Any:
    return data if data.label_maps == "files" else data.model_copy(update={"label_maps": "painted"})


def tiny() -> Run:
    """A few steps on one of the shipped tree-crown scenes, measured on the other; it hardly learns."""
    run = detect.tiny()
    task: Any = run.only.task
    filled = SegmentConfig(backbone=task.backbone, head=head_of("linear", 16), slide=Slide(size=256, overlap=64))
    return of_both(run, filled)
