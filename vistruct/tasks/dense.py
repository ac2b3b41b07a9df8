"""Detection: backbone, neck and head in a row, from images to boxes in pixels of the whole image.

The head decides what kind, by its traits: one that `is_oriented` learns from and gives oriented boxes, one with
`masks` masks.
Horizontal boxes in the data are enough for either kind of box, oriented ones too: of these a horizontal head takes
the hulls, as far as they show.

Shapes: B images padded at the bottom and right to H x W, the largest sides of the batch rounded up
to `size_divisor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import (
    Backbone,
    BoxPrediction,
    BoxTarget,
    DataInfo,
    Detections,
    MaskPatch,
    Sample,
    Shown,
    StepOutput,
    TaskTraits,
)
from vistruct.errors import UserError
from vistruct.kinds import BackbonePart, BoxHeadPart, NeckPart
from vistruct.ops.oriented import cxcywha_to_quads, cxcywha_to_xyxy, quads_to_cxcywha, xyxy_to_cxcywha
from vistruct.tasks.features import check_in_place, features
from vistruct.tasks.names import ClassNames, NamesConfig
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    stacked,
    with_statistics,
)
from vistruct.windows.views import Views, joined, undo, view


class DetectConfig(Part):
    """The three parts, and how an image is put before them."""

    kind: Literal["detect"] = "detect"
    backbone: BackbonePart
    neck: NeckPart | None = None  # None: the head takes the backbone's maps
    head: BoxHeadPart
    names: NamesConfig | None = None  # what reads the class names, of a head that tells classes by them (fcos)
    mean: Statistics = IMAGENET_MEAN  # of RGB in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD
    size_divisor: int | None = Field(None, gt=0)  # padded sizes are multiples of it; None: the least that fits
    views: Views | None = None  # how predictions look at an image; None: once, as it is

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Detect:
        """Build for the classes of the data; what reads their names may keep a tokenizer in `assets`.

        Raises:
            UserError: data without class names, or parts that do not fit each other.
        """
        if not info.class_names:
            raise UserError("a detector needs class names", where="data", fix="use data with boxes (kind: boxes)")
        names = None if self.names is None else self.names.build(assets)
        return Detect(with_statistics(self, info), info.class_names, info.channels, backbone, names)


@dataclass(kw_only=True)
class DetectBatch:
    """Padded images with their truth, and the way back to the whole images."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
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
    is_oriented: bool = False
    has_masks: bool = False

    def __call__(self, samples: list[Sample]) -> DetectBatch:
        sizes_hw = [_size_hw(sample) for sample in samples]
        height, width = (_round_up(max(sides), self.size_divisor) for sides in zip(*sizes_hw, strict=True))
        return DetectBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], (height, width)),
            sizes_hw=sizes_hw,
            targets=[self._target(sample, (height, width)) for sample in samples],
            origins_xy=[sample.origin_xy for sample in samples],
            scales_xy=[sample.scale_xy for sample in samples],
        )

    def _target(self, sample: Sample, padded_hw: tuple[int, int]) -> BoxTarget:
        objects = sample.objects
        boxes, labels, quads, drawn = objects.boxes_xyxy.float(), objects.labels, objects.quads, objects.masks
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise UserError(
                f"labels from {int(labels.min())} to {int(labels.max())} for {self.num_classes} classes",
                where=sample.id,
                fix="evaluate and predict on data with the classes that the model was built for",
            )
        turned = None
        if not self.is_oriented and quads is not None:  # hulls of objects that the border cuts: what shows
            height, width = sample.images[0].shape[-2:]
            boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
        if self.is_oriented:
            turned = xyxy_to_cxcywha(boxes) if quads is None else quads_to_cxcywha(quads.float())
        sides = boxes[:, 2:] - boxes[:, :2] if turned is None else turned[:, 2:4]
        fine = boxes.isfinite().all(dim=1) & sides.isfinite().all(dim=1) & (sides > 0).all(dim=1)
        if not fine.all():
            bad = int((~fine).nonzero()[0])
            raise UserError(
                f"box {(boxes if turned is None else turned)[bad].tolist()} has no area or is not finite",
                where=sample.id,
                fix="run `vistruct check` on the annotations",
            )
        masks = None
        if self.has_masks:
            if drawn is None and len(labels):
                raise UserError(
                    "a head with masks learns from masks, and this sample has none",
                    where=sample.id,
                    fix="--set data.masks=true if the annotations have them; or --head fcos",
                )
            masks = torch.zeros(len(labels), *padded_hw, dtype=torch.bool if drawn is None else drawn.dtype)
            if drawn is not None:
                masks[:, : drawn.shape[1], : drawn.shape[2]] = drawn
        return replace(objects, boxes_xyxy=boxes, boxes_cxcywha=turned, masks=masks)


