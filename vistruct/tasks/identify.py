"""Identifying objects: the boxes are given, and the class of what is in each is asked.

What a backbone knows of objects is seen without a detector's search: each box is read from the map (RoIAlign), and a
light head of classes (`pooled`) looks at its cells. Crowds and ignored objects are neither learned nor asked.

Shapes: P boxes in all images of a batch, S cells along each side of a box, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import roi_align

from vistruct.config import Part
from vistruct.contracts import (
    Backbone,
    BoxPrediction,
    DataInfo,
    FeatureSpec,
    Objects,
    Ratio,
    Sample,
    StepOutput,
    TaskTraits,
)
from vistruct.errors import UserError
from vistruct.heads.pooled import PooledConfig
from vistruct.heads.roi_stage import levels_of
from vistruct.kinds import BackbonePart, ClassHeadPart, NeckPart
from vistruct.tasks.dense import DetectBatch, DetectCollator
from vistruct.tasks.features import check_in_place, features
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, Statistics, with_statistics

SAMPLING = 2  # points read in a cell, along each side


class IdentifyConfig(Part):
    """The parts, and how a box is read from the maps."""

    kind: Literal["identify"] = "identify"
    backbone: BackbonePart
    neck: NeckPart | None = None  # None: boxes are read from the backbone's maps
    head: ClassHeadPart = PooledConfig()  # sees the cells of a box as if they were an image's map
    cells: int = Field(7, gt=0)  # of a box, along each side
    levels: Literal["by_size", "each"] = (
        "by_size"  # of several maps: that on which a box is 14 to 28 cells long, or all
    )
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD
    size_divisor: int | None = Field(None, gt=0)  # padded sizes are multiples of it; None: the least that fits

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Identify:
        """Build for the classes of the data; nothing is kept in `assets`.

        Raises:
            UserError: fewer than two classes, or parts that do not fit each other.
        """
        if len(info.class_names) < 2:
            what = f"to tell objects apart needs 2 classes, the data have {len(info.class_names)}"
            raise UserError(what, where="data", fix="use data with boxes (kind: boxes) of several classes")
        return Identify(with_statistics(self, info), info.class_names, info.channels, backbone)


class Identify(nn.Module):
    """DetectBatch -> StepOutput in training, the classes of the given boxes from `predict`."""

    def __init__(
        self, config: IdentifyConfig, class_names: tuple[str, ...], channels: int, backbone: Backbone | None = None
    ) -> None:
        super().__init__()
        self.config, self.class_names = config, class_names
        maps = features(
            config.backbone, config.neck, channels=channels, size_divisor=config.size_divisor, shared=backbone
        )
        self.normalise = Normalise(config.mean, config.std, channels)
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        self.strides = tuple(spec.stride for spec in maps.specs)
        self.by_size = config.levels == "by_size" and len(maps.specs) > 1
        if self.by_size and not are_levels(maps.specs):
            what = f"maps of {[spec.channels for spec in maps.specs]} channels at strides {list(self.strides)}"
            fix = "--set task.levels=each; or a pyramid (task.neck)"
            raise UserError(f"{what} are no levels to choose from", where="task.levels", fix=fix)
        self.head = config.head.build(maps.specs[:1] if self.by_size else maps.specs, len(class_names))

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="identified", terms=("classes",), class_names=self.class_names)

    @property
    def collator(self) -> Callable[[list[Sample]], DetectBatch]:
        return DetectCollator(size_divisor=self.size_divisor, num_classes=len(self.class_names))

    def forward(self, batch: DetectBatch) -> StepOutput:
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: DetectBatch) -> Tensor:
        """float[B, C, H, W] that the backbone is shown."""
        return self.normalise(batch.images, batch.sizes_hw)

    def learn(self, maps: list[Tensor], batch: DetectBatch) -> StepOutput:
        """The term of the loss, from the backbone's maps: cross-entropy, summed over boxes."""
        asked = asked_of(batch)
        labels = torch.cat([target.labels for target in asked])
        logits = self._logits(maps, asked)
        right = Ratio(total=(logits.detach().argmax(dim=1) == labels).sum(), count=len(labels))
        return StepOutput(
            terms={"classes": F.cross_entropy(logits, labels, reduction="sum")}, metrics={"accuracy": right}
        )

    def units(self, batch: DetectBatch) -> Mapping[str, float | Tensor]:
        """Over how many boxes the batch sums its loss."""
        return {"classes": float(sum(map(len, asked_of(batch))))}

    def _logits(self, maps: list[Tensor], asked: list[Objects[Tensor]]) -> Tensor:
        """float[P, K] of the boxes of all images, image by image."""
        maps = maps if self.neck is None else self.neck(maps)
        return self.head(self.read(maps, [target.boxes_xyxy for target in asked])).float()

    def read(self, maps: list[Tensor], boxes_xyxy: list[Tensor]) -> list[Tensor]:
        """Boxes float[N, 4] of each image, in its pixels -> float[P, C, S, S] for each map, or for the level of each
        box."""
        size = self.config.cells
        if not self.by_size:
            return [
                roi_align(one, boxes_xyxy, size, 1 / stride, SAMPLING, aligned=True)
                for one, stride in zip(maps, self.strides, strict=True)
            ]
        levels = [levels_of(boxes, self.strides) for boxes in boxes_xyxy]
        every = torch.cat(levels)
        cells = maps[0].new_zeros(len(every), maps[0].shape[1], size, size)
        for number, (one, stride) in enumerate(zip(maps, self.strides, strict=True)):
            mine = [boxes[level == number] for boxes, level in zip(boxes_xyxy, levels, strict=True)]
            cells[every == number] = roi_align(one, mine, size, 1 / stride, SAMPLING, aligned=True)
        return [cells]

    @torch.no_grad()
    def predict(self, batch: DetectBatch) -> list[BoxPrediction]:
        """The boxes that were given, each with its likeliest class; as `identified` says.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its whole image.
        """
        asked = asked_of(batch)
        scores = self._logits(self.backbone(self.images(batch)), asked).softmax(dim=1)
        return identified(batch, asked, scores, self.class_names)


