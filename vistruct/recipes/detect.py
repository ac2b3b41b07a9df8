"""Detection of any annotated boxes: a backbone, a pyramid and a head, by default InternViT and FCOS.

Run:      vistruct train detect --data data/train.json --val data/val.json --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   pyramid and layer-wise learning rates of ViTDet (Li et al., arXiv:2203.16527); FCOS (Tian et al.,
          arXiv:2006.09214), RetinaNet, Faster R-CNN and Mask R-CNN by torchvision, Cascade R-CNN (Cai and Vasconcelos,
          arXiv:1712.00726), DETR (Carion et al., arXiv:2005.12872),
          Mask2Former (Cheng et al., arXiv:2112.01527)
Classes:  class imbalance is met by the heads: fcos and retina learn by a focal loss (arXiv:1708.02002), the
          others by sampled regions or matched queries; there are no class weights
Differs:  FCOS in place of ViTDet's Mask R-CNN, global attention in every block, windows of large images in place of
          resized images
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.backbones.timm_model import TimmConfig
from vistruct.checkpoint.load import ModelCard, is_ours, model_dir, read_card, stopped_run
from vistruct.checkpoint.weights import backbone_dir, read_backbone_card
from vistruct.config import MAIN, AdamW, Eval, Part, Run, Stream, explain
from vistruct.data.at_path import boxes_at, intake_of
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.input import Input
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, AS_USUAL, PixelValues, Reading
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.heads.cascade_rcnn import CascadeRcnnConfig
from vistruct.heads.detr import DetrConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.fcos import FcosConfig
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask_queries import sized
from vistruct.heads.mask_rcnn import MaskRcnnConfig
from vistruct.heads.oriented_fcos import OrientedFcosConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.kinds import BackbonePart
from vistruct.metrics.coco import CocoBoxesConfig, CocoMasksConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.necks.simple_pyramid import SimplePyramidConfig
from vistruct.recipes.clip.parts import clip_at
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit, fitted, in_pieces
from vistruct.recipes.named import named_architecture
from vistruct.recipes.small import quick, small_vit
from vistruct.samples import trees
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.names import NamesConfig
from vistruct.transforms.augment import Augment
from vistruct.windows.tiles import Tiles

VIT_S = InternVitConfig(width=384, depth=12, heads=6, mlp_width=1536, patch=16, image_size=512, stem="conv")
HEADS: dict[str, type[Part]] = {
    "fcos": FcosConfig,
    "retina": RetinaConfig,
    "faster_rcnn": FasterRcnnConfig,
    "cascade_rcnn": CascadeRcnnConfig,
    "mask_rcnn": MaskRcnnConfig,
    "detr": DetrConfig,
    "mask2former": Mask2FormerConfig,
}
WITH_MASKS = (MaskRcnnConfig, Mask2FormerConfig)
ON_ONE_MAP = (DetrConfig,)  # heads that take a map as the backbone gives it: no pyramid
ORIENTED: dict[str, type[Part]] = {"oriented_rcnn": OrientedRcnnConfig, "oriented_fcos": OrientedFcosConfig}
OF_RECIPE = {"detect": HEADS, "oriented": ORIENTED}

Normalisation = Literal["backbone", "data"]  # mean and std that a backbone was trained with, or of the training data


def recipe(
    *,
    data: Path,  # annotations to train on: a COCO json, or a folder in any format that `vistruct check` knows
    val: Path | None = None,  # annotations to measure on, never trained on; None: nothing is measured
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `val` (of `data`, where there is no `val`) to measure on
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path | None = None,  # a detector to begin with whole, of whatever classes: run or model; or a published file
    head: Literal["fcos", "retina", "faster_rcnn", "cascade_rcnn", "mask_rcnn", "detr", "mask2former"]
    | None = None,  # None: of start, or fcos
    steps: int | None = None,  # None: those of epochs
    size: int = 512,  # pixels of a window; larger images are cut into windows
    overlap: int = 128,  # pixels shared by neighbouring windows; as large as the largest object if possible
    batch: BatchSize = 8,  # windows in a step; auto: in micro-batches that fit into memory
    lr: float = 1e-4,
    fraction: float = 1.0,  # part of the training windows used
    seed: int = 0,  # of the weights, the order and the choice of the fraction
    channels: int | None = None,  # of pyramid and head; None: those of start, or 256
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    names: Path | None = None,  # a CLIP that reads the class names, by which classes are then told; None: by number
    names_learn: bool = False,  # its text tower learns too
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A detector for horizontal boxes, and masks with `--head mask_rcnn` or `mask2former`.

    The architecture is that of `backbone` (or `start`) where it is a run or a directory of ours or a name of public
    weights, the published 300M-448px InternViT where it is a file, and a ViT-S with a convolutional stem where there is
    none.
    """
    part = chosen_head("detect", start, head)
    if channels is not None and isinstance(part, DetrConfig):
        part = part.model_copy(update={"encoder_width": channels, "decoder_width": channels})
    if channels is not None and isinstance(part, Mask2FormerConfig):
        part = part.model_copy(update={"layers": sized(channels)})
    masks = isinstance(part, WITH_MASKS)
    run = detector(
        "detect",
        data=boxes_at(
            data,
            reading,
            values,
            split=split,
            masks=masks,
            tiles=Tiles(size=size, overlap=overlap),
            augment=Augment(
                hflip=True,
                vflip=rot90,
                rot90=rot90,
                photometric=0.0 if is_raw(intake_of(values)) else 0.2,
                scale=(0.8, 1.25),
            ),
            fraction=fraction,
            fraction_seed=seed,
        ),
        val=measured_on(data, val, val_split),
        metric=CocoMasksConfig() if masks else CocoBoxesConfig(),
        head=part,
        backbone=backbone,
        timm=timm,
        start=start,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        channels=channels,
        normalise=normalise,
        fit=fit,
    )
    return run if names is None else by_name(run, names, names_learn)