class Detect(nn.Module):
    """DetectBatch -> StepOutput in training, boxes in whole-image pixels from `predict`."""

    def __init__(
        self,
        config: DetectConfig,
        class_names: tuple[str, ...],
        channels: int = 3,
        backbone: Backbone | None = None,
        names: ClassNames | None = None,
    ) -> None:
        super().__init__()
        self.config, self.class_names = config, class_names
        maps = features(
            config.backbone, config.neck, channels=channels, size_divisor=config.size_divisor, shared=backbone
        )
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        self.head = config.head.build(maps.specs, len(class_names))
        self.names = names
        width = None if names is None else names.config.text.width
        if width != self.head.traits.name_width:
            what = f"names are read as vectors of {width}, and the head takes {self.head.traits.name_width}"
            fix = "head.name_width is names.text.width; --names CLIP of `detect` with --head fcos sets both"
            raise UserError(what, where="task.head.name_width", fix=fix)
        self.normalise = Normalise(config.mean, config.std, channels)
        self.outside: Callable[[Detect, DetectBatch], list[Detections]] | None = None  # finds in place of the layers

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(
            prediction="boxes",
            terms=self.head.terms,
            class_names=self.class_names,
            take_classes=None if self.names is None else self.take_classes,
            still=() if self.names is None or self.names.config.trains else ("names",),
        )

    def take_classes(self, class_names: tuple[str, ...]) -> None:
        """From now on these are looked for, by their names."""
        self.class_names = class_names

    @property
    def collator(self) -> Callable[[list[Sample]], DetectBatch]:
        return DetectCollator(
            size_divisor=self.size_divisor,
            num_classes=len(self.class_names),
            is_oriented=self.head.traits.is_oriented,
            has_masks=self.head.traits.masks != "none",
        )

    def forward(self, batch: DetectBatch) -> StepOutput:
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: DetectBatch) -> Tensor:
        """float[B, C, H, W] that the backbone is shown."""
        return self.normalise(batch.images, batch.sizes_hw)

    def learn(self, maps: list[Tensor], batch: DetectBatch) -> StepOutput:
        """The terms of the loss, from the backbone's maps."""
        loss = self.head.loss(self._head_of(maps, _shown(batch.images, batch.sizes_hw)), batch.targets)
        return StepOutput(terms=loss.terms, metrics=loss.metrics)

    def units(self, batch: DetectBatch) -> Mapping[str, float | Tensor]:
        """Of each term of the loss, over how many units (images, matched locations) the batch sums it."""
        return self.head.units(batch.targets, (batch.images.shape[-2], batch.images.shape[-1]))

    def predict(self, batch: DetectBatch) -> list[BoxPrediction]:
        """One prediction for each sample, in pixels of its whole image, best score first, on the CPU.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its whole image.
        """
        check_in_place(batch.ids, batch.origins_xy)
        return [self._prediction(batch, i, found) for i, found in enumerate(self._detections(batch))]

    def _detections(self, batch: DetectBatch) -> list[Detections]:
        """In pixels of the padded batch."""
        if self.outside is not None:
            return self.outside(self, batch)
        image, views, traits = self.normalise(batch.images, batch.sizes_hw), self.config.views, self.head.traits
        if views is None:
            return self.head.decode(self._look(image, batch.sizes_hw), batch.sizes_hw)
        found: list[list[Detections]] = [[] for _ in batch.ids]
        for scale in views.scales:
            for flip in views.flips:
                seen = view(image, batch.sizes_hw, flip, scale, self.size_divisor)
                decoded = self.head.decode(self._look(seen.images, seen.sizes_hw), seen.sizes_hw)
                for i, (one, detections, size_hw) in enumerate(zip(found, decoded, batch.sizes_hw, strict=True)):
                    if traits.masks == "image" and detections.masks is not None:
                        padded_hw = (seen.images.shape[-2], seen.images.shape[-1])
                        masks = of_image(detections.masks, padded_hw, seen.sizes_hw[i], size_hw)
                        detections = replace(detections, masks=masks)
                    one.append(undo(detections, seen, size_hw))
        return [joined(one, traits.nms_iou, traits.max_detections) for one in found]

    def _prediction(self, batch: DetectBatch, i: int, found: Detections) -> BoxPrediction:
        found = found.to(torch.device("cpu"))
        origin_xy, scale_xy = batch.origins_xy[i], batch.scales_xy[i]
        boxes = _to_whole(found.boxes_xyxy, origin_xy, scale_xy)
        turned = found.boxes_cxcywha
        if turned is not None:
            quads = cxcywha_to_quads(turned.double())  # sides scaled differently make it no rectangle
            turned = quads_to_cxcywha(quads / quads.new_tensor(scale_xy) + quads.new_tensor(origin_xy)).float()
            boxes = cxcywha_to_xyxy(turned)
        window = _window(batch.sizes_hw[i], origin_xy, scale_xy)
        masks: tuple[MaskPatch, ...] | None = None
        if found.masks is not None and self.head.traits.masks == "box":
            masks = patches(found.masks.float(), boxes, window)
        elif found.masks is not None:
            padded_hw = None if self.config.views is not None else (batch.images.shape[-2], batch.images.shape[-1])
            masks = image_patches(found.masks.float(), padded_hw, batch.sizes_hw[i], window)
        return BoxPrediction(
            id=batch.ids[i],
            image_id=batch.image_ids[i],
            objects=replace(
                found,
                boxes_xyxy=boxes,
                boxes_cxcywha=turned,
                masks=masks,
            ),
            class_names=self.class_names,
            window_xyxy=window,
        )

    def _look(self, image: Tensor, sizes_hw: Sequence[tuple[int, int]]) -> object:
        """The head's output for normalised images."""
        return self._head_of(self.backbone(image), _shown(image, sizes_hw))

    def _head_of(self, maps: list[Tensor], shown: Shown) -> object:
        head: Any = self.head
        maps = maps if self.neck is None else self.neck(maps)
        return head(maps, shown) if self.names is None else head(maps, shown, self.names(self.class_names))


