"""Classification of images: a folder for each class, published split lists, or a csv with one class or several.

Run:      vistruct train classify --data data/EuroSAT --train-fraction 0.8 --backbone runs/pretrained
Needs:    the defaults without --backbone (ViT-S) train on one GPU
Expect:   depends on the data; no published number
Source:   crops, RandAugment and random erasing of MTP's scene classification (arXiv:2403.13430), AdamW with layer-wise
          rates; the attentive probe of Chen et al., arXiv:2202.03026
Differs:  batches go on from one epoch into the next
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vistruct.config import Eval, Run
from vistruct.data.at_path import classes_at, intake_of
from vistruct.data.formula import drawn_instead
from vistruct.data.reading import AS_FOUND, AS_THEY_ARE, PixelValues, Reading
from vistruct.errors import UserError
from vistruct.files.intake import Intake
from vistruct.heads.pooled import PooledConfig
from vistruct.metrics.classes import ClassesConfig
from vistruct.recipes.detect import Normalisation, architecture, is_raw, model_at, one_task
from vistruct.recipes.fit import BY_DATA, BatchSize, Fit
from vistruct.recipes.imbalance import AS_MANY, Imbalance, focal_gamma_asked, weights_asked
from vistruct.recipes.small import quick, small_vit
from vistruct.samples.made_classes import eurosat_folder
from vistruct.tasks.classify import ClassifyConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.rand_augment import RandAugment
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.sizing import Size


def recipe(
    *,
    data: Path | None = None,  # folder of class folders, or a csv; None: what `formula` draws
    formula: int | None = None,  # in place of data: so many classes of images that a formula draws (Visual Atoms)
    split: str | None = None,  # part of `data` to train on, where it holds several; None: the only one
    val_split: str | None = None,  # part of `data` to measure on; None: nothing is measured
    train_fraction: float
    | None = None,  # part of each class drawn for training, the rest is measured; None: as on disk
    lists: str | None = None,  # published split lists: a file below the folder, with {split} for its name
    backbone: Path | None = None,  # run, backbone directory or InternViT weights; None: ViT-S from scratch
    timm: str | None = None,  # name of a timm model in place of the ViT; `backbone` is then a file of its weights
    start: Path
    | None = None,  # a classifier to begin with whole, of whatever classes: run or model; or a published file
    pooling: Literal["mean", "attention"] | None = None,  # None: of start, or mean
    multi_label: bool = False,  # any number of classes an image; of words of captions always
    least_count: int | None = None,  # of --format caption-words: images with a word that make it a class; None: 5
    steps: int | None = None,  # None: those of epochs
    size: int = 224,  # pixels that every image is brought to
    batch: BatchSize = 64,  # samples in a step; auto: in micro-batches that fit into memory
    lr: float = 6e-5,
    fraction: float = 1.0,  # part of the training images used
    seed: int = 0,  # of the weights, the order, the split and the choice of the fraction
    rot90: bool = False,  # random rotations by 90 degrees and flips: no up in the images (aerial, microscopy)
    strong: bool = True,  # crops, RandAugment (of 8 bits) and erasing; false: flips and small changes of colour
    reading: Reading = AS_FOUND,  # how the data are read
    values: PixelValues = AS_THEY_ARE,  # of images that are not colours of 8 bits
    normalise: Normalisation | None = None,  # mean and std of; None: backbone, of values in the unit of the files data
    imbalance: Imbalance = AS_MANY,  # of classes
    fit: Fit = BY_DATA,  # how long, and which weights are kept
) -> Run:
    """A classifier; of an image one class, or all that apply."""
    multi_label = multi_label or reading.format == "caption-words"
    intake = intake_of(values)
    augment = _varied(size, rot90, strong, intake)
    whole = Size(height=size, width=size, keep_aspect=False)
    random_split = None if train_fraction is None else {"train": train_fraction, "val": 1 - train_fraction}
    wanted = "val" if random_split or formula is not None else val_split
    if formula is not None:
        said: dict[str, object] = {"--data": data, "--split": split, "--val-split": val_split, "--lists": lists}
        said |= {
            "--train-fraction": random_split,
            "--multi-label": multi_label,
            "--rot90": rot90,
            "--fraction": fraction < 1,
        }
        said |= {"--least-count": least_count}
        augment = augment.model_copy(update={"hflip": False})  # mirrored, a class would be none
        train, val = drawn_instead(formula, said, (reading, values), augment=augment, resize=whole, seed=seed)
    else:
        if data is None:
            raise UserError("nothing to learn from", where="--data", fix="--data FOLDER, or --formula 1000")
        train = classes_at(
            data,
            reading,
            values,
            split="train" if random_split else split,
            lists=lists,
            random_split=random_split,
            split_seed=seed,
            multi_label=multi_label,
            least_count=least_count,
            augment=augment,
            resize=None if strong else whole,
            fraction=fraction,
            fraction_seed=seed,
        )
        val = train.model_copy(update={"split": wanted, "augment": None, "resize": whole, "fraction": 1.0})
    parts, mean_std = architecture(backbone, timm, normalise, intake, start)
    begun = model_at(start, ClassifyConfig)
    head = PooledConfig(pooling=pooling or "mean") if begun is None or pooling is not None else begun.task.head
    neck = None if begun is None else begun.task.neck
    task = ClassifyConfig(
        backbone=parts,
        neck=neck,
        head=head,
        multi_label=multi_label,
        class_weights=weights_asked(imbalance),
        focal_gamma=focal_gamma_asked(imbalance),
        **mean_std,
    )
    evals = {} if wanted is None else {"val": Eval(data=val, metric=ClassesConfig())}
    return one_task(
        "classify",
        task,
        train,
        evals,
        backbone=backbone,
        start=start,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        fit=fit,
        layer_decay=0.9,
    )


def _varied(size: int, rot90: bool, strong: bool, intake: Intake | None) -> Augment:
    if not strong:
        return Augment(hflip=True, vflip=rot90, rot90=rot90, photometric=0.0 if is_raw(intake) else 0.2)
    colours = intake is None or (intake.pixels == "uint8" and (intake.bands is None or len(intake.bands) == 3))
    return Augment(
        hflip=True,
        vflip=rot90,
        rot90=rot90,
        resized_crop=ResizedCrop(height=size, width=size),
        randaug=RandAugment() if colours else None,
        erase=0.25,
    )


def tiny() -> Run:
    """A few steps on made-up images; it hardly learns."""
    run = recipe(data=eurosat_folder(), train_fraction=0.6, steps=6, size=32, batch=4)
    task: Any = run.only.task
    return quick(run, {"backbone": small_vit(), "head": task.head.model_copy(update={"heads": 2})})
