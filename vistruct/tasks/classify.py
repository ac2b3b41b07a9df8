"""Classification: one class for an image, or all that apply (multi-label)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from vistruct.config import Part
from vistruct.contracts import Backbone, ClassPrediction, DataInfo, Ratio, Sample, StepOutput, TaskTraits
from vistruct.errors import UserError
from vistruct.heads.imbalance import (
    ClassWeights,
    focal_cross_entropy,
    numbers_of,
    positive_weights,
    weights_in_words,
)
from vistruct.kinds import BackbonePart, ClassHeadPart, NeckPart
from vistruct.ops.values import flipped
from vistruct.tasks.features import features
from vistruct.tasks.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Statistics,
    padded_to,
    stacked,
    with_statistics,
)
from vistruct.windows.slide import AXES
from vistruct.windows.views import Flip


class ClassifyConfig(Part):
    """The parts; images of one batch must have one size (data.resize, or augment.resized_crop)."""

    kind: Literal["classify"] = "classify"
    backbone: BackbonePart
    neck: NeckPart | None = None
    head: ClassHeadPart
    multi_label: bool = False  # any number of classes an image
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # share of the target spread over all classes; one class only
    # Of several classes an image balanced weighs positives (pos_weight), and numbers weigh a class as a whole.
    class_weights: ClassWeights | None = None  # None: all alike
    positive_weights: tuple[float, ...] | None = None  # of several classes an image: what each one's positives count
    focal_gamma: float = Field(0.0, ge=0)  # an image's loss times (1 - probability of what is true) ** gamma
    mean: Statistics = IMAGENET_MEAN  # of each channel in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD
    flips: tuple[Flip, ...] = Field(("none",), min_length=1)  # views that predictions average over

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Classify:
        """Build for the classes and channels of the data; a classifier keeps no files in `assets`.

        Raises:
            UserError: data without classes, or parts that do not fit each other.
        """
        least = 1 if self.multi_label else 2
        if len(info.class_names) < least:
            what = f"a classifier needs {least} classes, the data have {len(info.class_names)}"
            raise UserError(what, where="data", fix="use data with classes of images (kind: image_classes)")
        names, asked = info.class_names, self.class_weights
        counts = [info.counts[name] for name in names] if set(names) <= set(info.counts) else None
        weights, told = numbers_of(asked, names, counts, "task.class_weights"), {}
        if self.multi_label and asked == "balanced" and counts is not None:
            weights, told = None, {"positive_weights": positive_weights(counts, info.num_records)}
        config = with_statistics(self, info).model_copy(update={"class_weights": weights, **told})
        if config.positive_weights is not None and (not self.multi_label or len(config.positive_weights) != len(names)):
            what = "weights of positives are of several classes an image, one each"
            raise UserError(what, where="task.positive_weights", fix="class_weights, or --multi-label")
        remarks: tuple[str, ...] = ()
        if asked is not None and weights is not None:
            remarks = (weights_in_words(weights, names, asked, "images"),)
        elif asked is not None and config.positive_weights is not None:
            line = weights_in_words(config.positive_weights, names, None, "images")
            remarks = (f"{line} (of positives: training images without the class to those with it)",)
        return Classify(config, names, info.channels, backbone, remarks)


@dataclass(kw_only=True)
class ClassBatch:
    """Images of one size, with their classes."""

    ids: list[str]
    image_ids: list[str]
    images: Tensor  # uint8, uint16 or float32[B, C, H, W]
    targets: Tensor  # float[B, K], 1 at the classes of an image
    is_known: Tensor  # bool[B], whether its classes are known

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            is_known=self.is_known.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class ClassCollator:
    """Samples -> ClassBatch. Holds no weights, so that it travels to worker processes."""

    channels: int
    num_classes: int
    multi_label: bool

    def __call__(self, samples: list[Sample]) -> ClassBatch:
        targets = torch.zeros(len(samples), self.num_classes)
        for row, sample in zip(targets, samples, strict=True):
            self._check(sample, samples[0])
            row[list(sample.image_labels or ())] = 1.0
        height, width = samples[0].images[0].shape[1:]
        return ClassBatch(
            ids=[sample.id for sample in samples],
            image_ids=[sample.image_id for sample in samples],
            images=stacked([sample.images[0] for sample in samples], (height, width)),
            targets=targets,
            is_known=torch.tensor([sample.image_labels is not None for sample in samples]),
        )

    def _check(self, sample: Sample, first: Sample) -> None:
        if len(sample.images) != 1:
            what = f"a classifier takes one image, this sample has {len(sample.images)}"
            raise UserError(what, where=sample.id, fix="use data with classes of images (kind: image_classes)")
        found, shape = (tuple(one.images[0].shape) for one in (sample, first))
        if found[0] != self.channels:
            what = f"an image of {found[0]} channels, the model takes {self.channels}"
            raise UserError(what, where=sample.id, fix="choose --bands")
        if found != shape:
            what = f"images of {found[2]} x {found[1]} and {shape[2]} x {shape[1]} pixels in one batch"
            fix = "--size N of `classify` brings all to one size"
            raise UserError(what, where=sample.id, fix=fix)
        labels = sample.image_labels
        if labels is None:
            return
        if any(not 0 <= label < self.num_classes for label in labels):
            what = f"classes {labels} where there are {self.num_classes}"
            raise UserError(what, where=sample.id, fix="use data with the classes that the model was built for")
        if not self.multi_label and len(labels) != 1:
            raise UserError(f"{len(labels)} classes for one image", where=sample.id, fix="--multi-label")


class Classify(nn.Module):
    """ClassBatch -> StepOutput in training, scores from `predict`."""

    def __init__(
        self,
        config: ClassifyConfig,
        class_names: tuple[str, ...],
        channels: int,
        backbone: Backbone | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.remarks = remarks
        self.config, self.class_names, self.channels = config, class_names, channels
        maps = features(config.backbone, config.neck, channels=channels, shared=backbone)
        self.normalise = Normalise(config.mean, config.std, channels)
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        self.head = config.head.build(maps.specs, len(class_names))
        self.outside: Callable[[Tensor], Tensor] | None = None  # gives the scores in place of the layers

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="classes", terms=("classes",), class_names=self.class_names, remarks=self.remarks)

    @property
    def collator(self) -> Callable[[list[Sample]], ClassBatch]:
        return ClassCollator(
            channels=self.channels, num_classes=len(self.class_names), multi_label=self.config.multi_label
        )

    def forward(self, batch: ClassBatch) -> StepOutput:
        """
        Raises:
            UserError: an image whose classes are not known.
        """
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: ClassBatch) -> Tensor:
        """float[B, C, H, W] that the backbone is shown."""
        return padded_to(self.normalise(batch.images), self.size_divisor)

    def learn(self, maps: list[Tensor], batch: ClassBatch) -> StepOutput:
        """The terms of the loss, from the backbone's maps.

        Raises:
            UserError: an image whose classes are not known.
        """
        if not bool(batch.is_known.all()):
            name = batch.ids[int((~batch.is_known).nonzero()[0])]
            raise UserError("no classes to learn from", where=name, fix="use data with classes (kind: image_classes)")
        logits = self.logits_of(maps)
        weights = self._weights(batch)
        if self.config.multi_label:
            every = sigmoid_focal_loss(logits, batch.targets, alpha=-1, gamma=self.config.focal_gamma)
            if self.config.positive_weights is not None:
                every = every * (1 + batch.targets * (logits.new_tensor(self.config.positive_weights) - 1))
            total = (every if weights is None else every * weights).mean(dim=1).sum()
            right = ((logits > 0) == (batch.targets > 0.5)).float().mean(dim=1)
        else:
            labels = batch.targets.argmax(dim=1)
            smoothing = self.config.label_smoothing
            gamma = self.config.focal_gamma
            total = focal_cross_entropy(logits, labels, weights, smoothing=smoothing, gamma=gamma).sum()
            right = (logits.argmax(dim=1) == labels).float()
        accuracy = Ratio(total=right.detach().sum(), count=len(batch))
        return StepOutput(terms={"classes": total}, metrics={"accuracy": accuracy})

    def units(self, batch: ClassBatch) -> Mapping[str, float | Tensor]:
        """Over how many images, or weights of their classes, the batch sums its loss."""
        weights = self._weights(batch)
        if weights is None or self.config.multi_label:
            return {"classes": float(len(batch))}
        return {"classes": weights[batch.targets.argmax(dim=1)].sum()}

    def _weights(self, batch: ClassBatch) -> Tensor | None:
        """float[K]."""
        given = self.config.class_weights  # numbers, since `build`
        return None if given is None else batch.targets.new_tensor(given)

    def logits(self, images: Tensor) -> Tensor:
        """float[B, K] of images [B, C, H, W] as a batch has them."""
        return self.logits_of(self.backbone(padded_to(self.normalise(images), self.size_divisor)))

    def logits_of(self, maps: list[Tensor]) -> Tensor:
        """float[B, K] from the backbone's maps."""
        return self.head(maps if self.neck is None else self.neck(maps)).float()

    def predict(self, batch: ClassBatch) -> list[ClassPrediction]:
        """One prediction for each sample, on the CPU; averaged over the views."""
        seen = [self.scores(flipped(batch.images, AXES[flip])) for flip in self.config.flips]
        scores = torch.stack(seen).mean(dim=0).cpu()
        return [
            ClassPrediction(
                id=batch.ids[i],
                image_id=batch.image_ids[i],
                scores=scores[i],
                class_names=self.class_names,
                is_multi_label=self.config.multi_label,
            )
            for i in range(len(batch))
        ]

    def scores(self, images: Tensor) -> Tensor:
        """float[B, K] in [0, 1] of images [B, C, H, W] as a batch has them."""
        if self.outside is not None:
            return self.outside(images)
        logits = self.logits(images)
        return logits.sigmoid() if self.config.multi_label else logits.softmax(dim=1)