def identified(
    batch: DetectBatch, asked: list[Objects[Tensor]], scores: Tensor, class_names: tuple[str, ...]
) -> list[BoxPrediction]:
    """The boxes that were given, in their order and in pixels of the whole image, each with its likeliest class;
    `class_scores` float[N, K] are its probabilities, `truth` int64[N] the class that the annotation says.

    Args:
        scores: float[P, K], of the boxes of all images.

    Raises:
        UserError: a sample was flipped or turned, so that nothing leads back to its whole image.
    """
    check_in_place(batch.ids, batch.origins_xy)
    found = []
    for i, (own, target) in enumerate(zip(scores.cpu().split([len(one) for one in asked]), asked, strict=True)):
        origin, scale = (torch.tensor(one[i] * 2) for one in (batch.origins_xy, batch.scales_xy))
        best = own.max(dim=1)
        objects = Objects(
            labels=best.indices,
            boxes_xyxy=target.boxes_xyxy.cpu() / scale + origin,
            scores=best.values,
            extra={"class_scores": own, "truth": target.labels.cpu()},
        )
        found.append(
            BoxPrediction(id=batch.ids[i], image_id=batch.image_ids[i], objects=objects, class_names=class_names)
        )
    return found


def are_levels(specs: tuple[FeatureSpec, ...]) -> bool:
    """Whether maps are one thing at several sizes, the finest first."""
    strides = [spec.stride for spec in specs]
    return len({spec.channels for spec in specs}) == 1 and strides == sorted(set(strides))


def asked_of(batch: DetectBatch) -> list[Objects[Tensor]]:
    """Of each image the objects of which there is one."""
    return [target.keep(target.is_single) for target in batch.targets]