def tiny() -> Run:
    """A few steps on one of the shipped tree-crown scenes, measured on the other; it hardly learns."""
    run = recipe(
        data=trees().train, val=trees().test, steps=6, size=256, overlap=64, batch=2, fraction=0.1, channels=16
    )
    return made_tiny(run, head=FcosConfig(num_convs=1))


def detector(
    name: str,
    *,
    data: BoxDataConfig,
    val: tuple[Path, str | None] | None,
    metric: Part,
    head: Part,
    backbone: Path | None,
    timm: str | None,
    start: Path | None,
    steps: int | None,
    batch: BatchSize,
    lr: float,
    seed: int,
    channels: int | None,
    normalise: Normalisation | None = None,
    fit: Fit = BY_DATA,
) -> Run:
    """What the generic recipes share: any head on any backbone.

    Args:
        val: annotations to measure on and their split; read, cut and sized as the training data.
    """
    parts, mean_std = architecture(backbone, timm, normalise, data.intake, start)
    evals = {}
    if val is not None:
        whole = {"annotation": val[0], "split": val[1], "augment": None, "fraction": 1.0, "as_written": True}
        whole |= {} if val[0] == data.annotation else {"images": None}
        evals["val"] = Eval(data=data.model_copy(update=whole), metric=metric)
    begun = model_at(start, DetectConfig)
    same = begun is not None and channels is None and backbone is None and timm is None
    neck: Any = begun.task.neck if begun is not None and same else None
    if isinstance(head, ON_ONE_MAP):
        neck = neck if begun is not None and begun.task.head.kind == head.kind else None
    elif neck is None:
        neck = pyramid_on(parts, channels or 256)
    names = begun.task.names if begun is not None and head == begun.task.head else None
    task = DetectConfig(backbone=parts, neck=neck, head=head, names=names, **mean_std)
    return one_task(
        name, task, data, evals, backbone=backbone, start=start, steps=steps, batch=batch, lr=lr, seed=seed, fit=fit
    )


def by_name(run: Run, clip: Path, learn: bool) -> Run:
    """The same run, whose classes are told by what the text tower of a CLIP makes of their names.

    Args:
        clip: folder of a public one, or a run or model of ours.

    Raises:
        UserError: a head with a number for each class; no CLIP; a file, which does not say what it is.
    """
    task: Any = run.only.task
    if not isinstance(task.head, FcosConfig):
        what = f"a head of kind {task.head.kind} has outputs for numbered classes"
        raise UserError(what, where="--names", fix="--head fcos")
    if clip.is_file():
        what = "a file of weights does not say how its text tower is built"
        raise UserError(
            what, where=f"--names {clip}", fix="name a folder of open_clip or transformers, or a run of ours"
        )
    text = clip_at(clip, AS_USUAL).clip.text
    source = model_dir(clip) / "model.safetensors" if is_ours(clip) else clip
    head = task.head.model_copy(update={"name_width": text.width})
    named = task.model_copy(update={"head": head, "names": NamesConfig(text=text, trains=learn)})
    stream = run.only.model_copy(update={"task": named, "start_parts": {"names.text.model": source}})
    return run.model_copy(update={"streams": {MAIN: stream}})


def pyramid_on(backbone: Any, channels: int) -> Part:
    """A pyramid on any backbone, of one map or several."""
    with torch.device("meta"):  # no memory for its weights
        specs = backbone.outline().specs if isinstance(backbone, TimmConfig) else backbone.build().specs
    strides = [spec.stride for spec in specs]
    if len(set(strides)) > 1:
        return FpnConfig(channels=channels)
    return SimplePyramidConfig(channels=channels, strides=pyramid_strides(strides[0]))


