"""What MTP's published detectors share: RetinaNet, Faster R-CNN and Oriented R-CNN on a pyramid over four maps.

Source: the detection configurations of MTP's public code for MMDetection 3 and MMRotate 1: 500 steps of warm-up, a
    tenth of the rate after epochs 8 and 11 of 12; a ViT's maps are those of four blocks, whose full attention has no
    relative positions. The same data in the other directory, for MMRotate 0.3.4, are set apart by a clipping of
    gradients at 35 and a warm-up from a third of the rate; those files cannot be run with the published MMRotate.
Differs from all of them: windows are cut while training; objects that a window or a turn leaves in view stay by the
    share of them that shows, not by where their centre is.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Part
from vistruct.data.boxes import BoxDataConfig
from vistruct.heads.faster_rcnn import FasterRcnnConfig
from vistruct.heads.oriented_rcnn import OrientedRcnnConfig
from vistruct.heads.retina import RetinaConfig
from vistruct.heads.roi_stage import RoiConfig
from vistruct.heads.rpn import RpnConfig
from vistruct.metrics.oriented import OrientedBoxesConfig
from vistruct.necks.fpn import FpnConfig
from vistruct.recipes.mtp.fine_tuning import Model, backbone, step_schedule
from vistruct.tasks.dense import DetectConfig
from vistruct.transforms.augment import Augment
from vistruct.windows.tiles import Tiles

TWELVE_EPOCHS = step_schedule(12, (8, 11))
FLIPS = Augment(hflip=True, vflip=True, dflip=True, flips="one")  # of images from above: one of three, or none


def retina(model: Model, size: int) -> DetectConfig:
    """RetinaNet on P3 to P7."""
    neck = FpnConfig(skip=1, extra_levels=2, extra="conv")
    return _detector(model, size, neck, RetinaConfig(max_detections=100), recompute=False)


def faster_rcnn(model: Model, size: int) -> DetectConfig:
    """Faster R-CNN with L1 losses of both boxes."""
    rpn, roi = RpnConfig(beta=0.0, least_iou=0.3), RoiConfig(beta=0.0, sampling=0)
    return _detector(model, size, FpnConfig(), FasterRcnnConfig(rpn=rpn, roi=roi, max_detections=100), recompute=True)


def oriented_rcnn(model: Model, size: int) -> DetectConfig:
    return _detector(model, size, FpnConfig(), OrientedRcnnConfig(), recompute=True)


def _detector(model: Model, size: int, neck: Part, head: Part, *, recompute: bool) -> DetectConfig:
    trunk = backbone(model, maps="branches", size=size, recompute=recompute)
    return DetectConfig(backbone=trunk, neck=neck, head=head, size_divisor=32)


def whole_images(train: BoxDataConfig, metric: Part) -> tuple[BoxDataConfig, dict[str, Eval]]:
    """Data that is learned from, and the split `test` of it, where that is not."""
    test = train.model_copy(update={"split": "test", "augment": None, "as_written": True})
    return train, {} if "test" in str(train.split).split("+") else {"test": Eval(data=test, metric=metric)}


def oriented_windows(
    root: Path, split: str, *, format: str, classes: tuple[str, ...], size: int, tiles: Tiles, augment: Augment
) -> tuple[BoxDataConfig, dict[str, Eval]]:
    """Windows of large images with oriented boxes; `val` is measured where that is not learned from.

    Args:
        tiles: in training; what is measured comes in windows of `size` that share a fifth.
    """
    train = BoxDataConfig(
        annotation=root, format=format, split=split, classes=classes, tiles=tiles, augment=augment, oriented=True
    )
    whole = {"split": "val", "augment": None, "tiles": Tiles(size=size, overlap=_gap(size))}
    val = Eval(data=train.model_copy(update=whole), metric=OrientedBoxesConfig(rule="11-point"))
    return train, {} if "val" in split.split("+") else {"val": val}


def cut(size: int) -> Tiles:
    """Windows with objects in them that share 200 of 1024 pixels; an object counts where 70 % of it shows."""
    return Tiles(size=size, overlap=_gap(size), min_kept=0.7, skip_empty=True)


def _gap(size: int) -> int:
    return round(size * 200 / 1024)
