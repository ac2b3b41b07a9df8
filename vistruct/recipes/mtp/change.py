"""What MTP's published change detectors share: a UNet on the absolute differences of both images' maps.

Source: the change detection configurations of MTP's public code: steps of 32 pairs, five epochs of warm-up, a cosine to
    0; pairs rotated by up to 20 degrees half of the time, or mirrored, before and after exchanged half of the time,
    colours changed a little and each on its own.
Differs from all of them: over a ViT, whose four maps all have stride 16, the published decoder goes on to twice the
    resolution of the image, which its loss then shrinks: here it ends at the image's. What turns into view is neither
    class.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval
from vistruct.data.maps import MapDataConfig
from vistruct.heads.unet import UNetConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.mtp.fine_tuning import RATES, Downstream, Model, backbone, cosine
from vistruct.recipes.vitp.segmentation import NARROW
from vistruct.tasks.segment import SegmentConfig
from vistruct.transforms.augment import Augment
from vistruct.windows.slide import Slide
from vistruct.windows.tiles import Tiles


def pairs(
    name: str,
    *,
    epochs: int,
    steps_an_epoch: int,
    size: int = 256,
    tile: int | None = None,
    format: str = "change_folders",
) -> Downstream:
    """A published change detector, learned from `train` and measured on `test`.

    Args:
        tile: pixels of what pairs are cut into, which is shown at `size`; None: of that size.
    """

    def data(root: Path, split: str, size: int) -> tuple[MapDataConfig, dict[str, Eval]]:
        train = MapDataConfig(
            root=root,
            format=format,
            split=split,
            tiles=Tiles(size=tile or size, overlap=0),
            resize=None if tile is None else size / tile,
            augment=varied(size),
        )
        whole = train.model_copy(update={"split": "test", "augment": None, "tiles": None})
        test = Eval(data=whole, metric=PixelsConfig(positive="changed"))
        return train, {} if "test" in split.split("+") else {"test": test}

    return Downstream(
        name=name,
        size=size,
        split="train",
        batch=32,
        steps=epochs * steps_an_epoch,
        rates=RATES,
        data=data,
        task=task,
        schedule=cosine(epochs),
    )


def varied(size: int) -> Augment:
    """How pairs of `size` pixels are varied."""
    return Augment(
        rotate=0.5,
        rotate_range=(-20.0, 20.0),
        rot_flip=0.5,
        crop=(size, size),
        crop_max_share=0.75,
        exchange=0.5,
        distort=NARROW,
    )


def task(model: Model, size: int) -> SegmentConfig:
    stride = 2 if model == "intern_xl" else 1  # after four blocks, from stride 32 or 16
    return SegmentConfig(
        kind="change",
        backbone=backbone(model, maps="blocks", size=size),
        head=UNetConfig(stride=stride),
        fusion="difference",
        size_divisor=32,
        slide=Slide(size=size, overlap=0),
    )
