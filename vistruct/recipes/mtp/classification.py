"""What MTP's published classifiers share: the mean of the last map and a linear layer, and how images are varied.

Source: the scene classification configurations of MTP's public code: MMPretrain's RandomResizedCrop, a flip,
    RandAugment (`timm_increasing`, 2 operations of magnitude 9, deviation 0.5), a quarter of the images with a hole of
    noise; no norm between the mean and the last layer; measured on 7/8 of an image, the middle, at the training's size.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.image_classes import ClassDataConfig
from vistruct.heads.pooled import PooledConfig
from vistruct.metrics.classes import ClassesConfig
from vistruct.recipes.mtp.fine_tuning import RATES, Downstream, Model, backbone, cosine
from vistruct.tasks.classify import ClassifyConfig
from vistruct.transforms.augment import Augment
from vistruct.transforms.rand_augment import RandAugment
from vistruct.transforms.resized_crop import ResizedCrop
from vistruct.transforms.sizing import Size


def scenes(name: str, *, epochs: int, steps_an_epoch: int) -> Downstream:
    """A published classifier, on steps of 64 images."""
    return Downstream(
        name=name,
        size=224,
        split="train",
        batch=64,
        steps=epochs * steps_an_epoch,
        rates=RATES,
        data=data,
        task=task,
        schedule=cosine(epochs),
    )


def data(root: Path, split: str, size: int) -> tuple[ClassDataConfig, dict[str, Eval]]:
    """Varied images, and `val` where that is not learned from."""
    augment = Augment(hflip=True, resized_crop=ResizedCrop(height=size, width=size), randaug=RandAugment(), erase=0.25)
    train = ClassDataConfig(root=root, split=split, augment=augment)
    middle = Size(height=size, width=size, middle=224 / 256)
    val = train.model_copy(update={"split": "val", "augment": None, "resize": middle})
    return train, {} if "val" in split.split("+") else {"val": Eval(data=val, metric=ClassesConfig())}


def task(model: Model, size: int) -> ClassifyConfig:
    return ClassifyConfig(backbone=backbone(model, maps="last", size=size), head=PooledConfig(norm="none"))
