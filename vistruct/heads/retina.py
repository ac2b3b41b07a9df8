"""RetinaNet: every anchor of every level says what is there, and how to move to its box.

Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002; the layers and the focal loss are
    torchvision's `RetinaNetHead` and `sigmoid_focal_loss`.
Differs from torchvision's `RetinaNet`:
    - the anchors follow from the strides, whatever these are;
    - anchors in a crowd region that match no object take no part in the loss;
    - the loss is a sum over images with the number of matched anchors beside it, so that splitting a batch
      changes nothing.
Shapes: B images, A anchors over all levels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import sigmoid_focal_loss

from vistruct.config import Part
from vistruct.contracts import BoxTarget, ClassLayer, Detections, FeatureSpec, HeadLoss, HeadTraits, Selection, Shown
from vistruct.heads.anchors import Anchors
from vistruct.heads.boxes import add_images, count_matched, split
from vistruct.heads.matching import UNUSED, ignore_crowds, match_boxes
from vistruct.heads.published_names import RETINA, renamed
from vistruct.heads.selection import best_of_levels, by_level, select_detections, selection_of

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4  # paper, section 4


class RetinaConfig(Part):
    """Anchors of the head, its start, and thresholds of its detections."""

    kind: Literal["retina"] = "retina"
    anchor_scale: float = Field(4.0, gt=0)  # side of a level's smallest anchors, in strides
    octave_scales: int = Field(3, ge=1)  # sizes of a level's anchors, evenly spread up to the next level's
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)  # height / width of the anchors
    prior: float = Field(0.01, gt=0, lt=1)  # score of every class at every anchor before training
    least_iou: float = Field(0.0, ge=0, le=1)  # an object whose best anchor overlaps it less has none
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.5, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_candidates: int = Field(1000, gt=0)  # best anchors of a level that go into NMS
    max_detections: int = Field(300, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Retina:
        """Build on levels with the same number of channels, finest first."""
        return Retina(self, specs, num_classes)


@dataclass(frozen=True, kw_only=True)
class RetinaOutput:
    """What every anchor says, float32 whatever the precision of the layers."""

    logits: Tensor  # float[B, A, C]
    deltas: Tensor  # float[B, A, 4]
    anchors: Tensor  # float[A, 4], xyxy, pixels
    level_sizes: tuple[int, ...]  # anchors of each level; they add up to A


class Retina(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RetinaOutput."""

    terms = ("class", "box")

    def __init__(self, config: RetinaConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        strides, channels = [spec.stride for spec in specs], specs[0].channels
        octave = [config.anchor_scale * 2 ** (k / config.octave_scales) for k in range(config.octave_scales)]
        self.config, self.coder = config, BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.anchors = Anchors([[stride * scale for scale in octave] for stride in strides], config.ratios, strides)
        shapes = self.anchors.num_shapes
        self.classify = RetinaNetClassificationHead(channels, shapes, num_classes, prior_probability=config.prior)
        self.locate = RetinaNetRegressionHead(channels, shapes)

    @property
    def traits(self) -> HeadTraits:
        logits = ClassLayer(name="classify.cls_logits", groups=self.anchors.num_shapes)
        nms_iou, most = self.config.nms_iou, self.config.max_detections
        return HeadTraits(nms_iou=nms_iou, max_detections=most, class_layers=(logits,), convert_keys=self.convert_keys)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmdet's names as this head's; what is not its own falls away."""
        return renamed(self, state, RETINA)

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> RetinaOutput:
        anchors = self.anchors.lay(features)
        return RetinaOutput(
            logits=self.classify(features).float(),
            deltas=self.locate(features).float(),
            anchors=torch.cat(anchors),
            level_sizes=tuple(one.shape[0] for one in anchors),
        )

    def loss(self, output: RetinaOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Focal loss over all anchors in use, L1 loss over the matched ones.

        Args:
            output: of a batch of B images.
            targets: B of them; images without objects teach background alone.

        Returns:
            Sums over the images' matched anchors, of which there may be none.
        """
        parts: list[Sequence[Tensor]] = []  # classification, box
        for i, target in enumerate(targets):
            boxes, labels, crowds = split(target)
            matched = ignore_crowds(self._matched(output.anchors, boxes), output.anchors, crowds)
            positive = (matched >= 0).nonzero().squeeze(1)
            own = matched[positive]
            truth = torch.zeros_like(output.logits[i])
            truth[positive, labels[own]] = 1
            use = matched != UNUSED
            goal = self.coder.encode_single(boxes[own], output.anchors[positive])
            loss_class = sigmoid_focal_loss(output.logits[i, use], truth[use], reduction="sum")
            parts.append([loss_class, F.l1_loss(output.deltas[i, positive], goal, reduction="sum")])
        return HeadLoss(terms=add_images(parts, self.terms))

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Matched anchors of images of `size_hw`, padding included: of each term."""
        anchors = torch.cat(self.anchors.over(size_hw, targets[0].labels.device))
        matched = [self._matched(anchors, split(target)[0]) for target in targets]
        return dict.fromkeys(self.terms, count_matched(matched))

    def _matched(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """As `match_boxes`."""
        return match_boxes(
            anchors,
            boxes,
            positive_iou=POSITIVE_IOU,
            negative_iou=NEGATIVE_IOU,
            low_quality=True,
            least_iou=self.config.least_iou,
        )

    @property
    def num_levels(self) -> int:
        return len(self.anchors.strides)

    @property
    def selection(self) -> Selection:
        return selection_of(self.config)

    def dense(self, output: RetinaOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """As of `DenseBoxHead`."""
        deltas = output.deltas
        anchors = output.anchors[None].expand_as(deltas).reshape(-1, 4)
        boxes = self.coder.decode_single(deltas.reshape(-1, 4), anchors).view_as(deltas)
        return by_level(output.logits.sigmoid(), boxes, output.level_sizes)

    def decode(self, output: RetinaOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them, and left out where
                nothing stays.
        """
        config = self.config
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            row, label, score = best_of_levels(
                output.logits[i].sigmoid(), output.level_sizes, config.score_threshold, config.max_candidates
            )
            boxes = self.coder.decode_single(output.deltas[i, row], output.anchors[row])
            found.append(
                select_detections(boxes, score, label, size_hw, nms_iou=config.nms_iou, num=config.max_detections)
            )
        return found
