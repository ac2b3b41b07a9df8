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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadTraits, Ratio
from vistruct.heads.boxes import BoxTarget, Detections, HeadLoss, add_images, count_matched
from vistruct.heads.selection import best_of_levels, select_detections

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

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Fcos:
        """Build on levels with the same number of channels, finest first."""
        return Fcos(self, specs, num_classes)


@dataclass(frozen=True, kw_only=True)
class FcosOutput:
    """What every location says, float32 whatever the precision of the layers."""

    logits: Tensor  # float[B, N, C]
    offsets: Tensor  # float[B, N, 4], left, top, right, bottom, in strides, >= 0
    centerness: Tensor  # float[B, N, 1], logit
    cells_xyxy: Tensor  # float[N, 4], pixels; a location is the centre of its cell
    level_sizes: tuple[int, ...]  # locations of each level; they add up to N


class Fcos(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> FcosOutput."""

    terms = ("class", "box", "centerness")

    def __init__(self, config: FcosConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.strides = config, tuple(spec.stride for spec in specs)
        self.layers = _Layers(config, specs[0].channels, num_classes)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(nms_iou=self.config.nms_iou, max_detections=self.config.max_detections)

    def forward(self, features: list[Tensor]) -> FcosOutput:
        out = self.layers(features)
        cells = [cells_of(f.shape[-2], f.shape[-1], s, f.device) for f, s in zip(features, self.strides, strict=True)]
        return FcosOutput(
            logits=out["cls_logits"].float(),
            offsets=out["bbox_regression"].float(),
            centerness=out["bbox_ctrness"].float(),
            cells_xyxy=torch.cat(cells),
            level_sizes=tuple(map(len, cells)),
        )

    def loss(self, output: FcosOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Focal loss over all locations, GIoU and centerness loss over the matched ones.

        Args:
            output: of a batch of B images.
            targets: B of them; images without objects teach background alone.

        Returns:
            Sums over the images' matched locations, of which there may be none. Its metric `unmatched`: objects that
            no location stands for (smaller than the finest stride, or hidden under smaller objects), for each matched
            location.
        """
        ranges = size_ranges(self.strides, output.level_sizes, output.cells_xyxy.device)
        parts: list[Tensor] = []  # each float[3]: classification, box, centerness
        num_matched = num_unmatched = 0
        for i, target in enumerate(targets):
            boxes, labels, crowds = target.split()
            matched = match_locations(output.cells_xyxy, ranges, boxes)
            use = (matched >= 0) | ~inside_any(output.cells_xyxy, crowds)
            losses = self.layers.compute_loss(
                [{"boxes": boxes, "labels": labels}],
                {
                    "cls_logits": output.logits[i, use][None],
                    "bbox_regression": output.offsets[i, use][None],
                    "bbox_ctrness": output.centerness[i, use][None],
                },
                [output.cells_xyxy[use]],
                [matched[use]],
            )
            own = matched[matched >= 0]
            mean = torch.stack([losses["classification"], losses["bbox_regression"], losses["bbox_ctrness"]])
            parts.append(mean * max(1, len(own)))  # torchvision gives means over the matched locations
            num_matched += len(own)
            num_unmatched += len(boxes) - len(own.unique())
        return HeadLoss(
            terms=add_images([tuple(part) for part in parts], self.terms),
            metrics={"unmatched": Ratio(total=num_unmatched, count=num_matched)},
        )

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Matched locations of images of `size_hw`, padding included: of each term."""
        cells, ranges = locations(size_hw, self.strides, targets[0].labels.device)
        matched = [match_locations(cells, ranges, target.split()[0]) for target in targets]
        return dict.fromkeys(self.terms, count_matched(matched))

    def decode(self, output: FcosOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image; the score is sqrt(class * centerness), as in torchvision.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them, and left out where
                nothing stays.
        """
        config = self.config
        scores = (output.logits.sigmoid() * output.centerness.sigmoid()).sqrt()  # [B, N, C]
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            row, label, score = best_of_levels(
                scores[i], output.level_sizes, config.score_threshold, config.max_candidates
            )
            boxes = self.layers.box_coder.decode(output.offsets[i, row], output.cells_xyxy[row])
            found.append(
                select_detections(boxes, score, label, size_hw, nms_iou=config.nms_iou, num=config.max_detections)
            )
        return found


class _Layers(FCOSHead):
    """torchvision's head with its norm and its prior as settings, which its constructor does not offer."""

    def __init__(self, config: FcosConfig, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        groups = math.gcd(32, channels)  # 32, fewer in a narrow head
        if groups == channels:  # one number a group would be normalised to nothing on a level of one cell
            groups = max(1, groups // 2)
        norm = partial(nn.GroupNorm, groups)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, config.num_convs, prior_probability=config.prior, norm_layer=norm
        )
        self.regression_head = FCOSRegressionHead(channels, 1, config.num_convs, norm_layer=norm)
        nn.init.ones_(self.regression_head.get_parameter("bbox_reg.bias"))


def cells_of(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """float[height*width, 4], xyxy in pixels: the square of the image behind each location."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
    return torch.cat([corner, corner + stride], dim=1)


def locations(size_hw: tuple[int, int], strides: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """float[N, 4] cells of all levels on images of this size, and their `size_ranges`."""
    levels = [cells_of(-(-size_hw[0] // stride), -(-size_hw[1] // stride), stride, device) for stride in strides]
    return torch.cat(levels), size_ranges(strides, [len(level) for level in levels], device)


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
