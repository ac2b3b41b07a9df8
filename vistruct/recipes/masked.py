"""Something is hidden and told from the rest, from images without labels: pixels (MAE, Pixio), HOG (MaskFeat),
frequencies (MFM), positions (DropPos);
of pairs of dates one is hidden, and the other seen whole (CroCo).

Run:      vistruct train masked --data images/ --backbone runs/pretrained
          vistruct train masked --data images/ --model small     (minutes on a CPU)
          vistruct train masked --data images/ --target hog
Needs:    published: ViT-L, 800 epochs of ImageNet, 42 hours on 64 V100 (pixels)
Expect:   published, ViT-B fine-tuned on ImageNet: pixels 83.6 (1,600 epochs), HOG 84.0 (1,600), spectrum 83.1
          (300), positions 84.2 (800)
Source:   pixels: He et al., MAE, arXiv:2111.06377, and its public configuration: 75 % of the patches hidden, a decoder
          of 8 blocks, 512 wide, AdamW (0.9, 0.95) with decay 0.05, 1.5e-4 for 256 images, 4,096 in a step, 5 % of the
          steps warm-up, crops of 20 % and more, flips, no change of colour. Squares: Pixio, arXiv:2512.15715.
          hog: Wei et al., MaskFeat, arXiv:2112.09133, and its public configuration: 40 % of the patches replaced, in
          blocks, a linear decoder, 2e-4 for 256 images, gradients clipped at 0.02, 10 % of the steps warm-up, crops of
          50 % and more.
          spectrum: Xie et al., MFM, arXiv:2206.07706, and its public configuration: frequencies inside or outside of a
          circle of 16 px at 224, by chance, a linear decoder, AdamW 3e-4, 2,048 images in a step, gradients clipped at
          3, 7 % of the steps warm-up.
          positions: Wang et al., DropPos, arXiv:2309.03576, and its public configuration: 75 % of the patches hidden,
          75 % of the others without a position, a decoder of 2 blocks, 1.5e-4 for 256 images, 1 % of the steps warm-up
          pairs: Weinzaepfel et al., CroCo, arXiv:2210.10716: 90 % hidden, as remembered; the rest as of pixels
Differs:  steps in place of epochs; bilinear crops; the encoder is InternViT's, and its class token goes through
          the decoder as MAE's does. Images in a step of HOG: not known to us, 2,048; for how many
          MFM's rate is: not known to us, 512; images in
          a step of DropPos: not known to us, 4,096. Its encoder's positions are learned from a start of waves, and not
          fixed. Size small is ours, with a
          convolutional stem, but where positions are told: its padding would tell the border
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vistruct.backbones.intern_vit import InternVitConfig
from vistruct.config import MAIN, AdamW, Eval, Run, Schedule, Stream
from vistruct.data.at_path import intake_of, learned_and_measured
from vistruct.data.formula import drawn_instead
from vistruct.data.reading import AS_THEY_ARE, EACH_ONCE, Mixing, PixelValues
from vistruct.errors import UserError
from vistruct.heads.patch_decoder import LinearPatchesConfig, PatchDecoderConfig
from vistruct.kinds import BackbonePart, DataPart
from vistruct.metrics.health import HealthConfig
from vistruct.metrics.loss import MeanLossConfig
from vistruct.recipes.detect import Normalisation, architecture
from vistruct.recipes.small import quick, small_vit
from vistruct.recipes.vitp.pretrain import SIZES
from vistruct.samples.made_classes import eurosat_folder
from vistruct.tasks.masked import MaskedConfig
from vistruct.tasks.masked_batches import FilterFrequencies, HidePatches
from vistruct.tasks.masked_targets import OrientedGradients, Pixels, Positions, Spectrum
from vistruct.transforms.augment import Augment
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.sizing import Size
from vistruct.windows.tiles import Tiles

EVALS = 8  # times that the loss on `val` is measured in a run
DECODER = PatchDecoderConfig()
Told = Literal["pixels", "hog", "spectrum", "positions"]


@dataclass(frozen=True, kw_only=True)
class _Published:
    """One point of the grid, and what it was trained with."""

    corruption: HidePatches | FilterFrequencies
    target: Pixels | OrientedGradients | Spectrum | Positions
    decoder: PatchDecoderConfig | LinearPatchesConfig = DECODER
    rate: float = 1.5e-4  # for 256 images in a step
    batch: int = 4096
    steps: int = 250_000
    warmup: float = 0.05  # share of the steps
    clip: float = 1.0
    area: float = 0.2  # smallest crop


PUBLISHED: dict[Told, _Published] = {
    "pixels": _Published(corruption=HidePatches(), target=Pixels()),
    "hog": _Published(
        corruption=HidePatches(hidden=0.4, blocks=True, replaced=True),
        target=OrientedGradients(),
        decoder=LinearPatchesConfig(),
        rate=2e-4,
        batch=2048,
        steps=187_500,
        warmup=0.1,
        clip=0.02,
        area=0.5,
    ),
    "spectrum": _Published(
        corruption=FilterFrequencies(),
        target=Spectrum(),
        decoder=LinearPatchesConfig(),
        rate=3e-4 / 2,
        batch=2048,
        steps=187_500,
        warmup=20 / 300,
        clip=3.0,
    ),
    "positions": _Published(
        corruption=HidePatches(unplaced=0.75),
        target=Positions(),
        decoder=PatchDecoderConfig(depth=2),
        warmup=10 / 800,
    ),
}


PAIRS = _Published(corruption=HidePatches(hidden=0.9), target=Pixels(), decoder=PatchDecoderConfig(looks_beside=True))


def _point(target: Told, pairs: bool, formula: int | None) -> _Published:
    if not pairs:
        return PUBLISHED[target]
    for option, is_said in (("--target", target != "pixels"), ("--formula", formula is not None)):
        if is_said:
            what = f"{option} beside pairs of dates, of which pixels of files are told"
            raise UserError(what, where="--pairs", fix=f"leave {option} out")
    return PAIRS


def _small(decoder: PatchDecoderConfig | LinearPatchesConfig) -> PatchDecoderConfig | LinearPatchesConfig:
    if isinstance(decoder, LinearPatchesConfig):
        return decoder
    return decoder.model_copy(update={"width": 96, "depth": 2, "heads": 3})


def _evals(measured: DataPart | None, pairs: bool) -> dict[str, Eval]:
    """The loss as it is learned, and the health of every image by itself."""
    if measured is None:
        return {}
    learned = measured.model_copy(update={"pairs": True}) if pairs else measured
    return {
        "val": Eval(data=learned, metric=MeanLossConfig()),
        "health": Eval(data=measured, metric=HealthConfig()),
    }


def _plain(width: int, depth: int, heads: int, channels: int) -> InternVitConfig:
    return InternVitConfig(
        width=width, depth=depth, heads=heads, mlp_width=4 * width, patch=16, image_size=224, layer_scale=1.0,
        positions="sincos", channels=channels,
    )  # fmt: skip


def encoder(size: Literal["large", "base", "small"], channels: int) -> BackbonePart:
    """A ViT of MAE's form, or the small one of the quick start."""
    return {
        "large": _plain(1024, 24, 16, channels),
        "base": _plain(768, 12, 12, channels),
        "small": SIZES["small"].task.backbone.model_copy(update={"channels": channels}),
    }[size]


