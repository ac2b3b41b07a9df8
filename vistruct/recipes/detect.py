"""Detection of any COCO-format boxes: InternViT, simple feature pyramid, FCOS or Faster R-CNN.

Run:      vistruct train detect --data data/train.json --val data/val.json --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU; memory and hours: not yet measured
Expect:   depends on the data; no published number. ours: not yet run
Source:   pyramid and layer-wise learning rates of ViTDet (Li et al., arXiv:2203.16527); FCOS (Tian et al.,
          arXiv:2006.09214) and Faster R-CNN by torchvision
Differs:  FCOS or Faster R-CNN in place of ViTDet's Mask R-CNN, global attention in every block, windows of
          large images in place of resized images
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.checkpoint.weights import backbone_dir
from vistruct.config import AdamW, AnyPart, Eval, Part, Run, Schedule
from vistruct.data.dataset import BoxDataConfig
from vistruct.data.tiles import Tiles
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.metrics.coco import CocoBoxesConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.samples import trees
from vistruct.tasks.dense import DetectConfig
from vistruct.transforms.augment import Augment

VIT_S = InternVitConfig(width=384, depth=12, heads=6, mlp_width=1536, patch=16, image_size=512, stem="conv")


def recipe(
    *,
    data: Path,  # COCO json to train on; images beside it
    val: Path | None = None,  # COCO json to measure on, never trained on; None: nothing is measured
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    head: Literal["fcos", "faster_rcnn"] = "fcos",
    steps: int = 5000,
    size: int = 512,  # pixels of a window; larger images are cut into windows
    overlap: int = 128,  # pixels shared by neighbouring windows; as large as the largest object if possible
    batch: int = 8,  # windows in a step
    lr: float = 1e-4,
    share: float = 1.0,  # part of the training windows used
    seed: int = 0,  # of the weights, the order and the choice of the share
    channels: int = 256,  # of pyramid and head
    turns: bool = False,  # images without an up (from above, through a microscope): turn them all ways
) -> Run:
    """A detector for boxes in COCO format.

    The architecture is that of `backbone` where it is a run or backbone directory, the published 300M-448px
    InternViT where it is a file of weights, and a ViT-S with a convolutional stem where there is none.
    """
    parts, mean_std = architecture(backbone)
    tiles = Tiles(size=size, overlap=overlap)
    evals = {}
    if val is not None:
        evals["val"] = Eval(data=BoxDataConfig(annotation=val, tiles=tiles), metric=CocoBoxesConfig())
    return Run(
        recipe="detect",
        task=DetectConfig(
            backbone=parts,
            neck=SimplePyramidConfig(channels=channels, strides=pyramid_strides(getattr(parts, "patch", 16))),
            head=FcosConfig() if head == "fcos" else FasterRcnnConfig(),
            **mean_std,
        ),
        data=BoxDataConfig(
            annotation=data,
            tiles=tiles,
            augment=Augment(hflip=True, vflip=turns, turns90=turns, photometric=0.2, scale=(0.8, 1.25)),
            share=share,
            share_seed=seed,
        ),
        evals=evals,
        init=backbone,
        steps=steps,
        batch=batch,
        optim=AdamW(lr=lr, weight_decay=0.05, layer_decay=1.0 if backbone is None else 0.8),
        schedule=Schedule(warmup_steps=min(250, steps // 10)),
        seed=seed,
        workers=2,
    )


def tiny() -> Run:
    """A few steps on one of the shipped tree-crown scenes, measured on the other; it hardly learns."""
    run = recipe(data=trees().train, val=trees().test, steps=6, size=256, overlap=64, batch=2, share=0.1, channels=16)
    assert isinstance(run.task, DetectConfig)
    small = InternVitConfig(width=32, depth=2, heads=2, mlp_width=64, patch=16, image_size=256, stem="conv")
    task = run.task.model_copy(
        update={
            "backbone": small,
            "neck": SimplePyramidConfig(channels=16, strides=(8, 16, 32)),
            "head": FcosConfig(num_convs=1),
        }
    )
    return run.model_copy(
        update={"task": task, "workers": 0, "log_every": 1, "optim": AdamW(lr=1e-3), "schedule": Schedule()}
    )


def architecture(backbone: Path | None) -> tuple[Part, dict[str, Any]]:
    """The backbone's config, and the mean and std that it was trained with where its directory says so."""
    directory = backbone_dir(backbone) if backbone is not None else None
    if directory is None:
        return (VIT_S if backbone is None else InternVitConfig()), {}
    values = json.loads((directory / "backbone.json").read_text())
    known = values.get("input") or {}
    config = TypeAdapter(AnyPart).validate_python(values["config"])
    return config, {name: known[name] for name in ("mean", "std") if known.get(name)}


def pyramid_strides(patch: int) -> tuple[int, ...]:
    """Four levels, the finest two halvings below the backbone's stride, as in ViTDet; fewer where 4 px or an
    odd number is reached first."""
    finest = patch
    for _ in range(2):
        if finest % 2 == 0 and finest > 4:
            finest //= 2
    return tuple(finest * 2**level for level in range(4))
