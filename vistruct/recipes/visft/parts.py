"""What the first stages of ViSFT share: a frozen backbone, the published optimiser, and how images are shown.

Source: ViSFT (Jiang et al., arXiv:2401.10222): AdamW at 5e-5 (captions 4e-4), decay 1e-4, 2,000 steps of warm-up, a
    cosine to 0 over 150,000 steps (captions 100,000), gradients clipped at norm 0.1, 8 images in a step (captions 256),
    colours normalised by ImageNet's mean and deviation though the backbones learned from CLIP's.
Differs: AdamW is torch's, with epsilon behind the bias correction, and decays neither biases nor norms; bf16 in place
    of float16; only the head that learns is there, and only it is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from vistruct.backbones.eva_vit import EVA02_E, EVA_G, EvaVitConfig
from vistruct.checkpoint.catalogue.find import backbone_of as named_backbone
from vistruct.checkpoint.catalogue.find import entry_of
from vistruct.checkpoint.load import is_ours
from vistruct.checkpoint.weights import backbone_dir
from vistruct.config import MAIN, AdamW, CacheMaps, Eval, Part, Run, Schedule, Stream, Trainable
from vistruct.data.boxes import BoxDataConfig
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.recipes.detect import architecture
from vistruct.recipes.small import quick
from vistruct.samples.made_scenes import coco_folder
from vistruct.tasks.features import least_divisor
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD
from vistruct.transforms.augment import Augment
from vistruct.transforms.sizing import PlacedSizing

Model = Literal["eva_g", "eva02_e"]
Normalisation = Literal["imagenet", "clip", "backbone", "data"]

MODELS: dict[Model, EvaVitConfig] = {"eva_g": EVA_G, "eva02_e": EVA02_E}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1], OpenAI's
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SMALL = EvaVitConfig(width=32, depth=2, heads=2, mlp_width=64, image_size=56)  # for `tiny()`


def backbone_of(
    model: Model | None,
    backbone: Path | None,
    timm: str | None,
    start: Path | None,
    normalise: Normalisation | None,
    intake: Intake | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The backbone's config, and mean and std of what it is shown.

    Args:
        model: one of EVA's; None: that of `timm`, or of `backbone` or `start` where they are ours or have a name.
        start: released heads look at their backbone as published: sides that are no whole patches lose the rest.
        normalise: None: ImageNet's for EVA, as published; of others that which they were trained with.

    Raises:
        UserError: no backbone is named, two are, a file does not say what it is of, or there are no weights.
    """
    if model is not None and timm is not None:
        raise UserError("--model and --timm both name a backbone", where=f"--timm {timm}", fix="leave one of them out")
    if model is None and timm is None and backbone is not None:
        model = _model_named(backbone)
    if model is None and timm is None:
        known = [place for place in (backbone, start) if place is not None]
        if not known:
            what = "a head is to learn to read a backbone, and none is named"
            fix = "--model eva_g --backbone eva_vit_g.pth, or --backbone runs/NAME"
            raise UserError(what, where="--backbone", fix=fix)
        named = backbone is not None and entry_of(backbone) is not None
        if not named and not any(is_ours(p) or backbone_dir(p) is not None for p in known if p.is_dir()):
            what = "a file of weights, and of which backbone is not said"
            raise UserError(what, where=known[0], fix="--model eva_g, --model eva02_e or --timm NAME")
    if backbone is None and (start is None or start.is_file()):
        what = "the backbone stays as it is, and no weights of it are named"
        raise UserError(what, where="--backbone", fix="--backbone FILE, its public weights or a run")
    own = None if normalise in ("imagenet", "clip", "backbone") else normalise
    parts, mean_std = architecture(backbone, timm, own, intake, start if model is None else None)
    if model is not None:
        margin = "crop" if start is not None and start.is_file() else "pad"
        parts = MODELS[model].model_copy(update={"margin": margin, "channels": parts.channels})
    stays = normalise in ("backbone", "data") or mean_std.get("mean") == "data"
    if normalise == "clip":
        return parts, {"mean": CLIP_MEAN, "std": CLIP_STD}
    if normalise == "imagenet" or (model is not None and not stays):
        return parts, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return parts, mean_std


def _model_named(backbone: Path) -> Model | None:
    """Which of EVA's models public weights with a name are of; None: of another, or they have none."""
    entry = entry_of(backbone)
    if entry is None or entry.backbone["kind"] != "eva_vit":
        return None
    width = named_backbone(entry).width
    return next(name for name, model in MODELS.items() if model.width == width)


def stage_one(
    name: str,
    task: Part,
    data: Part,
    evals: dict[str, Eval],
    *,
    backbone: Path | None,
    start: Path | None,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    cache: CacheMaps | None,
) -> Run:
    """A head that learns to read a frozen backbone, with the published optimiser."""
    return Run(
        recipe=name,
        streams={MAIN: Stream(task=task, data=data, batch=batch, start=start)},
        evals=evals,
        init=backbone,
        trainable=(Trainable(pattern="backbone", mode="frozen"),),
        cache_maps=cache,
        steps=steps,
        optim=AdamW(lr=lr, weight_decay=1e-4),
        schedule=Schedule(warmup_steps=min(2000, steps // 10)),
        clip_norm=0.1,
        seed=seed,
        workers=2,
        save_every=1000,
    )


def shown(
    data: BoxDataConfig, augment: Augment | None, plain: PlacedSizing, val: tuple[Path, str | None] | None, metric: Part
) -> tuple[BoxDataConfig, dict[str, Eval]]:
    """The training data varied, or all of it at one size, and what is measured, at that size."""
    train = data.model_copy(update={"augment": augment, "resize": plain if augment is None else None})
    if val is None:
        return train, {}
    whole = {"annotation": val[0], "split": val[1], "resize": plain, "fraction": 1.0, "as_written": True}
    whole |= {"masks": bool(data.masks)}
    whole |= {} if val[0] == data.annotation else {"images": None}
    return train, {"val": Eval(data=data.model_copy(update=whole), metric=metric)}


def kept_maps(folder: str | None, augment: Augment | None, limit_gb: float) -> CacheMaps | None:
    """Where the backbone's maps are kept.

    Raises:
        UserError: images are varied at random, and never come twice.
    """
    if folder is None:
        return None
    if augment is not None:
        what = "images that are varied at random never come twice, so that their maps cannot be kept"
        raise UserError(what, where=f"--cache {folder}", fix="add --no-augment, or leave --cache out")
    return CacheMaps(folder=Path(folder), limit_gb=limit_gb)


def canvas(backbone: Any, side: int, cache: CacheMaps | None) -> int | None:
    """What sides of batches are multiples of: with kept maps at least `side`, so that an image always looks the same,
    whatever lies beside it in a batch; else None, as little as fits."""
    if cache is None:
        return None
    with torch.device("meta"):  # no memory for its weights
        least = least_divisor(backbone.build())
    return -(-side // least) * least


def tiny_for(recipe: Callable[..., Run], head: Part, size: int = 70) -> Run:
    """A few steps on made-up scenes; it hardly learns."""
    folder = coco_folder(("plane", "ship"), "annotations", "{split}", masks=True)
    places = {"data": folder / "annotations/train.json", "val": folder / "annotations/test.json"}
    run = recipe(**places, model="eva_g", backbone=folder, size=size, steps=4)
    return quick(run.model_copy(update={"init": None}), {"backbone": SMALL, "head": head})  # of random weights
