"""Self-distillation (DINO, iBOT, DINOv2), from images without labels: made to go on from public weights.

Run:      vistruct train self_distill --data images/ --timm vit_small_patch14_dinov2 --backbone weights.safetensors
          vistruct train self_distill --data images/ --backbone runs/pretrained --lora-rank 8
          vistruct train self_distill --data images/ --model small     (minutes on a CPU)
Needs:    a GPU, but for --model small
Expect:   published iBOT from random weights: ViT-S 77.9 linear on ImageNet, ViT-B 79.5; of going on ExPLoRA
          (arXiv:2406.10973) says up to 8 points of a linear probe on satellite images
Source:   views, hidden patches, temperatures and momentum of DINOv2's public configuration; of iBOT's
          (arXiv:2111.07832) 8,192 prototypes, one head for images and patches, 5e-4 for 256 images, 1,024 in a step,
          decay 0.04 that rises to 0.4, clip 3
Differs:  steps in place of epochs, 10 % of them warm-up; see `vistruct/tasks/self_distill.py`.
          What goes on from weights: heads alone first, a backbone 20 times slower than the heads, held by an anchor to
          its start, decay that does not rise. Size small is ours
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import MAIN, AdamW, Eval, Lora, Run, Schedule, Stream, Trainable, with_values
from vistruct.data.at_path import intake_of, learned_and_measured
from vistruct.data.reading import AS_THEY_ARE, EACH_ONCE, Mixing, PixelValues
from vistruct.errors import UserError
from vistruct.heads.prototypes import PrototypesConfig
from vistruct.metrics.health import HealthConfig
from vistruct.recipes.detect import Normalisation, architecture, is_raw
from vistruct.recipes.masked import encoder
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_classes import eurosat_folder
from vistruct.tasks.self_distill import SelfDistillConfig
from vistruct.transforms.sizing import Size
from vistruct.transforms.views import ViewsConfig
from vistruct.windows.tiles import Tiles

EVALS = 8  # times that the features are looked at in a run
SLOWER = 0.05  # rate of a backbone that goes on, as part of the heads'
MOST_HEADS_FIRST = 500  # steps
NEIGHBOURS = 1024  # class tokens of earlier steps, among which KoLeo looks for the nearest


def recipe(
    *,
    data: tuple[Path, ...],  # folders of images or volumes, files, .txt lists; large images are cut into windows
    val: tuple[Path, ...] = (),  # images that features are watched on, never trained on; none: nothing is watched
    backbone: Path | None = None,  # run, backbone directory or weights to go on from; None: random weights
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    model: Literal["large", "base", "small"] = "base",  # the encoder, where none is given
    start: Path | None = None,  # a run of this recipe, to go on from with its heads
    lora_rank: int | None = None,  # of adapters on the backbone, which is frozen beside them; None: all of it learns
    anchor: Literal["gram", "feature", "none"] | None = None,  # to `backbone` as it was; None: gram if there is one
    anchor_weight: float = 1.0,  # beside the other terms; of 1 as much as the patches of an image differ at the start
    heads_first: int | None = None,  # steps in which the heads learn alone; None: a tenth if it goes on, 500 at most
    centring: Literal["mean", "sinkhorn"] = "mean",  # what keeps the prototypes in use
    koleo: float = 0.0,  # weight of KoLeo, which spreads class tokens apart; DINOv2: 0.1
    steps: int | None = None,  # None: 125,000, 10,000 if it goes on, 600 of small
    size: int | None = None,  # pixels of a global view; None: 224, or 96 of small
    local_size: int | None = None,  # pixels of a local view; None: 96, or 48 of small
    local_views: int | None = None,  # how many; None: 8, or 2 of small
    tile: int = 512,  # pixels; larger images are cut into windows of so many
    batch: int | None = None,  # None: 1,024 as published, or 16 of small
    lr: float | None = None,  # of the heads; None: 5e-4 for 256 images, as published, or 1e-3 of small
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    colours: bool = True,  # change colours; false: where they mean something, or values stay raw
    seed: int = 0,
    mixing: Mixing = EACH_ONCE,  # of several sets, and of what is drawn of them to measure on
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
) -> Run:
    """An encoder that says of a part of an image, and of what is hidden, what it says of the whole."""
    is_small, goes_on = model == "small", backbone is not None or start is not None
    size = size or (96 if is_small else 224)
    local_size = local_size or (48 if is_small else 96)
    batch = batch or (16 if is_small else 1024)
    steps = steps or (600 if is_small else 10_000 if goes_on else 125_000)
    intake = intake_of(values)
    parts, mean_std = architecture(backbone, timm, normalise, intake, start)
    if backbone is None and timm is None and start is None:
        parts = encoder(model, 3 if intake is None or intake.bands is None else len(intake.bands))
    if backbone is None and anchor not in (None, "none"):
        what = f"--anchor {anchor} holds the backbone near the weights of --backbone, and there are none"
        raise UserError(what, where="--anchor", fix="leave --anchor out, or name the weights: --backbone FILE")
    plain: dict[str, Any] = {} if colours and not is_raw(intake) else {"jitter": 0.0, "hue": 0.0, "grey": 0.0}
    wide: dict[str, Any] = {"number": 1, "size": size, "area": (0.32, 1.0), "rot90": rot90, **plain}
    dark = 0.2 if colours else 0.0
    number = local_views if local_views is not None else (2 if is_small else 8)
    narrow = ViewsConfig(number=max(1, number), size=local_size, area=(0.05, 0.32), rot90=rot90, **plain)
    task = SelfDistillConfig(
        backbone=parts,
        global_views=(ViewsConfig(**wide, blur=1.0), ViewsConfig(**wide, blur=0.1, solarise=dark)),
        local_views=(narrow,) if number > 0 else (),
        head=PrototypesConfig(hidden=256, bottleneck=64, number=512) if is_small else PrototypesConfig(),
        momentum=0.99 if is_small else 0.992,
        centring=centring,
        heads_first=heads_first or 0,
        last_layer_first=steps // 100,
        koleo=NEIGHBOURS if koleo > 0 else 0,
        **mean_std,
    )
    tiles = Tiles(size=max(tile, size), overlap=0)
    whole = Size(height=size, width=size, keep_aspect=False)
    learned, measured = learned_and_measured(data, val, values, mixing, resize=whole, tiles=tiles)
    run = Run(
        recipe="self_distill",
        streams={
            MAIN: Stream(
                task=task, data=learned, batch=batch, start=start, loss_weights={"koleo": koleo} if koleo > 0 else {}
            )
        },
        evals={} if measured is None else {"health": Eval(data=measured, metric=HealthConfig())},
        init=backbone,
        trainable=() if lora_rank is None else (Trainable(pattern="backbone", mode="lora", lora=Lora(rank=lora_rank)),),
        steps=steps,
        optim=AdamW(lr=lr or (1e-3 if is_small else 5e-4 * batch / 256), weight_decay=0.04, final_weight_decay=0.4),
        schedule=Schedule(shape="cosine", warmup_steps=steps // 10),
        clip_norm=3.0,
        seed=seed,
        workers=0 if is_small else 4,
        eval_every=max(1, steps // EVALS),
        save_every=max(1, min(1000, steps // 4)),
    )
    if not goes_on:
        return run
    return going_on(run, backbone, anchor=anchor, anchor_weight=anchor_weight, heads_first=heads_first)


def going_on(
    run: Run,
    backbone: Path | None,
    *,
    anchor: Literal["gram", "feature", "none"] | None = None,
    anchor_weight: float = 1.0,
    heads_first: int | None = None,
    **others: object,
) -> Run:
    """A run of this recipe as it goes on from weights: heads first, then a slow backbone, held near to its start.

    Args:
        backbone: weights of the backbone alone, which need not be there yet; None: those of a whole run, not held.
        anchor: and what follows it as in `recipe`; `others` are its options that have no part in this.
    """
    stream = run.streams[MAIN]
    held = "none" if backbone is None else anchor or "gram"
    told: dict[str, Any] = {
        "heads_first": min(MOST_HEADS_FIRST, run.steps // 10) if heads_first is None else heads_first,
        "last_layer_first": 0,
        "anchor": None if held == "none" else backbone,
        "anchor_by": "feature" if held == "feature" else "gram",
    }
    weights = {"anchor": anchor_weight} if held != "none" and anchor_weight != 1 else {}
    stream = stream.model_copy(
        update={"task": stream.task.model_copy(update=told), "loss_weights": weights | stream.loss_weights}
    )
    slow = run.trainable or (Trainable(pattern="backbone", lr_factor=SLOWER),)
    optim = run.optim.model_copy(update={"final_weight_decay": None})
    return with_values(run, streams={MAIN: stream}, trainable=slow, optim=optim)


def tiny() -> Run:
    """A few steps on made-up images; it hardly learns."""
    *learned, measured = sorted(
        path for path in eurosat_folder().rglob("*") if path.is_dir() and any(path.glob("*.jpg"))
    )
    run = recipe(data=tuple(learned), val=(measured,), model="small", steps=6, size=32, local_size=16)
    small = PrototypesConfig(hidden=32, bottleneck=16, number=24)
    return quick(run, {"backbone": small_vit(), "head": small})
