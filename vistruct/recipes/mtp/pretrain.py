"""Pretraining of a backbone by its images' own labels: pixels, masks and oriented boxes, on any number of data sets.

Run:      vistruct train mtp.pretrain --data sota=SAMRS/SOTA-RBB --data sior=SAMRS/SIOR --data fast=SAMRS/FAST
              --model rvsa_l --backbone mae_vit_l.pth --devices 32
Needs:    published: 32 accelerators of one image of each data set
Expect:   no published number of its own; what it brings: the recipes `mtp.*`
Source:   MTP (Wang et al., arXiv:2403.13430) and SAMRS (arXiv:2305.02034): AdamW at 6e-5 (InternImage 2e-5), a cosine
          to 0 over 80,000 steps without warm-up, gradients clipped at norm 5, drop path 0.1 (0.2); UPerNet of 256
          channels, Mask R-CNN and Oriented R-CNN, each with a trunk that all data sets share and last layers of their
          own; images brought to a factor of 0.5 to 2 of the size, a crop of it, one flip of three or none, colours;
          every term of the loss counts once
Differs:  layer decay is applied to ViTs too: the public code looks for layers under a name that they do not have.
          Labels lie where their pixels are: there those of images that come out smaller than the crop, a third of all,
          are stretched over its margin. Both are as published with `--as-published`, and so is float32 in place of
          bf16. Images are read by workers, not by the training process. Each term is divided by its own units over the
          whole step; what belongs to no class is background for pixels, crowds and margins are left out of account.
          Boxes are those of the annotations where there are some, not hulls of masks. An image whose objects are all
          cut away teaches background; there another one is drawn. Biases of windows (RVSA) are not decayed. Resuming
          goes on with the same samples at the same rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vistruct.checkpoint.mtp_decoders import PARTS
from vistruct.config import STREAM_NAME, AdamW, Eval, Part, Run, Schedule, Stream
from vistruct.data.at_path import boxes_at
from vistruct.data.boxes import BoxDataConfig
from vistruct.data.formats.boxes.published import FAST, SOTA
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, Named, PixelValues, Reading
from vistruct.errors import UserError, closest
from vistruct.metrics.coco import CocoMasksConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.mtp.fine_tuning import LAYER_DECAY, RATES, Model, model_of, small_parts
from vistruct.recipes.mtp.fine_tuning import backbone as backbone_of
from vistruct.recipes.options import convert
from vistruct.samples.made_scenes import samrs_folder
from vistruct.tasks.dense import DetectConfig
from vistruct.tasks.segment import SegmentConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.distort import Distort
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles

TaskName = Literal["ss", "is", "rd"]  # semantic segmentation, instance segmentation, oriented (rotated) detection
METRICS: dict[str, Part] = {"ss": PixelsConfig(), "is": CocoMasksConfig(), "rd": OrientedBoxesConfig(rule="11-point")}


def recipe(
    *,
    data: tuple[Named, ...],  # NAME=PATH of annotated objects, in any format that `vistruct check` knows; repeat
    val: tuple[Named, ...] = (),  # NAME=PATH to measure on, never trained on; of the names in --data
    split: str | None = None,  # part of each data set to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part to measure on, of --val, or of --data where there is none
    tasks: tuple[TaskName, ...] = ("ss", "is", "rd"),  # pixels, masks, oriented boxes: any of them
    model: Model | None = None,  # None: that of the name of backbone, or rvsa_b
    backbone: Path | None = None,  # MAE's or InternImage's weights, a run or a backbone directory; None: random weights
    size: int | None = None,  # pixels of a crop, both sides; None: 224 for rvsa_b, else 448
    tile: int | None = None,  # pixels of windows that large images are cut into before; None: images whole
    batch: int = 96,  # images in a step, over all data sets and devices
    batches: Literal["avg", "ratio"] = "avg",  # as many images of each data set, or as their numbers of images are
    weight: tuple[Named, ...] = (),  # TASK=FACTOR on the loss of a task, such as ss=2; 1 where nothing is said
    steps: int = 80_000,
    lr: float | None = None,  # None: the published one of the model
    recompute: bool = False,  # activations: less memory, more time
    as_published: bool = False,  # no layer decay of ViTs, labels stretched over margins, float32: see Differs
    seed: int = 0,
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
) -> Run:
    """One backbone, up to three tasks, any number of data sets, all in every step."""
    sets, model = _paths(data, "--data"), model_of(model, backbone)
    if size is None:
        size = 224 if model == "rvsa_b" else 448
    if size < 1:
        raise UserError(f"crops of {size} pixels", where=f"--size {size}", fix="--size 224, or leave it out")
    wanted = [name for name in METRICS if name in tasks]
    if not wanted:
        raise UserError("no task to learn", where="--tasks", fix="--tasks ss,is,rd")
    factors = _factors(weight, wanted)
    measured = _paths(val, "--val") or (sets if val_split else {})
    strangers = sorted(measured.keys() - sets.keys())
    if strangers:
        raise UserError(f"no data set {strangers[0]!r}", where="--val", fix=closest(strangers[0], sets))
    if "ss" in wanted and reading.label_maps == "none":
        reading = replace(reading, label_maps="painted")
    train = {name: _data(path, reading, values, wanted, split, size, tile) for name, path in sets.items()}
    varied = augment(size, stretch=as_published)
    shares = _shares(train, batch, batches)
    trunk: Any = backbone_of(model, maps="pyramid", size=size, recompute=recompute)
    trunk = trunk.model_copy(update={"drop_path": 0.2 if _is_conv(model) else 0.1})
    first = next(iter(sets))
    streams, evals = {}, {}
    for name, part in train.items():
        for task in wanted:
            streams[f"{name}_{task}"] = Stream(
                task=_task(task, trunk),
                data=part.model_copy(update={"augment": varied}),
                batch=shares[name],
                weight=factors.get(task, 1.0),
                samples="" if task == wanted[0] else f"{name}_{wanted[0]}",
                trunk="" if name == first else f"{first}_{task}",
            )
            if name in measured:
                whole = {"annotation": measured[name], "split": val_split, "resize": _whole(size, tile)}
                of = part.model_copy(update=whole | ({} if measured[name] == sets[name] else {"images": None}))
                evals[f"{name}_{task}"] = Eval(data=of, metric=METRICS[task], task=f"{name}_{task}")
    return Run(
        recipe="mtp.pretrain",
        streams=streams,
        one_pass=True,
        evals=evals,
        init=backbone,
        steps=steps,
        optim=AdamW(
            lr=RATES[model] if lr is None else lr,
            weight_decay=0.05,
            layer_decay=1.0 if as_published and not _is_conv(model) else LAYER_DECAY[model],
        ),
        schedule=Schedule(shape="cosine"),
        clip_norm=5.0,
        amp="off" if as_published else "auto",
        seed=seed,
        workers=4,
        save_every=1000,
    )


def tiny() -> Run:
    """A few steps of all three tasks on two made-up data sets in the layout of SAMRS; it hardly learns."""
    sets = tuple(Named(f"{name}={samrs_folder(names)}") for name, names in (("sota", SOTA), ("fast", FAST)))
    run = recipe(data=sets, split="train", val_split="valid", size=96, batch=4, steps=4)
    tasks: dict[str, Any] = {name: one.task for name, one in run.streams.items()}
    small = {name: task.model_copy(update=small_parts(task)) for name, task in tasks.items()}
    streams = {name: one.model_copy(update={"task": small[name]}) for name, one in run.streams.items()}
    return run.model_copy(update={"streams": streams, "workers": 0, "log_every": 1})


def augment(size: int, *, stretch: bool = False) -> Augment:
    """The published variation of crops of `size` pixels."""
    return Augment(
        hflip=True,
        vflip=True,
        dflip=True,
        flips="one",
        fit=(size, size),
        scale=(0.5, 2.0),
        scale_draw="even",
        crop=(size, size),
        stretch_labels=stretch,
        distort=Distort(),
    )


def _task(name: str, backbone: Part) -> Part:
    """The published decoder of a task, and what is measured of it."""
    neck, head = PARTS[name]
    if name == "ss":
        return SegmentConfig(backbone=backbone, neck=neck, head=head, size_divisor=32)
    return DetectConfig(backbone=backbone, neck=neck, head=head, size_divisor=32)


def _data(
    path: Path,
    reading: Reading,
    values: PixelValues,
    tasks: Sequence[str],
    split: str | None,
    size: int,
    tile: int | None,
) -> BoxDataConfig:
    return boxes_at(
        path,
        reading,
        values,
        split=split,
        masks="is" in tasks,
        oriented="rd" in tasks,
        tiles=None if tile is None else Tiles(size=tile, overlap=tile // 4),
    )


def _whole(size: int, tile: int | None) -> Size:
    """How large an image is measured: as it would fill a crop."""
    return Size(height=size, width=size)


def _shares(train: Mapping[str, BoxDataConfig], batch: int, how: str) -> dict[str, int]:
    """Images of each data set in a step, together `batch`; of each at least two, or one where there is no more room.

    Two, for the norms of the decoder of pixels know nothing of a pooled map of one cell of one image.

    Raises:
        UserError: fewer images than data sets.
    """
    if batch < len(train):
        what = f"{batch} images in a step, of {len(train)} data sets"
        raise UserError(what, where="--batch", fix=f"--batch {len(train)}, or more")
    sizes = {name: 1 if how == "avg" else len(part.build()) for name, part in train.items()}
    least = 2 if batch >= 2 * len(sizes) else 1
    left = batch - least * len(sizes)
    exact = {name: left * number / sum(sizes.values()) for name, number in sizes.items()}
    shares = {name: least + int(part) for name, part in exact.items()}
    most = sorted(exact, key=lambda name: int(exact[name]) - exact[name])  # largest remainder first
    for name in most[: batch - sum(shares.values())]:
        shares[name] += 1
    return shares


def _paths(given: tuple[Named, ...], flag: str) -> dict[str, Path]:
    """Folders (or files) by the names of their data sets.

    Raises:
        UserError: one without a name, a name twice or one that no stream can have, no such path.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, is_one, place = text.partition("=")
        if not (is_one and place and STREAM_NAME.fullmatch(name)):
            wrong = f"a data set called {name!r}" if is_one and place else "no data set with a name"
            fix = f"{flag} NAME=PATH, as {flag} fast=data/FAST; small letters, digits and _, a letter first, in a name"
            raise UserError(wrong, where=f"{flag} {text}", fix=fix)
        if name in found:
            raise UserError(f"two data sets are called {name!r}", where=flag, fix="give each a name of its own")
        found[name] = convert(place, Path, flag)
    return found


def _factors(given: tuple[Named, ...], tasks: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, factor = text.partition("=")
        if name not in tasks:
            learn = (
                f"--tasks {','.join([*tasks, name])}, or leave this out" if name in METRICS else closest(name, tasks)
            )
            raise UserError(f"no task {name!r} is learned", where=f"--weight {text}", fix=learn)
        if name in found:
            raise UserError(f"two weights of {name!r}", where=f"--weight {text}", fix="give one")
        found[name] = convert(factor, float, f"--weight {name}=")
    return found


def _is_conv(model: Model) -> bool:
    return model == "intern_xl"
