"""The proposal network: anchors over a pyramid, which of them are on an object, and boxes nearer to it.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497, section 3.1; the layers are torchvision's `RPNHead`.
Differs from torchvision's `RegionProposalNetwork`:
    - anchors in a crowd region that match no object take no part in the loss;
    - the numbers of proposals go with what they are for, and not with the mode of the module;
    - only the candidates are decoded, and objects are matched without a table of all overlaps.
Shapes: B images, A anchors over all levels, P proposals of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, _topk_min
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, remove_small_boxes

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec
from vistruct.heads.anchors import Anchors
from vistruct.heads.boxes import split
from vistruct.heads.matching import draw_samples, ignore_crowds, match_boxes, sampler_of
from vistruct.heads.selection import clipped, select_detections

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3  # paper, section 3.1.2
MIN_SIDE = 1e-3  # pixels; a proposal that clipping left thinner is none


class RpnConfig(Part):
    """Anchors, how they are sampled in training, and how many proposals they give."""

    anchor_scale: float = Field(8.0, gt=0)  # side of a level's anchors, in strides
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)  # height / width of the anchors
    samples: int = Field(256, gt=0)  # anchors of an image in the loss, at most half of them on objects
    least_iou: float = Field(0.0, ge=0, le=1)  # an object whose best anchor overlaps it less has none
    beta: float = Field(1 / 9, ge=0)  # where the box loss (smooth L1) goes from square to straight; 0: L1
    candidates_train: int = Field(2000, gt=0)  # best anchors of a level that go into NMS
    candidates_test: int = Field(1000, gt=0)
    proposals_train: int = Field(1000, gt=0)  # of an image, after NMS
    proposals_test: int = Field(1000, gt=0)
    nms_iou: float = Field(0.7, gt=0, le=1)  # of two proposals of one level above it, the better one stays

    def limits(self, train: bool) -> tuple[int, int]:
        """Candidates of a level, and proposals of an image."""
        if train:
            return self.candidates_train, self.proposals_train
        return self.candidates_test, self.proposals_test


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """What kind of boxes are proposed, and how they are written relative to an anchor float[4] xyxy.

    A box is float[4] xyxy or float[5] cxcywha; N anchors or boxes go through each function at once.
    """

    numbers: int  # of each delta
    anchors: type[Anchors]
    split: Callable[[BoxTarget], tuple[Tensor, Tensor, Tensor]]  # boxes, labels, and regions to be ignored
    sampler: Callable[[Tensor], torch.Generator]  # boxes of an image -> what draws its samples
    hulls: Callable[[Tensor], Tensor]  # boxes -> float[N, 4]
    encode: Callable[[Tensor, Tensor], Tensor]  # anchors, boxes -> deltas
    decode: Callable[[Tensor, Tensor], Tensor]  # anchors, deltas -> boxes
    ignore: Callable[[Tensor, Tensor, Tensor], Tensor]  # matches, anchors, regions -> matches
    solid: Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor]]  # boxes, image -> boxes, and which have an area
    select: Callable[..., Detections]  # as `select_detections`
    is_oriented: bool = False


def _hulls(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy


def _encoded(anchors: Tensor, boxes_xyxy: Tensor) -> Tensor:
    return _CODER.encode_single(boxes_xyxy, anchors)


def _decoded(anchors: Tensor, deltas: Tensor) -> Tensor:
    return _CODER.decode_single(deltas, anchors)


def _clipped(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    boxes = clipped(boxes_xyxy, size_hw)
    return boxes, remove_small_boxes(boxes, MIN_SIDE)


_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
HORIZONTAL = Proposals(
    numbers=4,
    anchors=Anchors,
    split=split,
    sampler=sampler_of,
    hulls=_hulls,
    encode=_encoded,
    decode=_decoded,
    ignore=ignore_crowds,
    solid=_clipped,
    select=select_detections,
)


@dataclass(frozen=True, kw_only=True)
class RpnOutput:
    """What is said of every anchor, and the levels for the second look; float32 whatever the layers' precision."""

    features: list[Tensor]  # of each level float[B, channels, h, w]
    objectness: Tensor  # float[B, A], logit
    deltas: Tensor  # float[B, A, numbers]
    anchors: Tensor  # float[A, 4], xyxy, pixels
    level_sizes: list[int]  # anchors of each level; they add up to A
    size_hw: tuple[int, int]  # of the padded batch, pixels


