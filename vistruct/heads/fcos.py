"""FCOS: every location of every level says what is there, and how far the four sides of its box are.

Source: Tian et al., "FCOS: A Simple and Strong Anchor-free Object Detector", arXiv:2006.09214; the layers and
    the losses (focal, GIoU, centerness) are torchvision's `FCOSHead`.
Differs from torchvision's `FCOS`:
    - a location is the centre of its cell, (i + 1/2) * stride, as in the paper, and not the cell's corner;
    - the size ranges of the levels follow from their strides whatever these are, without gaps between levels,
      and a box exactly on a bound belongs to the finer level (there it belongs to none);
    - the distances start at one stride and not at zero, where half of the ReLUs would be shut;
    - locations in a crowd region that belong to no object take no part in the loss;
    - the loss is a sum over images with the number of matched locations beside it, so that splitting a batch
      changes nothing.
Shapes: B images, N locations over all levels, C classes, M objects in an image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from vistruct.config import Part
from vistruct.contracts import (
    BoxTarget,
    ClassLayer,
    Detections,
    FeatureSpec,
    HeadLoss,
    HeadTraits,
    Ratio,
    Selection,
    Shown,
)
from vistruct.heads.boxes import add_images, count_matched, split
from vistruct.heads.by_name import ByName
from vistruct.heads.selection import best_of_levels, by_level, select_detections, selection_of

CENTER_RADIUS = 1.5  # strides around an object's centre that count as the object; paper, section 4.1
RANGE = 8.0  # strides: a level learns objects whose farthest side is at most this far away
PAIRS_AT_ONCE = 4_000_000  # of location and object, 64 MB an array: a whole scene of objects fits in memory


class FcosConfig(Part):
    """Layers of the head and thresholds of its detections."""

    kind: Literal["fcos"] = "fcos"
    num_convs: int = Field(4, ge=1)  # in each of the two towers
    prior: float = Field(0.01, gt=0, lt=1)  # score of every class at every location before training
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.6, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_candidates: int = Field(1000, gt=0)  # best locations of a level that go into NMS
    max_detections: int = Field(300, gt=0)  # in one image
    name_width: int | None = Field(None, gt=0)  # of vectors of names that tell the classes; None: numbered classes

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Fcos:
        """Build on levels with the same number of channels, finest first."""
        layers, name_width = _Layers(self, specs[0].channels, num_classes), self.name_width
        return Fcos(self, specs, layers, HORIZONTAL, "classification_head", name_width)


@dataclass(frozen=True, kw_only=True)
class FcosOutput:
    """What every location says, float32 whatever the precision of the layers."""

    logits: Tensor  # float[B, N, C]
    offsets: Tensor  # float[B, N, 4], left, top, right, bottom, in strides, >= 0
    centerness: Tensor  # float[B, N, 1], logit
    cells_xyxy: Tensor  # float[N, 4], pixels; a location is the centre of its cell
    level_sizes: tuple[int, ...]  # locations of each level; they add up to N

    def boxes(self, i: int, rows: Tensor) -> Tensor:
        """float[K, 4], xyxy: what the locations int64[K] of image `i` say."""
        return BoxLinearCoder(normalize_by_size=True).decode(self.offsets[i, rows], self.cells_xyxy[rows])

    def every(self) -> Tensor:
        """float[B, N, 4], xyxy: what all locations of all images say."""
        return BoxLinearCoder(normalize_by_size=True).decode(self.offsets, self.cells_xyxy)


@dataclass(frozen=True, kw_only=True)
class Points:
    """What kind of box the locations of a head stand for; a box is float[4] xyxy or float[5] cxcywha."""

    output: Callable[..., Any]  # what the layers say, cells_xyxy, level_sizes -> FcosOutput, or its like
    split: Callable[[BoxTarget], tuple[Tensor, Tensor, Tensor]]  # boxes, labels, and regions to be ignored
    match: Callable[[Tensor, Tensor, Tensor], Tensor]  # cells, ranges, boxes -> int64[N], -1 for background
    inside: Callable[[Tensor, Tensor], Tensor]  # cells, regions -> bool[N]
    box_loss: Callable[[Tensor, Tensor], Tensor]  # K boxes, K goals -> float[K]
    centerness: Callable[[Tensor, Tensor], Tensor]  # K cells, K goals -> float[K]
    select: Callable[..., Detections]  # as `select_detections`
    is_oriented: bool = False


class Fcos(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> FcosOutput.

    Args:
        config: FcosConfig, or one with the same thresholds.
        layers: levels (and vectors of names) -> what `points.output` takes, by name.
        classes: which of the layers is the tower of the classes.
        name_width: of the vectors that tell the classes; None: they are numbered.
    """

    terms = ("class", "box", "centerness")

    def __init__(
        self,
        config: Any,
        specs: Sequence[FeatureSpec],
        layers: nn.Module,
        points: Points,
        classes: str,
        name_width: int | None = None,
    ) -> None:
        super().__init__()
        self.classes, self.name_width = classes, name_width
        self.config, self.strides, self.points = config, tuple(spec.stride for spec in specs), points
        self.layers = layers

    @property
    def traits(self) -> HeadTraits:
        nms_iou, most = self.config.nms_iou, self.config.max_detections
        layers = (ClassLayer(name=f"layers.{self.classes}.cls_logits"),) if self.name_width is None else ()
        return HeadTraits(
            is_oriented=self.points.is_oriented,
            nms_iou=nms_iou,
            max_detections=most,
            class_layers=layers,
            name_width=self.name_width,
        )

    def forward(self, features: list[Tensor], shown: Shown | None = None, names: Tensor | None = None) -> Any:
        layers = self.layers(features) if names is None else self.layers(features, names)
        said = {name: value.float() for name, value in layers.items()}
        cells = [cells_of(f.shape[-2], f.shape[-1], s, f.device) for f, s in zip(features, self.strides, strict=True)]
        return self.points.output(**said, cells_xyxy=torch.cat(cells), level_sizes=tuple(one.shape[0] for one in cells))

    def loss(self, output: Any, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Focal loss over all locations, box and centerness loss over the matched ones.

        Args:
            output: of a batch of B images.
            targets: B of them; images without objects teach background alone.

        Returns:
            Sums over the images' matched locations, of which there may be none. Its metric `unmatched`: objects that
            no location stands for (too small, centred outside the image, or hidden under smaller ones), for each
            matched location.

        Raises:
            ValueError: a target without the kind of boxes that the head learns from.
        """
        points, cells = self.points, output.cells_xyxy
        ranges = size_ranges(self.strides, output.level_sizes, cells.device)
        parts: list[list[Tensor]] = []
        num_matched = num_unmatched = 0
        for i, target in enumerate(targets):
            boxes, labels, regions = points.split(target)
            matched = points.match(cells, ranges, boxes)
            use = (matched >= 0) | ~points.inside(cells, regions)
            rows = (matched >= 0).nonzero().squeeze(1)
            own = matched[rows]
            truth = torch.zeros_like(output.logits[i])
            truth[rows, labels[own]] = 1.0
            loss_class = sigmoid_focal_loss(output.logits[i][use], truth[use], reduction="sum")
            loss_box = points.box_loss(output.boxes(i, rows), boxes[own]).sum()
            goal = points.centerness(cells[rows], boxes[own])
            loss_centerness = F.binary_cross_entropy_with_logits(output.centerness[i, rows, 0], goal, reduction="sum")
            parts.append([loss_class, loss_box, loss_centerness])
            num_matched += len(rows)
            num_unmatched += len(boxes) - len(own.unique())
        ratio = Ratio(total=num_unmatched, count=num_matched)
        return HeadLoss(terms=add_images(parts, self.terms), metrics={"unmatched": ratio})

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Matched locations of images of `size_hw`, padding included: of each term."""
        (height, width), device = size_hw, targets[0].labels.device
        levels = [cells_of(-(-height // stride), -(-width // stride), stride, device) for stride in self.strides]
        cells, ranges = torch.cat(levels), size_ranges(self.strides, list(map(len, levels)), device)
        matched = [self.points.match(cells, ranges, self.points.split(target)[0]) for target in targets]
        return dict.fromkeys(self.terms, count_matched(matched))

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    @property
    def selection(self) -> Selection:
        return selection_of(self.config)

    def dense(self, output: Any, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """As of `DenseBoxHead`."""
        return by_level(_scores(output), output.every(), output.level_sizes)

    def decode(self, output: Any, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image; the score is sqrt(class * centerness), as in torchvision.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them and left out where nothing
                stays; oriented ones are left out where they lie wholly outside.
        """
        config = self.config
        scores = _scores(output)
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            row, label, score = best_of_levels(
                scores[i], output.level_sizes, config.score_threshold, config.max_candidates
            )
            boxes, select = output.boxes(i, row), self.points.select
            found.append(select(boxes, score, label, size_hw, nms_iou=config.nms_iou, num=config.max_detections))
        return found


def _scores(output: Any) -> Tensor:
    """float[B, N, C]."""
    return (output.logits.sigmoid() * output.centerness.sigmoid()).sqrt()


class _Layers(FCOSHead):
    """torchvision's head with its norm and its prior as settings, which its constructor does not offer."""

    def __init__(self, config: FcosConfig, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        norm = norm_of(channels)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, config.num_convs, prior_probability=config.prior, norm_layer=norm
        )
        self.regression_head = FCOSRegressionHead(channels, 1, config.num_convs, norm_layer=norm)
        nn.init.ones_(self.regression_head.get_parameter("bbox_reg.bias"))
        if config.name_width is not None:
            by_name: Any = ByName(channels, config.name_width, config.prior)
            self.classification_head.cls_logits = by_name

    def forward(self, x: list[Tensor], names: Tensor | None = None) -> dict[str, Tensor]:
        if names is None:
            return super().forward(x)
        tower, by_name = self.classification_head.conv, self.classification_head.cls_logits
        offsets, centerness = self.regression_head(x)
        logits = torch.cat([by_name(tower(level), names) for level in x], dim=1)
        return {"cls_logits": logits, "bbox_regression": offsets, "bbox_ctrness": centerness}


def norm_of(channels: int) -> Callable[[int], nn.Module]:
    """Of the towers, in groups."""
    groups = math.gcd(32, channels)  # 32, fewer in a narrow head
    if groups == channels:  # one number a group would be normalised to nothing on a level of one cell
        groups = max(1, groups // 2)
    return partial(nn.GroupNorm, groups)


def cells_of(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """float[height*width, 4], xyxy in pixels: the square of the image behind each location."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
    return torch.cat([corner, corner + stride], dim=1)


def size_ranges(strides: Sequence[int], level_sizes: Sequence[int], device: torch.device) -> Tensor:
    """float[N, 2]: bounds (pixels) on the distance from a location to the farthest side of its box.

    Level by level (0, 8 s0], (8 s0, 8 s1], ..., (8 s, infinity): no object falls between two levels.
    """
    bounds = [0.0, *(RANGE * stride for stride in strides[:-1]), math.inf]
    table = torch.tensor(list(itertools.pairwise(bounds)), device=device)  # [levels, 2]
    return table.repeat_interleave(torch.tensor(level_sizes, device=device), dim=0)


def match_locations(cells_xyxy: Tensor, ranges: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """The object that each location stands for: of those that it may stand for, the smallest.

    Args:
        cells_xyxy: float[N, 4], pixels.
        ranges: float[N, 2], pixels, as from `size_ranges`.
        boxes_xyxy: float[M, 4], pixels.

    Returns:
        int64[N], an index into the boxes, or -1 for background.
    """
    if len(boxes_xyxy) == 0:
        return torch.full((len(cells_xyxy),), -1, dtype=torch.int64, device=cells_xyxy.device)
    chunk = max(1, PAIRS_AT_ONCE // len(boxes_xyxy))
    pieces = zip(cells_xyxy.split(chunk), ranges.split(chunk), strict=True)
    return torch.cat([_match(cells, bounds, boxes_xyxy) for cells, bounds in pieces])


def _match(cells_xyxy: Tensor, ranges: Tensor, boxes_xyxy: Tensor) -> Tensor:
    point = (cells_xyxy[:, None, :2] + cells_xyxy[:, None, 2:]) / 2  # [N, 1, 2]
    stride = (cells_xyxy[:, 2] - cells_xyxy[:, 0])[:, None]  # [N, 1]
    low, high = boxes_xyxy[None, :, :2], boxes_xyxy[None, :, 2:]  # [1, M, 2]
    sides = torch.cat([point - low, high - point], dim=2)  # [N, M, 4], pixels to the four sides
    farthest = sides.amax(dim=2)
    may = sides.amin(dim=2) > 0
    may &= (point - (low + high) / 2).abs().amax(dim=2) < CENTER_RADIUS * stride
    may &= (farthest > ranges[:, :1]) & (farthest <= ranges[:, 1:])
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)  # [M]
    smallest, index = torch.where(may, area, math.inf).min(dim=1)
    return torch.where(smallest < math.inf, index, -1)


def inside_any(cells_xyxy: Tensor, regions_xyxy: Tensor) -> Tensor:
    """bool[N]: the centre of the cell lies in one of the regions float[K, 4]; all false where K is 0."""
    point = (cells_xyxy[:, None, :2] + cells_xyxy[:, None, 2:]) / 2  # [N, 1, 2]
    within = (point >= regions_xyxy[None, :, :2]) & (point < regions_xyxy[None, :, 2:])  # [N, K, 2]
    return within.all(dim=2).any(dim=1)


def centerness_of(cells_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """float[K] in [0, 1]: 1 at the centre of the location's box, 0 on its sides; equation 3."""
    point = (cells_xyxy[:, :2] + cells_xyxy[:, 2:]) / 2
    sides = torch.stack([point - boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - point])  # [2, K, 2]
    return (sides.amin(dim=0) / sides.amax(dim=0)).prod(dim=1).sqrt()


def _output(*, cls_logits: Tensor, bbox_regression: Tensor, bbox_ctrness: Tensor, **cells: Any) -> FcosOutput:
    return FcosOutput(logits=cls_logits, offsets=bbox_regression, centerness=bbox_ctrness, **cells)


HORIZONTAL = Points(
    output=_output,
    split=split,
    match=match_locations,
    inside=inside_any,
    box_loss=generalized_box_iou_loss,
    centerness=centerness_of,
    select=select_detections,
)
