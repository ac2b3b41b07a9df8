"""Segmentation: the class of every pixel of an image, or what changed between two images of one place.

A pair goes through the same backbone twice (shared weights), and the maps of both are fused before the head: put
beside each other, or as their absolute difference.

Shapes: B samples of T images (1, or before and after) of C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import (
    IGNORED,
    Backbone,
    DataInfo,
    LearningHead,
    MapPrediction,
    Sample,
    StepOutput,
    TaskTraits,
)
from vistruct.errors import UserError
from vistruct.heads.imbalance import weights_in_words
from vistruct.heads.pixel_loss import PixelLoss
from vistruct.kinds import BackbonePart, NeckPart, PixelHeadPart
from vistruct.tasks.features import check_in_place, features
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    padded_to,
    stacked,
    with_statistics,
)
from vistruct.windows.slide import Slide, slide
from vistruct.windows.views import Views

Fusion = Literal["concat", "difference"]


class SegmentConfig(Part):
    """The parts, and how an image of any size is put before them."""

    kind: Literal["segment", "change"] = "segment"
    backbone: BackbonePart
    neck: NeckPart | None = None  # None: the head takes the backbone's maps
    head: PixelHeadPart
    fusion: Fusion | None = None  # of the maps of a pair; None: one image
    loss: PixelLoss = PixelLoss()  # unless the head has one of its own
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD
    size_divisor: int | None = Field(None, gt=0)  # padded sizes are multiples of it; None: the least that fits
    slide: Slide | None = None  # how predictions look at an image; None: at all of it at once
    views: Views | None = None  # flipped and scaled too, and averaged; None: as it is

    @model_validator(mode="after")
    def _kind_says_it(self) -> SegmentConfig:
        if (self.kind == "change") != (self.fusion is not None):
            raise UserError(
                f"kind={self.kind!r} with fusion={self.fusion!r}",
                where="task",
                fix="a pair needs kind: change and fusion: concat or difference",
            )
        return self

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Segment:
        """Build for the classes and channels of the data; a segmenter keeps no files in `assets`.

        Raises:
            UserError: data without class names, or parts that do not fit each other.
        """
        names = info.pixel_class_names
        if len(names) < 2:
            what = f"a segmenter tells classes apart, the data have {len(names)}"
            raise UserError(what, where="data", fix="use data with classes of pixels (kind: maps)")
        config, asked = with_statistics(self, info), self.loss.class_weights
        config = config.model_copy(update={"loss": self.loss.of_classes(names, info.pixel_counts)})
        weights, remarks = config.loss.class_weights, ()
        if asked is not None and isinstance(weights, tuple):
            remarks = (weights_in_words(weights, names, asked, "pixels"),)
        return Segment(config, names, info.channels, backbone, remarks)


@dataclass(kw_only=True)
class MapBatch:
    """Images (or pairs) with the class of every pixel, and the way back to the files."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, T, C, H, W], padded at the bottom and right
    label_maps: Tensor  # int16[B, H, W]; IGNORED in the padding
    sizes_hw: list[tuple[int, int]]  # before padding, pixels
    origins_xy: list[tuple[float, float]]  # of each top left corner, in pixels of the file
    scales_xy: list[tuple[float, float]]  # batch pixels to a pixel of the file

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            label_maps=self.label_maps.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class MapCollator:
    """Samples -> MapBatch. Holds no weights, so that it travels to worker processes."""

    num_images: int
    channels: int
    num_classes: int

    def __call__(self, samples: list[Sample]) -> MapBatch:
        for sample in samples:
            self._check(sample)
        sizes_hw = [(sample.images[0].shape[1], sample.images[0].shape[2]) for sample in samples]
        height, width = (max(sides) for sides in zip(*sizes_hw, strict=True))
        images = stacked([image for sample in samples for image in sample.images], (height, width))
        label_maps = torch.full((len(samples), height, width), IGNORED, dtype=torch.int16)
        for i, (sample, (h, w)) in enumerate(zip(samples, sizes_hw, strict=True)):
            if sample.label_map is not None:
                label_maps[i, :h, :w] = sample.label_map
        return MapBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=images.unflatten(0, (len(samples), self.num_images)),
            label_maps=label_maps,
            sizes_hw=sizes_hw,
            origins_xy=[sample.origin_xy for sample in samples],
            scales_xy=[sample.scale_xy for sample in samples],
        )

    def _check(self, sample: Sample) -> None:
        if len(sample.images) != self.num_images:
            what = f"{len(sample.images)} images in a sample, the model compares {self.num_images}"
            if self.num_images == 1:
                what = f"{len(sample.images)} images in a sample, the model takes one"
            raise UserError(what, where=sample.id, fix="pairs are for kind: change, single images for kind: segment")
        shapes = {tuple(image.shape) for image in sample.images}
        if len(shapes) > 1:
            sizes = " and ".join(f"{shape[2]} x {shape[1]}" for shape in sorted(shapes))
            raise UserError(f"a pair of {sizes} pixels", where=sample.id, fix="bring both images to the same grid")
        if sample.images[0].shape[0] != self.channels:
            what = f"an image of {sample.images[0].shape[0]} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")
        labels = sample.label_map
        if (
            labels is not None
            and labels.numel()
            and not IGNORED <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            what = f"labels from {int(labels.min())} to {int(labels.max())} for {self.num_classes} classes"
            raise UserError(what, where=sample.id, fix="evaluate on data with the classes that the model was built for")


class Segment(nn.Module):
    """MapBatch -> StepOutput in training, the class of every pixel of the file from `predict`."""

    def __init__(
        self,
        config: SegmentConfig,
        class_names: tuple[str, ...],
        channels: int,
        backbone: Backbone | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.remarks = remarks
        self.config, self.class_names, self.channels = config, class_names, channels
        self.num_images = 1 if config.fusion is None else 2
        maps = features(
            config.backbone, config.neck, channels=channels, size_divisor=config.size_divisor, shared=backbone
        )
        self.normalise = Normalise(config.mean, config.std, channels)
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        specs = maps.specs
        if config.fusion == "concat":
            specs = tuple(replace(spec, channels=2 * spec.channels) for spec in specs)
        self.head = config.head.build(specs, len(class_names))
        if isinstance(self.head, LearningHead) and config.loss != PixelLoss():
            what = f"a head of kind {config.head.kind} has a loss of its own"
            raise UserError(what, where="task.loss", fix="leave loss out; weights are settings of the head")
        self.outside: Callable[[Tensor], Tensor] | None = None  # gives probabilities in place of the layers

    @property
    def traits(self) -> TaskTraits:
        terms = self.head.terms if isinstance(self.head, LearningHead) else self.config.loss.terms
        return TaskTraits(prediction="maps", terms=terms, class_names=self.class_names, remarks=self.remarks)

    @property
    def collator(self) -> Callable[[list[Sample]], MapBatch]:
        return MapCollator(num_images=self.num_images, channels=self.channels, num_classes=len(self.class_names))

    def forward(self, batch: MapBatch) -> StepOutput:
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: MapBatch) -> Tensor:
        """float[B x T, C, H, W] that the backbone is shown, one sample's behind each other."""
        return self._shown(self.normalise(batch.images, batch.sizes_hw))

    def learn(self, maps: list[Tensor], batch: MapBatch) -> StepOutput:
        """The terms of the loss, from the backbone's maps."""
        if isinstance(self.head, LearningHead):
            loss = self.head.learn(self.head_input(maps), self._padded_labels(batch))
        else:
            loss = self.config.loss(self._logits(maps, batch.images), batch.label_maps)
        return StepOutput(terms=loss.terms, metrics=loss.metrics)

    def units(self, batch: MapBatch) -> Mapping[str, float | Tensor]:
        """Of each term of the loss, over how many pixels (or weights of theirs) the batch sums it."""
        if isinstance(self.head, LearningHead):
            return self.head.units(self._padded_labels(batch))
        return self.config.loss.units(batch.label_maps)

    def logits(self, images: Tensor) -> Tensor:
        """float[B, K, H, W] of normalised images float[B, T, C, H, W] of any size."""
        return self._logits(self.backbone(self._shown(images)), images)

    def _shown(self, images: Tensor) -> Tensor:
        """float[B x T, C, H, W], padded."""
        return padded_to(images, self.size_divisor).flatten(0, 1)

    def _logits(self, maps: list[Tensor], images: Tensor) -> Tensor:
        """float[B, K, H, W] from the backbone's maps of images [B, T, C, H, W]."""
        height, width = images.shape[-2:]
        padded_hw = [-(-side // self.size_divisor) * self.size_divisor for side in (height, width)]
        logits = self.head(self.head_input(maps)).float()
        found = F.interpolate(logits, padded_hw, mode="bilinear", align_corners=False)
        return found[..., :height, :width]

    def head_input(self, maps: list[Tensor]) -> list[Tensor]:
        """What the head is given: through the neck, those of pairs fused."""
        features = maps if self.neck is None else self.neck(maps)
        if self.config.fusion is None:
            return features
        return [_fused(one.unflatten(0, (-1, 2)), self.config.fusion) for one in features]

    def _padded_labels(self, batch: MapBatch) -> Tensor:
        """int16[B, H, W], IGNORED beyond the images, to the size that the backbone is shown."""
        height, width = batch.label_maps.shape[-2:]
        more = (0, -width % self.size_divisor, 0, -height % self.size_divisor)
        return F.pad(batch.label_maps, more, value=IGNORED)

    def probabilities(self, images: Tensor) -> Tensor:
        """float[B, K, H, W] of images [B, T, C, H, W] as a batch has them."""
        if self.outside is not None:
            return self.outside(images)
        return self.logits(self.normalise(images)).softmax(dim=1)

    def predict(self, batch: MapBatch) -> list[MapPrediction]:
        """One prediction for each sample, on the grid of its file, on the CPU.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its file.
        """
        check_in_place(batch.ids, batch.origins_xy)
        if self._all_at_once(batch):
            return [self._prediction(batch, i, one) for i, one in enumerate(self.probabilities(batch.images))]
        return [self._prediction(batch, i, self._slid(batch, i)) for i in range(len(batch))]

    def _all_at_once(self, batch: MapBatch) -> bool:
        """Whether all samples are of one size and looked at once and whole."""
        size = None if self.config.slide is None else self.config.slide.size
        is_whole = size is None or max(batch.images.shape[-2:]) <= size
        return is_whole and self.config.views is None and len(set(batch.sizes_hw)) == 1

    def _slid(self, batch: MapBatch, i: int) -> Tensor:
        """float[K, H, W] of one sample, seen in windows and views."""
        h, w = batch.sizes_hw[i]
        image = batch.images[i, :, :, :h, :w]
        strips = slide(
            lambda window: image[:, :, window[1] : window[3], window[0] : window[2]],
            (h, w),
            self.config.slide,
            self.probabilities,
            self.config.views,
        )
        return torch.cat([strip.probabilities for strip in strips], dim=1)

    def _prediction(self, batch: MapBatch, i: int, found: Tensor) -> MapPrediction:
        """Resized where the sample was, before the choice of a class: classes have no halfway."""
        (h, w), (scale_x, scale_y) = batch.sizes_hw[i], batch.scales_xy[i]
        size_hw = round(h / scale_y), round(w / scale_x)
        found = found[:, :h, :w]
        if size_hw != (h, w):
            found = F.interpolate(found[None], size_hw, mode="bilinear", align_corners=False)[0]
        confidence, label_map = found.max(dim=0)
        x, y = (round(side) for side in batch.origins_xy[i])
        is_window = batch.ids[i] != batch.image_ids[i]
        return MapPrediction(
            id=batch.ids[i],
            image_id=batch.image_ids[i],
            label_map=label_map.to(torch.int16).cpu(),
            class_names=self.class_names,
            confidence=(255 * confidence).round().to(torch.uint8).cpu(),
            window_xyxy=(x, y, x + size_hw[1], y + size_hw[0]) if is_window else None,
        )


def _fused(pair: Tensor, how: Fusion) -> Tensor:
    """float[B, 2, D, h, w] -> float[B, 2 D, h, w] or float[B, D, h, w]."""
    return pair.flatten(1, 2) if how == "concat" else (pair[:, 0] - pair[:, 1]).abs()
