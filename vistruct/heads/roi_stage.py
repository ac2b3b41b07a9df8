"""The second look: proposals are pooled from the pyramid, classified, and their boxes moved.

Source: Girshick, "Fast R-CNN", arXiv:1504.08083; the choice of level is that of Lin et al., "Feature Pyramid
    Networks", arXiv:1612.03144, equation 1; pooling is torchvision's `roi_align`.
Differs from torchvision's `RoIHeads`:
    - a proposal is read from the level on which its sides are 14 to 28 cells long, whatever the strides are; at
      strides 4, 8, 16, 32 this is equation 1;
    - pooling is aligned: the centre of the first cell lies half a stride into the image (`aligned`);
    - proposals in a crowd region that match no object take no part in the losses;
    - the background is the last class, and has no box.
Shapes: P proposals or sampled proposals of an image, C classes, K = 1 or C boxes for each, M objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import roi_align

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec
from vistruct.heads.matching import draw_samples, ignore_crowds, match_boxes
from vistruct.heads.selection import clipped

LEAST_CELLS = 14.0  # along the sides of a proposal, on all levels but the finest: 224 pixels at stride 16
STDS = (0.1, 0.1, 0.2, 0.2)  # of x, y, log w and log h: a delta of one


class RoiConfig(Part):
    """How proposals are pooled, looked at, and sampled in training."""

    size: int = Field(7, gt=0)  # cells of a pooled proposal, along each side
    sampling: int = Field(2, ge=0)  # points read in a cell, along each side; 0: one for each cell of the level
    aligned: bool = True  # False: half a cell off, as in torchvision's models
    levels: int = Field(4, gt=0)  # finest levels that proposals are read from, at most
    width: int = Field(1024, gt=0)  # of the two layers
    samples: int = Field(512, gt=0)  # proposals of an image in the losses
    positive: float = Field(0.25, gt=0, le=1)  # part of these that may be on objects
    low_quality: bool = False  # whether an object that no proposal fits also takes those that fit it best
    least_iou: float = Field(0.5, ge=0, le=1)  # but not where the best overlaps it less
    beta: float = Field(1 / 9, ge=0)  # where the box loss (smooth L1) goes from square to straight; 0: L1


@dataclass(frozen=True, kw_only=True)
class RoiSample:
    """Proposals of one image that a step learns from, objects first."""

    rois: Tensor  # float[P, 4], xyxy, pixels, or float[P, 5], cxcywha
    labels: Tensor  # int64[P]; C is the background
    matched: Tensor  # int64[S], of the first S, that are on objects: which one of the image's M
    goals: Tensor  # float[S, 4 or 5]: these objects' boxes
    is_truth: Tensor  # bool[P]: not proposed, an object's own box


class RoiStage(nn.Module):
    """Levels and proposals of one image -> float[P, C + 1] logits and float[P, 4 K] box deltas."""

    def __init__(
        self,
        config: RoiConfig,
        specs: tuple[FeatureSpec, ...],
        num_classes: int,
        *,
        iou: float = 0.5,
        stds: tuple[float, float, float, float] = STDS,
        class_agnostic: bool = False,
    ) -> None:
        """From `iou` on a proposal is on an object; `class_agnostic` gives it one box and not one for each class."""
        super().__init__()
        self.config, self.num_classes, self.iou, self.class_agnostic = config, num_classes, iou, class_agnostic
        self.strides = tuple(spec.stride for spec in specs)
        self.coder = BoxCoder((1 / stds[0], 1 / stds[1], 1 / stds[2], 1 / stds[3]))
        self.layers = TwoMLPHead(specs[0].channels * config.size**2, config.width)
        self.logits, self.deltas = last_layers(config.width, num_classes, 4 if class_agnostic else 4 * num_classes)

    def forward(self, features: list[Tensor], i: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the proposals float[P, 4] of image `i`."""
        seen = self.layers(pool_rois(features, i, rois, self.strides, self.config.size, self.config))
        return self.logits(seen).float(), self.deltas(seen).float()

    def class_layers(self, path: str) -> tuple[ClassLayer, ...]:
        """Those of a stage that is called `path` in its head."""
        deltas = ClassLayer(name=f"{path}.deltas", **({"each": 0, "rest": 4} if self.class_agnostic else {"each": 4}))
        return ClassLayer(name=f"{path}.logits", rest=1), deltas

    def sample(
        self,
        proposals: Tensor,
        boxes: Tensor,
        labels: Tensor,
        crowds: Tensor,
        generator: torch.Generator | None = None,
    ) -> RoiSample:
        """Match the proposals and the objects' own boxes to the objects, and draw those to learn from.

        Args:
            proposals: float[P, 4].
            boxes: float[M, 4], objects of the image.
            labels: int64[M], their classes.
            crowds: float[K, 4], crowd regions of the image.
            generator: draws them; None: torch's global one.
        """
        config = self.config
        matched = match_boxes(
            proposals,
            boxes,
            positive_iou=self.iou,
            negative_iou=self.iou,
            low_quality=config.low_quality,
            least_iou=config.least_iou,
        )
        candidates = torch.cat([proposals, boxes])
        matched = torch.cat([matched, torch.arange(len(boxes), device=matched.device)])  # a true box is its own match
        sample = draw_samples(ignore_crowds(matched, candidates, crowds), config.samples, config.positive, generator)
        return drawn(sample, matched, candidates, boxes, labels, self.num_classes)

    def loss(self, logits: Tensor, deltas: Tensor, sample: RoiSample) -> tuple[Tensor, Tensor]:
        """As `stage_losses`."""
        positive = len(sample.matched)
        own = deltas[:positive].view(positive, deltas.shape[1] // 4, 4)
        if self.class_agnostic:
            own = own[:, 0]
        else:
            own = own[torch.arange(positive, device=own.device), sample.labels[:positive]]
        goal = self.coder.encode_single(sample.goals, sample.rois[:positive])
        return stage_losses(logits, own, goal, sample, self.config.beta)

    def move(self, rois: Tensor, deltas: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """float[P, K, 4]: the boxes that the deltas lead to, clipped to `size_hw`."""
        moved = self.coder.decode_single(deltas, rois).view(-1, int(deltas.shape[1]) // 4, 4)
        return clipped(moved, size_hw)


def last_layers(width: int, num_classes: int, numbers: int) -> tuple[nn.Linear, nn.Linear]:
    """Logits, the last of them the background's, and `numbers` deltas; they start small (Fast R-CNN, section 4.1)."""
    layers = nn.Linear(width, num_classes + 1), nn.Linear(width, numbers)
    for layer, std in zip(layers, (0.01, 0.001), strict=True):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return layers


def drawn(
    sample: Tensor, matched: Tensor, candidates: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> RoiSample:
    """What was drawn, int64[P], of the candidates: proposals, and behind them the M objects' own boxes."""
    found = matched[sample]
    own = found[found >= 0]
    background = labels.new_full((len(found) - len(own),), num_classes)
    return RoiSample(
        rois=candidates[sample],
        labels=torch.cat([labels[own], background]),
        matched=own,
        goals=boxes[own],
        is_truth=sample >= len(candidates) - len(boxes),
    )


def stage_losses(
    logits: Tensor, deltas: Tensor, goals: Tensor, sample: RoiSample, beta: float
) -> tuple[Tensor, Tensor]:
    """float[] class and float[] box loss (of S deltas): means over the samples, 0 where there is none."""
    number = max(1, len(sample.labels))
    loss_class = F.cross_entropy(logits, sample.labels, reduction="sum")
    return loss_class / number, F.smooth_l1_loss(deltas, goals, beta=beta, reduction="sum") / number


def pool_rois(
    features: list[Tensor], i: int, rois: Tensor, strides: tuple[int, ...], size: int, config: RoiConfig
) -> Tensor:
    """float[P, channels, size, size]: what lies in each proposal of image `i`.

    Args:
        features: of each level float[B, channels, h, w].
        i: the image's number in the batch.
        rois: float[P, 4], xyxy, pixels.
        strides: of the levels, finest first.
        size: cells along each side.
        config: which levels, and how they are read.
    """
    features, strides = features[: config.levels], strides[: config.levels]
    level = levels_of(rois, strides)
    pooled = features[0].new_zeros(rois.shape[0], features[0].shape[1], size, size)
    for number, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        mine = (level == number).nonzero().squeeze(1)
        read = roi_align(feature[i : i + 1], [rois[mine]], size, 1 / stride, config.sampling, config.aligned)
        pooled[mine] = read
    return pooled


def levels_of(rois: Tensor, strides: tuple[int, ...]) -> Tensor:
    """int64[P]: the coarsest level on which a proposal float[P, 4] is at least 14 cells long, or the finest.

    Its length is the square root of its area, and a hair of 1e-6 octaves is forgiven, as in torchvision.
    """
    sides = rois[:, 2:] - rois[:, :2]
    least = LEAST_CELLS * (1 - 1e-6) * rois.new_tensor(strides[1:])
    return (sides.prod(dim=1).sqrt()[:, None] >= least).sum(dim=1)
