"""Detection: backbone, neck and head in a row, from uint8 images to boxes in pixels of the whole image.

Shapes: B images padded at the bottom and right to H x W, the largest sides of the batch rounded up
to `size_divisor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import AnyPart, Part
from vistruct.contracts import BoxPrediction, DataInfo, Sample, StepOutput
from vistruct.errors import UserError
from vistruct.heads.boxes import BoxTarget


class DetectConfig(Part):
    """The three parts, and how an image is put before them."""

    kind: Literal["detect"] = "detect"
    backbone: AnyPart
    neck: AnyPart
    head: AnyPart
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in [0, 1]; ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size_divisor: int | None = Field(None, gt=0)  # padded sizes are multiples of it; None: the least that fits

    def build(self, info: DataInfo, assets: Path) -> Detect:
        """Build for the classes of the data; a detector keeps no files in `assets`.

        Raises:
            UserError: data without class names, or parts that do not fit each other.
        """
        if not info.class_names:
            raise UserError("a detector needs class names", where="data", fix="use data with boxes (kind: boxes)")
        return Detect(self, info.class_names)


@dataclass(kw_only=True)
class DetectBatch:
    """Padded images with their truth, and the way back to the whole images."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8[B, 3, H, W]
    sizes_hw: list[tuple[int, int]]  # before padding, pixels
    targets: list[BoxTarget]
    origins_xy: list[tuple[float, float]]  # of each top left corner, in pixels of the whole image
    scales_xy: list[tuple[float, float]]  # batch pixels to a pixel of the whole image

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=[target.to(device) for target in self.targets],
        )


@dataclass(frozen=True, kw_only=True)
class DetectCollator:
    """Samples -> DetectBatch. Holds no weights, so that it travels to worker processes."""

    size_divisor: int
    num_classes: int

    def __call__(self, samples: list[Sample]) -> DetectBatch:
        sizes_hw = [_size_hw(sample) for sample in samples]
        height, width = (_round_up(max(sides), self.size_divisor) for sides in zip(*sizes_hw, strict=True))
        images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
        for image, sample, (h, w) in zip(images, samples, sizes_hw, strict=True):
            image[:, :h, :w] = sample.images[0]
        return DetectBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=images,
            sizes_hw=sizes_hw,
            targets=[self._target(sample) for sample in samples],
            origins_xy=[sample.origin_xy for sample in samples],
            scales_xy=[sample.scale_xy for sample in samples],
        )

    def _target(self, sample: Sample) -> BoxTarget:
        boxes, labels = sample.boxes_xyxy.float(), sample.labels
        sides = boxes[:, 2:] - boxes[:, :2]
        if not (boxes.isfinite().all() and (sides > 0).all()):
            bad = int((~(boxes.isfinite().all(dim=1) & (sides > 0).all(dim=1))).nonzero()[0])
            raise UserError(
                f"box {boxes[bad].tolist()} has no area or is not finite",
                where=sample.id,
                fix="run `vistruct check` on the annotations",
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UserError(
                f"labels from {int(labels.min())} to {int(labels.max())} for {self.num_classes} classes",
                where=sample.id,
                fix="evaluate and predict on data with the classes that the model was built for",
            )
        is_crowd = sample.is_crowd if len(sample.is_crowd) else torch.zeros(len(boxes), dtype=torch.bool)
        return BoxTarget(boxes_xyxy=boxes, labels=labels, is_crowd=is_crowd)


class Detect(nn.Module):
    """DetectBatch -> StepOutput in training, boxes in whole-image pixels from `predict`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: DetectConfig, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.config, self.class_names = config, class_names
        parts: Any = config  # each part is typed as any `Part`; what it builds is its own affair
        self.backbone = parts.backbone.build()
        self.neck = parts.neck.build(self.backbone.specs)
        self.head = parts.head.build(self.neck.specs, len(class_names))
        strides = [spec.stride for spec in (*self.backbone.specs, *self.neck.specs)]
        least = math.lcm(*strides)
        self.size_divisor = config.size_divisor or least
        if self.size_divisor % least:
            raise UserError(
                f"size_divisor={self.size_divisor} is not a multiple of the strides {sorted(set(strides))}",
                where="task.size_divisor",
                fix=f"use a multiple of {least}",
            )
        # Part of the configuration, so not part of the weights.
        self.register_buffer("mean", 255 * torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config.std).view(3, 1, 1), persistent=False)

    @property
    def collator(self) -> Callable[[list[Sample]], DetectBatch]:
        return DetectCollator(size_divisor=self.size_divisor, num_classes=len(self.class_names))

    def forward(self, batch: DetectBatch) -> StepOutput:
        loss = self.head.loss(self._look(batch), batch.targets)
        return StepOutput(total=loss.total, count=loss.count, metrics=loss.metrics)

    def predict(self, batch: DetectBatch) -> list[BoxPrediction]:
        """One prediction for each sample, in pixels of its whole image, best score first, on the CPU.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its whole image.
        """
        for sample_id, origin_xy in zip(batch.ids, batch.origins_xy, strict=True):
            if not all(map(math.isfinite, origin_xy)):
                raise UserError(
                    "predictions about a flipped or turned image cannot be put back in place",
                    where=sample_id,
                    fix="evaluate on data without augment",
                )
        found = self.head.decode(self._look(batch), batch.sizes_hw)
        return [
            BoxPrediction(
                id=batch.ids[i],
                image_id=batch.image_ids[i],
                boxes_xyxy=_to_whole(detections.boxes_xyxy.cpu(), batch.origins_xy[i], batch.scales_xy[i]),
                scores=detections.scores.cpu(),
                labels=detections.labels.cpu(),
                class_names=self.class_names,
                window_xyxy=_window(batch.sizes_hw[i], batch.origins_xy[i], batch.scales_xy[i]),
            )
            for i, detections in enumerate(found)
        ]

    def _look(self, batch: DetectBatch) -> object:
        """The head's output for a batch."""
        image = (batch.images.float() - self.mean) / self.std
        for i, (h, w) in enumerate(batch.sizes_hw):  # padding has the mean colour, whatever the mean is
            image[i, :, h:, :] = 0
            image[i, :, :, w:] = 0
        return self.head(self.neck(self.backbone(image)))


def _size_hw(sample: Sample) -> tuple[int, int]:
    if len(sample.images) != 1:
        raise UserError(
            f"a detector takes one image, this sample has {len(sample.images)}",
            where=sample.id,
            fix="use data with boxes (kind: boxes)",
        )
    return sample.images[0].shape[-2], sample.images[0].shape[-1]


def _round_up(size: int, divisor: int) -> int:
    return -(-size // divisor) * divisor


def _to_whole(boxes_xyxy: Tensor, origin_xy: tuple[float, float], scale_xy: tuple[float, float]) -> Tensor:
    return boxes_xyxy / boxes_xyxy.new_tensor(scale_xy * 2) + boxes_xyxy.new_tensor(origin_xy * 2)


def _window(
    size_hw: tuple[int, int], origin_xy: tuple[float, float], scale_xy: tuple[float, float]
) -> tuple[float, float, float, float]:
    (height, width), (x, y) = size_hw, origin_xy
    return x, y, x + width / scale_xy[0], y + height / scale_xy[1]