def patches(masks: Tensor, boxes_xyxy: Tensor, window_xyxy: tuple[float, float, float, float]) -> tuple[MaskPatch, ...]:
    """Masks on the grid of their boxes as pixels of the whole image.

    Args:
        masks: float[N, m, m], probabilities over each box.
        boxes_xyxy: float[N, 4], pixels of the whole image.
        window_xyxy: what was looked at; nothing is drawn outside.

    Returns:
        N patches, true where the probability at a pixel's centre is at least a half.
    """
    left, top, right, bottom = math.floor(window_xyxy[0]), math.floor(window_xyxy[1]), *map(math.ceil, window_xyxy[2:])
    made = []
    for grid, box in zip(masks, boxes_xyxy.tolist(), strict=True):
        x0, y0 = max(left, math.floor(box[0])), max(top, math.floor(box[1]))
        x1, y1 = max(x0 + 1, min(right, math.ceil(box[2]))), max(y0 + 1, min(bottom, math.ceil(box[3])))
        x = (torch.arange(x0, x1) + 0.5 - box[0]) / max(box[2] - box[0], 1e-6) * 2 - 1
        y = (torch.arange(y0, y1) + 0.5 - box[1]) / max(box[3] - box[1], 1e-6) * 2 - 1
        at = torch.stack([x[None, :].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        value = F.grid_sample(grid[None, None], at[None], align_corners=False)[0, 0]
        made.append(MaskPatch(pixels=(value >= 0.5).numpy(), x=x0, y=y0))
    return tuple(made)


def of_image(
    masks: Tensor, padded_hw: tuple[int, int] | None, size_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Tensor:
    """Masks over a padded batch as masks over one image of it.

    Args:
        masks: float[N, h, w], probabilities.
        padded_hw: of the batch, pixels; None: they are over the image already.
        size_hw: of the image in it.
        to_hw: what is wanted.

    Returns:
        float[N, H, W], probabilities; each step bilinear in their logits, which is what heads learn at points between
        the cells: enlarged to the batch, the padding cut, brought to the size wanted.
    """
    logits = masks.logit().clamp(-90, 17)  # finite, as far as float32 tells probabilities from 0 and from 1
    if padded_hw is not None:
        logits = _resized(logits, padded_hw)[:, : size_hw[0], : size_hw[1]]
    return _resized(logits, to_hw).sigmoid()


def image_patches(
    masks: Tensor,
    padded_hw: tuple[int, int] | None,
    size_hw: tuple[int, int],
    window_xyxy: tuple[float, float, float, float],
) -> tuple[MaskPatch, ...]:
    """Masks over a padded batch as pixels of the whole image, those above a half; a few at a time.

    Args:
        masks, padded_hw, size_hw: as `of_image`.
        window_xyxy: where the image lies in the whole one, pixels.
    """
    left, top, right, bottom = (round(edge) for edge in window_xyxy)
    made = []
    for some in masks.split(16):  # together they may be gigabytes
        for pixels in (of_image(some, padded_hw, size_hw, (bottom - top, right - left)) > 0.5).numpy():
            rows, columns = pixels.any(axis=1).nonzero()[0], pixels.any(axis=0).nonzero()[0]
            y0, y1, x0, x1 = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if len(rows) else (0, 1, 0, 1)
            made.append(MaskPatch(pixels=pixels[y0:y1, x0:x1].copy(), x=left + int(x0), y=top + int(y0)))
    return tuple(made)


def _resized(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if masks.shape[-2:] == size_hw or not len(masks):
        return masks.expand(len(masks), *size_hw) if len(masks) else masks.new_zeros(0, *size_hw)
    return F.interpolate(masks[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


def _shown(images: Tensor, sizes_hw: Sequence[tuple[int, int]]) -> Shown:
    return Shown(sizes_hw=tuple(sizes_hw), padded_hw=(images.shape[-2], images.shape[-1]))


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
