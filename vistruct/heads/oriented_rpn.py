"""The oriented proposal network: horizontal anchors, and from each of them an oriented box.

Source: Xie et al., "Oriented R-CNN for Object Detection", arXiv:2108.05699, section 3.1, with the numbers of
    `OrientedRPNHead` in mmrotate 0.3.4. As there, anchors are matched to the hulls of the objects, and of the
    proposals of one level those are suppressed whose *hulls* overlap a better one's.
Differs:
    - anchors that reach over the border are learnt from (there they are not, so that nothing is where the image is
      smaller than an anchor);
    - an anchor that is the best one of several objects stands for the one that it overlaps most (there for the last);
    - almost parallel boxes are written so that they come back whole (`vistruct.heads.oriented_coders`);
    - anchors on a region to be ignored that match no object take no part in the loss.
Shapes: B images, A anchors over all levels, P proposals of an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms

from vistruct.config import Part
from vistruct.contracts import FeatureSpec
from vistruct.heads.anchors import Anchors
from vistruct.heads.matching import draw_samples, match_boxes
from vistruct.heads.oriented_coders import MidpointOffsets
from vistruct.heads.oriented_regions import ignore_regions
from vistruct.ops.oriented import cxcywha_to_xyxy, xyxy_to_cxcywha

POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
MIN_SIDE = 1e-2  # pixels; a proposal thinner than this is none


class OrientedRpnConfig(Part):
    """Anchors, how they are sampled in training, and how many proposals they give."""

    anchor_scale: float = Field(8.0, gt=0)  # side of a level's anchors, in strides
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)  # height / width of the anchors
    samples: int = Field(256, gt=0)  # anchors of an image in the loss, at most half of them on objects
    least_iou: float = Field(0.3, ge=0, le=1)  # an object whose best anchor overlaps its hull less has none
    beta: float = Field(1 / 9, ge=0)  # where the box loss (smooth L1) goes from square to straight; 0: L1
    candidates: int = Field(2000, gt=0)  # best anchors of a level that go into NMS
    proposals: int = Field(2000, gt=0)  # of an image, after NMS
    nms_iou: float = Field(0.8, gt=0, le=1)  # of two hulls of one level above it, the better proposal stays
    compatible: bool = False  # almost parallel boxes as in the published code, where some come back as a line


@dataclass(frozen=True, kw_only=True)
class OrientedRpnOutput:
    """What is said of every anchor, and the levels for the second look."""

    features: list[Tensor]  # of each level float[B, channels, h, w]
    objectness: Tensor  # float32[B, A], logit
    deltas: Tensor  # float32[B, A, 6]
    anchors: Tensor  # float32[A, 4], xyxy, pixels
    level_sizes: list[int]  # anchors of each level; they add up to A
    size_hw: tuple[int, int]  # of the padded batch, pixels


class OrientedRpn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> OrientedRpnOutput."""

    def __init__(self, config: OrientedRpnConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        strides, channels = [spec.stride for spec in specs], specs[0].channels
        self.config, self.coder = config, MidpointOffsets(compatible=config.compatible)
        self.anchors = ExactAnchors([(config.anchor_scale * stride,) for stride in strides], config.ratios, strides)
        self.head = RPNHead(channels, self.anchors.num_shapes)
        deltas = nn.Conv2d(channels, 6 * self.anchors.num_shapes, 1)  # torchvision's has 4 numbers a box
        nn.init.normal_(deltas.weight, std=0.01)
        nn.init.zeros_(deltas.get_parameter("bias"))
        self.head.bbox_pred = deltas

    def forward(self, features: list[Tensor]) -> OrientedRpnOutput:
        anchors = self.anchors.lay(features)
        objectness, deltas = self.head(features)
        return OrientedRpnOutput(
            features=features,
            objectness=torch.cat([_rows(level, 1) for level in objectness], dim=1).squeeze(2),
            deltas=torch.cat([_rows(level, 6) for level in deltas], dim=1),
            anchors=torch.cat(anchors),
            level_sizes=[len(level) for level in anchors],
            size_hw=(
                features[0].shape[-2] * self.anchors.strides[0],
                features[0].shape[-1] * self.anchors.strides[0],
            ),
        )

    def loss(
        self, output: OrientedRpnOutput, i: int, boxes: Tensor, regions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """float[] objectness and float[] box loss of image `i`: means over its sampled anchors, 0 where none is.

        Args:
            output: of a batch.
            i: the image's number in it.
            boxes: float[M, 5], cxcywha, its objects.
            regions: float[K, 5], cxcywha, to be ignored.
            generator: draws the anchors.
        """
        matched = match_boxes(
            output.anchors,
            cxcywha_to_xyxy(boxes),
            positive_iou=POSITIVE_IOU,
            negative_iou=NEGATIVE_IOU,
            low_quality=True,
            least_iou=self.config.least_iou,
        )
        matched = ignore_regions(matched, xyxy_to_cxcywha(output.anchors), regions, NEGATIVE_IOU)
        sample = draw_samples(matched, self.config.samples, 0.5, generator)
        found = matched[sample]
        positive = sample[found >= 0]
        goal = self.coder.encode(output.anchors[positive], boxes[found[found >= 0]])
        number = max(1, len(sample))  # a region over the whole image leaves none
        loss_objectness = F.binary_cross_entropy_with_logits(
            output.objectness[i, sample], (found >= 0).float(), reduction="sum"
        )
        loss_box = F.smooth_l1_loss(output.deltas[i, positive], goal, beta=self.config.beta, reduction="sum")
        return loss_objectness / number, loss_box / number

    @torch.no_grad()
    def proposals(self, output: OrientedRpnOutput, i: int) -> Tensor:
        """float[P, 5] of image `i`, cxcywha in le90, best first; not clipped, and without a gradient."""
        config, (objectness, deltas) = self.config, (output.objectness[i], output.deltas[i])
        bounds = itertools.pairwise(itertools.accumulate(output.level_sizes, initial=0))
        best = [objectness[a:b].topk(min(b - a, config.candidates)).indices + a for a, b in bounds]
        level = torch.cat([torch.full_like(index, number) for number, index in enumerate(best)])
        chosen = torch.cat(best)
        boxes, scores = self.coder.decode(output.anchors[chosen], deltas[chosen]), objectness[chosen]
        solid = (boxes[:, 2:4] > MIN_SIDE).all(dim=1) & boxes.isfinite().all(dim=1)
        boxes, scores, level = boxes[solid], scores[solid], level[solid]
        return boxes[batched_nms(cxcywha_to_xyxy(boxes), scores, level, config.nms_iou)[: config.proposals]]


class ExactAnchors(Anchors):
    """Anchors with the sides that size and ratio give, which torchvision rounds to even pixels."""

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> Tensor:
        root = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]  # of height / width
        sizes = torch.tensor(scales, dtype=dtype, device=device)[None, :]
        w, h = (sizes / root).flatten(), (sizes * root).flatten()
        return torch.stack([-w, -h, w, h], dim=1) / 2


def _rows(level: Tensor, numbers: int) -> Tensor:
    """float[B, shapes * numbers, h, w] -> float32[B, h * w * shapes, numbers], in the order of the anchors."""
    batch, _, height, width = level.shape
    rows = level.view(batch, -1, numbers, height, width).permute(0, 3, 4, 1, 2)  # [B, h, w, shapes, numbers]
    return rows.reshape(batch, -1, numbers).float()
