"""Contrast, from images without labels: two views of an image are alike, as wholes and place by place.

Run:      vistruct train contrast --data images/ --backbone runs/pretrained
          vistruct train contrast --data images/ --model small     (minutes on a CPU)
Needs:    published: ResNet-50, 800 epochs of COCO at 256 images in a step
Expect:   published DenseCL 56.7 AP on VOC detection, where MoCo v2 has 54.7
Source:   DenseCL (arXiv:2011.09157) and its public configuration: vectors of 128 numbers, a head of 2,048, temperature
          0.2, momentum 0.999, 65,536 vectors in a queue, half the loss from wholes and half from places, crops of 20 %
          and more, changes of colour, grey, blur. AdamW, its rate for 256 images and its decay of MoCo v3
          (arXiv:2104.02057)
Differs:  steps in place of epochs; places are paired by where the crops lie, not by their features; queues follow the
          number of images; see `vistruct/tasks/contrast.py`. Size small is ours
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import MAIN, AdamW, Eval, Run, Schedule, Stream
from vistruct.data.at_path import boxes_at, intake_of, learned_and_measured
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, EACH_ONCE, Mixing, PixelValues
from vistruct.errors import UserError
from vistruct.metrics.health import HealthConfig
from vistruct.recipes.detect import Normalisation, architecture, is_raw
from vistruct.recipes.masked import encoder
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_classes import eurosat_folder
from vistruct.tasks.contrast import ContrastConfig, Level
from vistruct.transforms.sizing import Size
from vistruct.transforms.views import ViewsConfig
from vistruct.windows.tiles import Tiles

EVALS = 8  # times that the features are looked at in a run


def recipe(
    *,
    data: tuple[Path, ...],  # folders of images or volumes, files, .txt lists; large images are cut into windows
    val: tuple[Path, ...] = (),  # images that features are watched on, never trained on; none: nothing is watched
    backbone: Path | None = None,  # run, backbone directory or weights to go on from; None: random weights
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    model: Literal["large", "base", "small"] = "base",  # the encoder, where none is given
    start: Path | None = None,  # a run of this recipe, to go on from with its heads, queues and slow encoder
    levels: tuple[Level, ...] = ("view", "place"),  # what is compared: views as wholes, places and regions of them
    regions: Literal["drawn", "objects"] = "drawn",  # objects: those of annotations of boxes, which --data then is
    queue: int | None = None,  # earlier vectors to compare with; None: a quarter of the images, at most 65,536
    steps: int | None = None,  # None: 370,000 as published (800 epochs of COCO), or 600 of small
    size: int | None = None,  # pixels of a view; None: 224, or 96 of small
    tile: int = 512,  # pixels; larger images are cut into windows of so many
    batch: int | None = None,  # None: 256 as published, or 32 of small
    lr: float | None = None,  # None: 1.5e-4 for 256 images, as published of ViTs, or 5e-4 of small
    momentum: float | None = None,  # of the slow encoder; None: 0.999 as published, or 0.99 of small
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    colours: bool = True,  # change colours; false: where they mean something, or values stay raw
    seed: int = 0,
    mixing: Mixing = EACH_ONCE,  # of several sets, and of what is drawn of them to measure on
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
) -> Run:
    """An encoder whose features are alike in two views of one thing."""
    is_small = model == "small"
    size = size or (96 if is_small else 224)
    batch = batch or (32 if is_small else 256)
    steps = steps or (600 if is_small else 370_000)
    intake = intake_of(values)
    tiles = Tiles(size=max(tile, size), overlap=0)
    parts, mean_std = architecture(backbone, timm, normalise, intake, start)
    if backbone is None and timm is None and start is None:
        parts = encoder(model, 3 if intake is None or intake.bands is None else len(intake.bands))
    plain: dict[str, Any] = {} if colours and not is_raw(intake) else {"jitter": 0.0, "hue": 0.0, "grey": 0.0}
    task = ContrastConfig(
        backbone=parts,
        levels=levels,
        regions=regions,
        views=ViewsConfig(size=size, area=(0.2, 1.0), rot90=rot90, **plain),
        hidden=256 if is_small else 2048,
        queue=queue,
        momentum=momentum or (0.99 if is_small else 0.999),
        **mean_std,
    )
    whole = Size(height=size, width=size, keep_aspect=False)
    learned, measured = learned_and_measured(data, val, values, mixing, resize=whole, tiles=tiles)
    if regions == "objects":
        if len(data) > 1 or "region" not in levels or mixing.train_fraction is not None:
            what = "regions that are objects are of one set of boxes, and --val are images"
            raise UserError(what, where="--regions", fix="--levels region --data ANNOTATIONS --val IMAGES")
        learned = boxes_at(data[0], AS_FOUND, values, tiles=tiles)
    return Run(
        recipe="contrast",
        streams={
            MAIN: Stream(
                task=task,
                data=learned,
                batch=batch,
                start=start,
                loss_weights={level: 1 / len(levels) for level in levels},
            )
        },
        evals={} if measured is None else {"health": Eval(data=measured, metric=HealthConfig())},
        init=backbone,
        steps=steps,
        optim=AdamW(lr=lr or (5e-4 if is_small else 1.5e-4 * batch / 256), weight_decay=0.1),
        schedule=Schedule(shape="cosine", warmup_steps=steps // 20),
        seed=seed,
        workers=0 if is_small else 4,
        eval_every=max(1, steps // EVALS),
        save_every=max(1, min(1000, steps // 4)),
    )


def tiny() -> Run:
    """A few steps on made-up images; it hardly learns."""
    *learned, measured = sorted(
        path for path in eurosat_folder().rglob("*") if path.is_dir() and any(path.glob("*.jpg"))
    )
    run = recipe(data=tuple(learned), val=(measured,), model="small", steps=6, size=32)
    small: dict[str, Any] = {"backbone": small_vit(), "hidden": 32, "width": 16}
    return quick(run, small)
