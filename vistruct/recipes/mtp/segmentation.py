"""What MTP's published segmenters share: UPerNet with 512 channels on four maps, 80,000 steps of 8 crops.

Source: the segmentation configurations of MTP's public code: 1,500 steps of warm-up, a cosine to 0; images brought to
    the size of a crop, that by a factor of 0.5 to 2, at most three quarters of a crop of one class.
"""

from __future__ import annotations

from pathlib import Path

from vistruct.config import Eval, Schedule
from vistruct.data.maps import MapDataConfig
from vistruct.heads.upernet import UperNetConfig
from vistruct.metrics.pixels import PixelsConfig
from vistruct.recipes.mtp.fine_tuning import RATES, Downstream, Model, backbone
from vistruct.recipes.vitp.segmentation import varied_scenes
from vistruct.tasks.segment import SegmentConfig
from vistruct.windows.slide import Slide


def scenes(name: str, *, format: str, split: str, size: int) -> Downstream:
    """A published segmenter; its windows share 128 pixels."""

    def data(root: Path, split: str, size: int) -> tuple[MapDataConfig, dict[str, Eval]]:
        train = MapDataConfig(root=root, format=format, split=split, augment=varied_scenes(size, size))
        val = Eval(data=train.model_copy(update={"split": "val", "augment": None}), metric=PixelsConfig())
        return train, {} if "val" in split.split("+") else {"val": val}

    return Downstream(
        name=name,
        size=size,
        split=split,
        batch=8,
        steps=80_000,
        rates=RATES,
        data=data,
        task=task,
        schedule=lambda steps: Schedule(warmup_steps=min(1500, steps // 2), warmup_from=1e-6),
    )


def task(model: Model, size: int) -> SegmentConfig:
    return SegmentConfig(
        backbone=backbone(model, maps="pyramid", size=size),
        head=UperNetConfig(),
        size_divisor=32,
        slide=Slide(size=size, overlap=min(128, size // 2)),
    )