class Rpn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput.

    Args:
        config: RpnConfig, or one with the same fields or `limits`.
        kind: of the proposals.
    """

    def __init__(self, config: Any, specs: tuple[FeatureSpec, ...], kind: Proposals = HORIZONTAL) -> None:
        super().__init__()
        strides, channels = [spec.stride for spec in specs], specs[0].channels
        self.config, self.kind = config, kind
        sizes = [(config.anchor_scale * stride,) for stride in strides]
        self.anchors = self.kind.anchors(sizes, config.ratios, strides)
        self.head = RPNHead(channels, self.anchors.num_shapes)
        if self.kind.numbers != 4:  # as torchvision's has them
            self.head.bbox_pred = nn.Conv2d(channels, self.kind.numbers * self.anchors.num_shapes, 1)
            nn.init.normal_(self.head.bbox_pred.weight, std=0.01)
            nn.init.zeros_(self.head.bbox_pred.get_parameter("bias"))

    def forward(self, features: list[Tensor]) -> RpnOutput:
        features = [f.float() for f in features]
        rows, columns = features[0].shape[-2:]
        anchors = self.anchors.lay(features)
        objectness, deltas = self.head(features)
        return RpnOutput(
            features=features,
            objectness=torch.cat([_rows(level, 1) for level in objectness], dim=1).squeeze(2),
            deltas=torch.cat([_rows(level, self.kind.numbers) for level in deltas], dim=1),
            anchors=torch.cat(anchors),
            level_sizes=[level.shape[0] for level in anchors],
            size_hw=(rows * self.anchors.strides[0], columns * self.anchors.strides[0]),
        )

    def loss(
        self, output: RpnOutput, i: int, boxes: Tensor, regions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """float[] objectness and float[] box loss of image `i`: means over its sampled anchors, 0 where none is.

        Args:
            output: of a batch.
            i: the image's number in it.
            boxes: M of them, its objects.
            regions: K of them, to be ignored.
            generator: draws the anchors; None: torch's global one.
        """
        matched = match_boxes(
            output.anchors,
            self.kind.hulls(boxes),
            positive_iou=POSITIVE_IOU,
            negative_iou=NEGATIVE_IOU,
            low_quality=True,
            least_iou=self.config.least_iou,
        )
        matched = self.kind.ignore(matched, output.anchors, regions)
        sample = draw_samples(matched, self.config.samples, 0.5, generator)
        found = matched[sample]
        positive = sample[found >= 0]
        goal = self.kind.encode(output.anchors[positive], boxes[found[found >= 0]])
        number = max(1, len(sample))  # a region over the whole image leaves none
        loss_objectness = F.binary_cross_entropy_with_logits(
            output.objectness[i, sample], (found >= 0).float(), reduction="sum"
        )
        loss_box = F.smooth_l1_loss(output.deltas[i, positive], goal, beta=self.config.beta, reduction="sum")
        return loss_objectness / number, loss_box / number

    @torch.no_grad()
    def proposals(self, output: RpnOutput, i: int, size_hw: tuple[int, int], *, train: bool) -> Tensor:
        """P boxes in image `i` of `size_hw`, best first: horizontal ones clipped to it.

        They have no gradient: the second stage does not teach the first where to look.
        """
        candidates, num = self.config.limits(train)
        objectness = output.objectness[i]
        bounds = itertools.pairwise(itertools.accumulate(output.level_sizes, initial=0))
        best = [most_of(objectness[a:b], candidates) + a for a, b in bounds]
        level = torch.cat([torch.full_like(index, number) for number, index in enumerate(best)])
        chosen = torch.cat(best)
        boxes = self.kind.decode(output.anchors[chosen], output.deltas[i, chosen])
        boxes, solid = self.kind.solid(boxes, size_hw)
        boxes, scores, level = boxes[solid], objectness[chosen][solid], level[solid]
        return boxes[batched_nms(self.kind.hulls(boxes), scores, level, self.config.nms_iou)[:num]]


def most_of(scores: Tensor, num: int) -> Tensor:
    """int64[K]: where the best of float[N] are, `num` of them or all."""
    return scores.topk(_topk_min(scores, num, 0)).indices  # also where the network is traced for ONNX


def _rows(level: Tensor, numbers: int) -> Tensor:
    """float[B, shapes * numbers, h, w] -> float32[B, h * w * shapes, numbers], in the order of the anchors."""
    batch, _, height, width = level.shape
    rows = level.view(batch, -1, numbers, height, width).permute(0, 3, 4, 1, 2)  # [B, h, w, shapes, numbers]
    return rows.reshape(batch, -1, numbers).float()
