"""Panoptic segmentation: every pixel of an image belongs to one thing, or to the stuff of one class.

A thing's mask and all stuff of one class are objects alike to Mask2Former: a query says the class and the mask of one.
Classes are those of the objects, then those of the label maps that no object has. Pixels that are neither (void,
crowds, difficult objects) weigh nothing in the loss.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527; what becomes a segment is the published
    `panoptic_inference`, with its thresholds.
Differs: the class a pixel is disputed for is decided at the size of the file; masks are brought there in one step from
    the padded batch.
Shapes: B images padded at the bottom and right to H x W, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from vistruct.config import Part
from vistruct.contracts import (
    Backbone,
    DataInfo,
    Objects,
    PanopticPrediction,
    Sample,
    Segment,
    Shown,
    StepOutput,
    TaskTraits,
)
from vistruct.contracts.objects import cat
from vistruct.errors import UserError
from vistruct.heads.mask2former import Mask2FormerConfig
from vistruct.heads.mask_queries import MaskOutput
from vistruct.kinds import BackbonePart, NeckPart
from vistruct.tasks.dense import DetectBatch, DetectCollator, of_image
from vistruct.tasks.features import check_in_place, features
from vistruct.tasks.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, Statistics, with_statistics


class PanopticConfig(Part):
    """The parts, and what of all queries becomes a segment; the thresholds are the published ones."""

    kind: Literal["panoptic"] = "panoptic"
    backbone: BackbonePart
    neck: NeckPart | None = None  # None: the head takes the backbone's maps
    head: Mask2FormerConfig = Mask2FormerConfig()
    mean: Statistics = IMAGENET_MEAN  # of RGB in [0, 1]; data: measured on the training data
    std: Statistics = IMAGENET_STD
    size_divisor: int | None = Field(None, gt=0)  # padded sizes are multiples of it; None: the least that fits
    min_score: float = Field(0.8, ge=0, le=1)  # of a query's class, to be heard at all
    min_share: float = Field(0.8, ge=0, le=1)  # of a query's mask, that other queries must leave it

    def build(self, info: DataInfo, assets: Path, backbone: Backbone | None = None) -> Panoptic:
        """Build for the classes of the data; keeps no files in `assets`.

        Raises:
            UserError: data without label maps beside objects, or parts that do not fit each other.
        """
        if not info.class_names or not info.map_class_names:
            what = "things are objects with masks and stuff is in label maps, and these data lack one of them"
            raise UserError(what, where="data", fix="--label-maps painted, or --label-maps files")
        return Panoptic(with_statistics(self, info), info, backbone)


@dataclass(frozen=True, kw_only=True)
class PanopticCollator:
    """Samples -> DetectBatch, in which all stuff of one class is an object too, and void is one that is ignored."""

    detect: DetectCollator
    stuff: tuple[int, ...]  # of each class of the label maps the class that it is, or -1 where it is no stuff

    def __call__(self, samples: list[Sample]) -> DetectBatch:
        return self.detect([replace(sample, objects=self.objects(sample)) for sample in samples])

    def objects(self, sample: Sample) -> Objects[Tensor]:
        """Things, then stuff, then void.

        Raises:
            UserError: things without masks, or classes that the model was not built for.
        """
        things, label_map = sample.objects, sample.label_map
        if label_map is None:
            return things
        if len(things) and things.masks is None:
            raise UserError("things without masks", where=sample.id, fix="--set data.masks=true")
        if label_map.numel() and int(label_map.max()) >= len(self.stuff):
            what = f"labels up to {int(label_map.max())} for {len(self.stuff)} classes of label maps"
            raise UserError(what, where=sample.id, fix="use data with the classes that the model was built for")
        masks = torch.zeros(0, *label_map.shape, dtype=torch.bool) if things.masks is None else things.masks
        ignored = things.is_ignored | things.is_difficult
        drawn = (masks > 0).any(dim=0)
        classes = torch.tensor([*self.stuff, -1])[label_map.long()]  # the last is that of IGNORED
        labels = [int(one) for one in classes.unique() if one >= 0]
        areas = [classes == label for label in labels] + [(classes < 0) & ~drawn]
        areas = torch.stack(areas) & ~drawn
        there = areas.flatten(1).any(dim=1)
        more = Objects(
            labels=torch.tensor([*labels, 0])[there],
            boxes_xyxy=masks_to_boxes(areas[there]) + torch.tensor([0.0, 0.0, 1.0, 1.0]),
            is_ignored=torch.tensor([False] * len(labels) + [True])[there],
            masks=areas[there].to(masks.dtype),
        )
        own = Objects(
            labels=things.labels,
            boxes_xyxy=things.boxes_xyxy,
            is_crowd=things.is_crowd,
            is_ignored=ignored,
            masks=masks,
        )
        return cat([own, more])


class Panoptic(nn.Module):
    """DetectBatch -> StepOutput in training, segments of the whole image from `predict`."""

    def __init__(self, config: PanopticConfig, info: DataInfo, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config, self.class_names = config, info.panoptic_class_names
        self.num_things, self.map_class_names = len(info.class_names), info.map_class_names
        maps = features(
            config.backbone, config.neck, channels=info.channels, size_divisor=config.size_divisor, shared=backbone
        )
        self.backbone, self.neck, self.size_divisor = maps.backbone, maps.neck, maps.size_divisor
        self.head = config.head.build(maps.specs, len(self.class_names))
        self.normalise = Normalise(config.mean, config.std, info.channels)

    @property
    def traits(self) -> TaskTraits:
        return TaskTraits(prediction="panoptic", terms=self.head.terms, class_names=self.class_names)

    @property
    def collator(self) -> Callable[[list[Sample]], DetectBatch]:
        places = [self.class_names.index(name) for name in self.map_class_names]
        stuff = tuple(place if place >= self.num_things else -1 for place in places)
        detect = DetectCollator(size_divisor=self.size_divisor, num_classes=len(self.class_names), has_masks=True)
        return PanopticCollator(detect=detect, stuff=stuff)

    def forward(self, batch: DetectBatch) -> StepOutput:
        return self.learn(self.backbone(self.images(batch)), batch)

    def images(self, batch: DetectBatch) -> Tensor:
        """float[B, C, H, W] that the backbone is shown."""
        return self.normalise(batch.images, batch.sizes_hw)

    def learn(self, maps: list[Tensor], batch: DetectBatch) -> StepOutput:
        """The terms of the loss, from the backbone's maps."""
        loss = self.head.loss(self._said(maps, batch), batch.targets)
        return StepOutput(terms=loss.terms, metrics=loss.metrics)

    def units(self, batch: DetectBatch) -> Mapping[str, float | Tensor]:
        """Of each term of the loss, over how many units (weights of queries, segments) the batch sums it."""
        return self.head.units(batch.targets, (batch.images.shape[-2], batch.images.shape[-1]))

    def predict(self, batch: DetectBatch) -> list[PanopticPrediction]:
        """One prediction for each sample, on the grid of its file, on the CPU.

        Raises:
            UserError: a sample was flipped or turned, so that nothing leads back to its file.
        """
        check_in_place(batch.ids, batch.origins_xy)
        said = self._said(self.backbone(self.images(batch)), batch).said
        padded_hw, found = (batch.images.shape[-2], batch.images.shape[-1]), []
        for i, ((h, w), (scale_x, scale_y)) in enumerate(zip(batch.sizes_hw, batch.scales_xy, strict=True)):
            enlarged = partial(
                of_image, padded_hw=padded_hw, size_hw=(h, w), to_hw=(round(h / scale_y), round(w / scale_x))
            )
            segment_map, segments = segments_of(
                said.logits[-1][i],
                said.masks[-1][i].float().sigmoid(),
                enlarged,
                num_things=self.num_things,
                min_score=self.config.min_score,
                min_share=self.config.min_share,
            )
            one = PanopticPrediction(
                id=batch.ids[i],
                image_id=batch.image_ids[i],
                segment_map=segment_map.cpu(),
                segments=segments,
                class_names=self.class_names,
            )
            found.append(one)
        return found

    def _said(self, maps: list[Tensor], batch: DetectBatch) -> MaskOutput:
        shown = Shown(sizes_hw=tuple(batch.sizes_hw), padded_hw=(batch.images.shape[-2], batch.images.shape[-1]))
        return self.head(maps if self.neck is None else self.neck(maps), shown)