def one_task(
    name: str,
    task: Part,
    data: Part,
    evals: dict[str, Eval],
    *,
    backbone: Path | None,
    start: Path | None,
    steps: int | None,
    batch: BatchSize,
    lr: float,
    seed: int,
    fit: Fit,
    layer_decay: float = 0.8,
) -> Run:
    """How the generic recipes learn a task: layer-wise rates where the backbone knows something already."""
    fresh = backbone is None and start is None
    number, pieces = in_pieces(name, batch)
    return Run(
        recipe=name,
        streams={MAIN: Stream(task=task, data=data, batch=number, start=start)},
        evals=evals,
        init=backbone,
        optim=AdamW(lr=lr, weight_decay=0.05, layer_decay=1.0 if fresh else layer_decay),
        seed=seed,
        workers=2,
        **pieces,
        **fitted(fit, steps, evals, task),
    )


def made_tiny(run: Run, head: Part, strides: Sequence[int] = (8, 16, 32)) -> Run:
    """The same run with parts so small that a few steps take seconds on two cores."""
    neck = SimplePyramidConfig(channels=16, strides=tuple(strides))
    return quick(run, {"backbone": small_vit(stem="conv"), "neck": neck, "head": head})


def measured_on(data: Path, val: Path | None, val_split: str | None) -> tuple[Path, str | None] | None:
    """The annotations to measure on: of their own, or another part of the training folder; None: neither."""
    if val is None and val_split is None:
        return None
    return (data if val is None else val), val_split


def architecture(
    backbone: Path | None,
    timm: str | None = None,
    normalise: Normalisation | None = None,
    intake: Intake | None = None,
    start: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The backbone's config, and the mean and std that it was trained with where its directory says so.

    Args:
        backbone: a run, a backbone directory, a file (the published InternViT's), or a name of public weights.
        start: a model of ours, whose backbone it is where `backbone` and `timm` do not say.
        normalise: "data": mean and std of the training data; None: those of the backbone, unless values stay raw.
        intake: what the images are made of; with other than three channels mean and std are those of the data.
    """
    channels = 3 if intake is None or intake.bands is None else intake.channels_of(len(intake.bands))
    if channels != 3:
        parts = architecture(backbone, timm, start=start)[0].model_copy(update={"channels": channels})
        return parts, {"mean": "data", "std": "data"}
    if normalise == "data" or (normalise is None and is_raw(intake)):
        return architecture(backbone, timm, start=start)[0], {"mean": "data", "std": "data"}
    if timm is not None:
        model = TimmConfig(name=timm)
        known = model.outline()
        return model, {"mean": known.mean, "std": known.std}
    begun = None if backbone is not None else model_at(start, Part)
    if begun is not None:
        return begun.task.backbone, _normalised(begun.input)
    if (named := named_architecture(backbone)) is not None:
        return named
    directory = backbone_dir(backbone) if backbone is not None else None
    if directory is None:
        return (VIT_S if backbone is None else InternVitConfig()), {}
    card = read_backbone_card(directory)
    try:
        config = TypeAdapter(BackbonePart).validate_python(card.config)
        known = Input.model_validate(card.input or {})
    except ValidationError as error:
        raise explain(error, Run, directory / "backbone.json") from error
    return config, _normalised(known)


def _normalised(known: Input) -> dict[str, Any]:
    """Mean and std that a model was trained with, unless they are in the unit of other files."""
    if is_raw(known.intake):
        return {}
    return {name: value for name, value in (("mean", known.mean), ("std", known.std)) if value}


def chosen_head(recipe: str, start: Path | None, head: str | None) -> Part:
    """The head that is asked for, that of what a run starts from, or the recipe's first.

    Raises:
        UserError: what it starts from finds boxes of the other kind.
    """
    if head is not None:
        return OF_RECIPE[recipe][head]()
    begun = model_at(start, DetectConfig)
    own: Any = next(iter(OF_RECIPE[recipe].values()))() if begun is None else begun.task.head
    for other, heads in OF_RECIPE.items():
        if other != recipe and own.kind in heads:
            boxes = {"detect": "horizontal", "oriented": "oriented"}[other]
            first = next(iter(OF_RECIPE[recipe]))
            fix = f"vistruct train {other}; or another head, over the same backbone: --head {first}"
            raise UserError(f"a detector of {boxes} boxes ({own.kind})", where=f"--start {start}", fix=fix)
    return own


def model_at(start: Path | None, kind: type[Part]) -> ModelCard | None:
    """The model of ours that a run starts from; None: nothing, another's, or one of another kind of task."""
    if start is None or start.is_file() or not is_ours(start) or stopped_run(start):
        return None
    card = read_card(start)
    return card if isinstance(card.task, kind) else None


def is_raw(intake: Intake | None) -> bool:
    """Whether values stay in the unit of their files: there is no black and white, and no usual mean."""
    return intake is not None and intake.pixels == "raw"


def pyramid_strides(patch: int) -> tuple[int, ...]:
    """Four levels, the finest two halvings below the backbone's stride, as in ViTDet; fewer where 4 px or an
    odd number is reached first."""
    finest = patch
    for _ in range(2):
        if finest % 2 == 0 and finest > 4:
            finest //= 2
    return tuple(finest * 2**level for level in range(4))
