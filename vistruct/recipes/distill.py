"""Distillation, from images without labels: a backbone learns the maps of one frozen teacher or several.

Run:      vistruct train distill --data images/ --teacher runs/large --model small     (minutes on a CPU)
          vistruct train distill --data images/ --teacher vit_small_patch14_dinov2.lvd142m=dinov2_s.safetensors \\
              --teacher runs/ours --backbone runs/pretrained
Needs:    one GPU for size base
Expect:   no published number for these settings
Source:   rates, decay, crops, flips and colours of the public configuration of LightlyTrain's distillation: AdamW 5e-4
          for 1,536 images, by the square root of their number, decay 0.04, crops of 14 % and more, colours 0.4.
          Several teachers with a head each, their channels standardised: RADIO, arXiv:2312.06709
Differs:  no mixing of images, no queue; colours change for the student alone, in every image; steps in place of epochs.
          Size small is ours, with a convolutional stem
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.checkpoint.tensors import write_tensors
from vistruct.config import MAIN, AdamW, Eval, Run, Schedule, Stream
from vistruct.data.at_path import intake_of, learned_and_measured
from vistruct.data.reading import AS_THEY_ARE, EACH_ONCE, Mixing, PixelValues
from vistruct.errors import UserError
from vistruct.metrics.health import HealthConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes.detect import Normalisation, architecture, is_raw
from vistruct.recipes.masked import encoder
from vistruct.recipes.small import quick, small_vit
from vistruct.recipes.visft.parts import kept_maps
from vistruct.samples.made_classes import eurosat_folder
from vistruct.samples.made_scenes import kept_by_content
from vistruct.tasks.distill import DistillConfig, LessonConfig
from vistruct.tasks.teacher import TeacherConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles

EVALS = 8  # times that the loss on `val` is measured in a run
LIGHTLY_BATCH = 1536  # images that its rate is for


def recipe(
    *,
    data: tuple[Path, ...],  # folders of images or volumes, files, .txt lists; large images are cut into windows
    teacher: tuple[str, ...],  # runs or backbone directories, or NAME=FILE: weights of timm's model of that name
    val: tuple[Path, ...] = (),  # images to measure the loss on, never trained on; none: nothing is measured
    backbone: Path | None = None,  # run, backbone directory or weights to go on from; None: random weights
    model: Literal["large", "base", "small"] = "base",  # the student, where none is given
    start: Path | None = None,  # a run of this recipe with the same teachers, to go on from with its heads
    features: Literal["mse", "cosine", "smooth_l1", "none"] = "mse",  # loss of each cell of a teacher's map
    head: Literal["linear", "mlp"] = "linear",  # between the student's channels and a teacher's
    relations: Literal["gram", "kl", "none"] = "none",  # loss of how the cells of an image relate
    colours: float | None = None,  # largest change of colour, for the student alone; None: 0.4, of raw values 0
    steps: int | None = None,  # None: 50,000, or 600 of small
    size: int | None = None,  # pixels of a crop; None: 224, or 96 of small
    tile: int = 512,  # pixels; larger images are cut into windows of so many
    batch: int | None = None,  # None: 256, or 32 of small
    lr: float | None = None,  # None: 5e-4 for 1,536 images, by the square root of their number, or 1e-3 of small
    augment: bool = True,  # crops and flips; --no-augment: whole images or windows, brought to the size of a crop
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    cache: str | None = None,  # folder for the teachers' maps, computed once; with --no-augment
    cache_limit: float = 200.0,  # GB that the maps of each teacher may take there
    seed: int = 0,
    mixing: Mixing = EACH_ONCE,  # of several sets, and of what is drawn of them to measure on
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
) -> Run:
    """A backbone that has learned what its teachers see."""
    is_small = model == "small"
    size = size or (96 if is_small else 224)
    batch = batch or (32 if is_small else 256)
    steps = steps or (600 if is_small else 50_000)
    rate = lr or (1e-3 if is_small else 5e-4 * math.sqrt(batch / LIGHTLY_BATCH))
    intake = intake_of(values)
    tiles = Tiles(size=max(tile, size), overlap=0)
    crop = ResizedCrop(height=size, width=size, area=(0.14, 1.0))
    varied = Augment(hflip=True, vflip=rot90, rot90=rot90, resized_crop=crop) if augment else None
    if rot90 and not augment:
        raise UserError("turned images are varied ones", where="--rot90", fix="leave --rot90 or --no-augment out")
    whole = Size(height=size, width=size, keep_aspect=False)
    parts, mean_std = architecture(backbone, None, normalise, intake, start)
    if backbone is None and start is None:
        parts = encoder(model, 3 if intake is None or intake.bands is None else len(intake.bands))
    asked: dict[str, Any] = {"features": features, "head": head, "relations": relations}
    task = DistillConfig(
        backbone=parts,
        lessons={name: LessonConfig(teacher=one, **asked) for name, one in teachers_of(teacher).items()},
        colours=colours if colours is not None else 0.0 if is_raw(intake) else 0.4,
        **mean_std,
    )
    learned, measured = learned_and_measured(data, val, values, mixing, resize=whole, tiles=tiles, augment=varied)
    learned = learned.model_copy(update={"resize": None if augment else whole})
    evals = {}
    if measured is not None:
        evals = {
            "val": Eval(data=measured, metric=MeanLossConfig()),
            "health": Eval(data=measured, metric=HealthConfig()),
        }
    return Run(
        recipe="distill",
        streams={MAIN: Stream(task=task, data=learned, batch=batch, start=start)},
        evals=evals,
        init=backbone,
        cache_maps=kept_maps(cache, varied, cache_limit),
        steps=steps,
        optim=AdamW(lr=rate, weight_decay=0.04),
        schedule=Schedule(shape="cosine", warmup_steps=steps // 20),
        seed=seed,
        workers=0 if is_small else 4,
        eval_every=max(1, steps // EVALS),
        save_every=max(1, min(1000, steps // 4)),
    )


def teachers_of(said: Sequence[str]) -> dict[str, TeacherConfig]:
    """Teachers by names made of what is said of them.

    Args:
        said: each a run, a backbone directory or a file that `--backbone` takes, or NAME=FILE, where NAME is timm's.

    Raises:
        UserError: a name that timm does not have.
    """
    found: dict[str, TeacherConfig] = {}
    for one in said:
        timm, _, file = one.rpartition("=") if not Path(one).exists() else ("", "", one)
        parts, mean_std = architecture(Path(file), timm or None)
        path = Path(file).parent if Path(file).name == "backbone" else Path(file)
        name = "t_" + re.sub(r"[^0-9A-Za-z]+", "_", timm or path.resolve().stem)
        same = sum(other == name or other.startswith(f"{name}_again") for other in found)
        name += f"_again{same}" if same else ""
        told = {key: value for key, value in mean_std.items() if value != "data"}
        found[name] = TeacherConfig(backbone=parts, weights=Path(file), **told)
    return found


def tiny() -> Run:
    """A few steps on made-up images, from a small teacher that knows nothing itself."""
    *learned, measured = sorted(
        path for path in eurosat_folder().rglob("*") if path.is_dir() and any(path.glob("*.jpg"))
    )
    taught = TeacherConfig(backbone=small_vit(), weights=kept_by_content(_teacher) / "teacher.safetensors")
    run = recipe(data=tuple(learned), teacher=(str(taught.weights),), val=(measured,), model="small", steps=6, size=32)
    lessons: Any = {"made": LessonConfig(teacher=taught, relations="gram")}
    return quick(run, {"backbone": small_vit(stem="conv"), "lessons": lessons})


def _teacher(folder: Path) -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        write_tensors(folder / "teacher.safetensors", small_vit().build().state_dict())