def segments_of(
    logits: Tensor,
    masks: Tensor,
    enlarged: Callable[[Tensor], Tensor],
    *,
    num_things: int,
    min_score: float,
    min_share: float,
) -> tuple[Tensor, tuple[Segment, ...]]:
    """What the queries of one image say together.

    A pixel goes to the query with the largest product of score and mask there; of a query remains what is its own and
    at least a half there, unless others took more than `1 - min_share` of its mask.

    Args:
        logits: float[Q, K + 1], the last is that of nothing.
        masks: float[Q, h, w], probabilities.
        enlarged: float[N, h, w] -> float[N, H, W], to the size of the file.

    Returns:
        int32[H, W], 0 or the number of a segment, from 1; and the segments. All stuff of one class is one segment, with
        the score of the best of its queries.
    """
    scores, labels = logits.float().softmax(-1).max(dim=1)
    kept = ((labels < logits.shape[1] - 1) & (scores > min_score)).nonzero().squeeze(1)
    best = enlarged(masks[:1])[0] * 0  # one mask after the other: together they may be gigabytes
    owner, is_inside, sizes = best.long() - 1, best > 0, []
    for number, query in enumerate(kept.tolist()):
        mask = enlarged(masks[query : query + 1])[0]
        value = scores[query] * mask
        wins = (value > best) | (owner < 0)
        best, owner = torch.where(wins, value, best), torch.where(wins, number, owner)
        is_inside = torch.where(wins, mask >= 0.5, is_inside)
        sizes.append(int((mask >= 0.5).sum()))
    found = torch.zeros_like(owner, dtype=torch.int32)
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for number, query in enumerate(kept.tolist()):
        own = owner == number
        area, label, score = own & is_inside, int(labels[query]), float(scores[query])
        if not area.any() or int(own.sum()) < min_share * sizes[number]:
            continue
        if label in stuff:
            found[area] = stuff[label]
            before = segments[stuff[label] - 1]
            segments[stuff[label] - 1] = replace(before, score=max(before.score, score))
            continue
        segments.append(Segment(label=label, is_thing=label < num_things, score=score))
        found[area] = len(segments)
        if label >= num_things:
            stuff[label] = len(segments)
    return found, tuple(segments)