def _corrupted(
    published: HidePatches | FilterFrequencies, hidden: float | None, square: int | None
) -> HidePatches | FilterFrequencies:
    asked: dict[str, Any] = {"hidden": hidden, "square": square}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and isinstance(published, FilterFrequencies):
        what = "no patches are hidden where frequencies are removed"
        raise UserError(what, where=f"--{next(iter(asked))}", fix="leave it out, or choose another --target")
    return type(published)(**(published.model_dump() | asked))


def _in_places(parts: Any, told: _Published, size: int, *, is_new: bool) -> tuple[Any, _Published]:
    """An encoder that does not see where the border is, and a class for each of its places."""
    if not isinstance(parts, InternVitConfig):
        what = f"a backbone of kind {parts.kind} always says where a patch lies"
        raise UserError(what, where="--target positions", fix="leave out --timm and --backbone")
    parts = parts.model_copy(update={"stem": "patch"}) if is_new else parts
    side = size // parts.patch
    return parts, replace(told, target=Positions(grid=(side, side)))


def recipe(
    *,
    data: tuple[Path, ...] = (),  # folders of images or volumes, files, .txt lists; large images are cut into windows
    formula: int | None = None,  # in place of data: images of so many classes that a formula draws (Visual Atoms)
    val: tuple[Path, ...] = (),  # images to measure the loss on, never trained on; none: nothing is measured
    backbone: Path | None = None,  # run, backbone directory or weights to go on from; None: random weights
    timm: str | None = None,  # name of a timm ViT to hide from; `backbone` is then a file of its weights
    model: Literal["large", "base", "small"] = "base",  # the encoder, where none is given
    start: Path | None = None,  # a run of this recipe, to go on from with its decoder
    target: Told = "pixels",  # what is told; of each also what is hidden, and the decoder, are as published
    pairs: bool = False,  # every image with another date of its place (--groups), which is seen whole beside it (CroCo)
    hidden: float | None = None,  # share of the patches that is hidden; None: as published, 0.75, hog 0.4, pairs 0.9
    square: int | None = None,  # patches a side of what is hidden together; None: 1; Pixio: 4, with --size 256
    steps: int | None = None,  # None: as published, 250,000 of pixels, or 600 of small
    size: int | None = None,  # pixels of a crop; None: 224, or 96 of small
    tile: int = 512,  # pixels; larger images are cut into windows of so many
    batch: int | None = None,  # None: as published, 4,096 of pixels, or 32 of small
    lr: float | None = None,  # None: as published, 1.5e-4 for 256 images of pixels, or 1e-3 of small
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    seed: int = 0,
    mixing: Mixing = EACH_ONCE,  # of several sets, and of what is drawn of them to measure on
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
) -> Run:
    """An encoder that has learned to tell what is hidden."""
    is_small, told = model == "small", _point(target, pairs, formula)
    size = size or (96 if is_small else 224)
    batch = batch or (32 if is_small else told.batch)
    steps = steps or (600 if is_small else told.steps)
    rate = lr or (1e-3 if is_small else told.rate * batch / 256)
    intake = intake_of(values)
    tiles = Tiles(size=max(tile, size), overlap=0)
    crop = ResizedCrop(height=size, width=size, area=(told.area, 1.0))
    varied = Augment(hflip=True, vflip=rot90, rot90=rot90, resized_crop=crop)
    whole = Size(height=size, width=size, keep_aspect=False)
    parts, mean_std = architecture(backbone, timm, normalise, intake, start)
    if backbone is None and timm is None and start is None:
        bands = 3 if intake is None or intake.bands is None else len(intake.bands)
        parts = encoder(model, bands)
    if isinstance(told.target, Positions):
        parts, told = _in_places(parts, told, size, is_new=backbone is None and timm is None and start is None)
    task = MaskedConfig(
        backbone=parts,
        corruption=_corrupted(told.corruption, hidden, square),
        target=told.target,
        decoder=_small(told.decoder) if is_small else told.decoder,
        **mean_std,
    )
    learned: DataPart
    measured: DataPart | None
    if formula is None:
        more = {"tiles": tiles, "augment": varied, "pairs": pairs}
        learned, measured = learned_and_measured(data, val, values, mixing, resize=whole, **more)
    else:
        said = {"--data": data, "--val": val, "--rot90": rot90}
        learned, measured = drawn_instead(formula, said, (values, mixing), augment=varied, resize=whole, seed=seed)
    return Run(
        recipe="masked",
        streams={MAIN: Stream(task=task, data=learned, batch=batch, start=start)},
        evals=_evals(measured, pairs),
        init=backbone,
        steps=steps,
        optim=AdamW(lr=rate, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=Schedule(shape="cosine", warmup_steps=int(steps * told.warmup)),
        clip_norm=told.clip,
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
    task: Any = run.only.task
    decoder = task.decoder.model_copy(update={"width": 32, "depth": 1, "heads": 2})
    return quick(run, {"backbone": small_vit(stem="conv"), "decoder": decoder})
