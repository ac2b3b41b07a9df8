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
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from vistruct.config import Part
from vistruct.contracts import FeatureSpec
from vistruct.heads.anchors import Anchors
from vistruct.heads.matching import draw_samples, ignore_crowds, match_boxes

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


@dataclass(frozen=True, kw_only=True)
class RpnOutput:
    """What is said of every anchor, and the levels for the second look; float32 whatever the layers' precision."""

    features: list[Tensor]  # of each level float[B, channels, h, w]
    objectness: Tensor  # float[B, A], logit
    deltas: Tensor  # float[B, A, 4]
    anchors: Tensor  # float[A, 4], xyxy, pixels
    level_sizes: list[int]  # anchors of each level; they add up to A
    size_hw: tuple[int, int]  # of the padded batch, pixels


class Rpn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput."""

    def __init__(self, config: RpnConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        strides = [spec.stride for spec in specs]
        self.config, self.coder = config, BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.anchors = Anchors([(config.anchor_scale * stride,) for stride in strides], config.ratios, strides)
        self.head = RPNHead(specs[0].channels, self.anchors.num_shapes)

    def forward(self, features: list[Tensor]) -> RpnOutput:
        features = [f.float() for f in features]
        batch, _, rows, columns = features[0].shape
        anchors = self.anchors.lay(features)
        objectness, deltas = concat_box_prediction_layers(*self.head(features))
        return RpnOutput(
            features=features,
            objectness=objectness.float().view(batch, -1),
            deltas=deltas.float().view(batch, -1, 4),
            anchors=torch.cat(anchors),
            level_sizes=[len(level) for level in anchors],
            size_hw=(rows * self.anchors.strides[0], columns * self.anchors.strides[0]),
        )

    def loss(self, output: RpnOutput, i: int, boxes_xyxy: Tensor, crowds_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """float[] objectness and float[] box loss of image `i`: means over its sampled anchors, 0 where none is.

        Args:
            output: of a batch.
            i: the image's number in it.
            boxes_xyxy: float[M, 4], its objects.
            crowds_xyxy: float[K, 4], its crowd regions.
        """
        matched = match_boxes(
            output.anchors,
            boxes_xyxy,
            positive_iou=POSITIVE_IOU,
            negative_iou=NEGATIVE_IOU,
            low_quality=True,
            least_iou=self.config.least_iou,
        )
        sample = draw_samples(ignore_crowds(matched, output.anchors, crowds_xyxy), self.config.samples, 0.5)
        found = matched[sample]
        positive = sample[found >= 0]
        goal = self.coder.encode_single(boxes_xyxy[found[found >= 0]], output.anchors[positive])
        number = max(1, len(sample))  # a crowd region over the whole image leaves none
        loss_objectness = F.binary_cross_entropy_with_logits(
            output.objectness[i, sample], (found >= 0).float(), reduction="sum"
        )
        loss_box = F.smooth_l1_loss(output.deltas[i, positive], goal, beta=self.config.beta, reduction="sum")
        return loss_objectness / number, loss_box / number

    def proposals(self, output: RpnOutput, i: int, size_hw: tuple[int, int], *, train: bool) -> Tensor:
        """float[P, 4] of image `i`, xyxy, best first, clipped to `size_hw`.

        They are detached: the second stage does not teach the first where to look.
        """
        config = self.config
        candidates = config.candidates_train if train else config.candidates_test
        objectness, deltas = output.objectness[i].detach(), output.deltas[i].detach()
        bounds = itertools.pairwise(itertools.accumulate(output.level_sizes, initial=0))
        best = [objectness[a:b].topk(min(b - a, candidates)).indices + a for a, b in bounds]
        level = torch.cat([torch.full_like(index, number) for number, index in enumerate(best)])
        chosen = torch.cat(best)
        boxes = self.coder.decode_single(deltas[chosen], output.anchors[chosen])
        boxes, scores = clip_boxes_to_image(boxes, size_hw), objectness[chosen]
        solid = remove_small_boxes(boxes, MIN_SIDE)
        boxes, scores, level = boxes[solid], scores[solid], level[solid]
        keep = batched_nms(boxes, scores, level, config.nms_iou)
        return boxes[keep[: config.proposals_train if train else config.proposals_test]]
