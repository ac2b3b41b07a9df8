"""Faster R-CNN: a proposal network over a pyramid, then a second look at each proposal.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497, and Lin et al., "Feature Pyramid Networks",
    arXiv:1612.03144. The parts are torchvision's (`RegionProposalNetwork`, `RoIHeads`, `MultiScaleRoIAlign`).
Differs from torchvision's `FasterRCNN`:
    - the scales of RoIAlign are those of the levels; there they are guessed as powers of two, which a
      backbone of stride 14 is not;
    - anchors and proposals in a crowd region that match no object take no part in the losses;
    - proposals of a training step are clipped to the padded batch, detections to the real image;
    - losses are summed over images, each a mean over that image's own samples.
Shapes: B images, A anchors over all levels, P proposals of an image, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from vistruct.config import Part
from vistruct.contracts import FeatureSpec
from vistruct.errors import UserError
from vistruct.heads.boxes import BoxTarget, Detections, HeadLoss, covered_share

CROWD_SHARE = 0.5  # of a box's area in a crowd region: from here on it is no evidence for background


class FasterRcnnConfig(Part):
    """Sizes of the two stages, how they are sampled in training, and thresholds of the detections."""

    kind: Literal["faster_rcnn"] = "faster_rcnn"
    anchor_scale: float = Field(8.0, gt=0)  # side of a level's anchors, in strides
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)  # height / width of the anchors
    width: int = Field(1024, gt=0)  # of the second stage's two layers
    roi_size: int = Field(7, gt=0)  # cells of a pooled proposal, along each side
    anchor_samples: int = Field(256, gt=0)  # anchors of an image in the first stage's loss, at most half on objects
    roi_samples: int = Field(512, gt=0)  # proposals of an image in the second stage's loss
    roi_positive: float = Field(0.25, gt=0, le=1)  # part of these that may be on objects
    proposals_train: int = Field(1000, gt=0)  # of an image, after NMS
    proposals_test: int = Field(1000, gt=0)
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.5, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_detections: int = Field(300, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> FasterRcnn:
        """Build on levels with the same number of channels, finest first.

        Raises:
            UserError: strides that do not double from level to level.
        """
        return FasterRcnn(self, specs, num_classes)


@dataclass(frozen=True, kw_only=True)
class FasterRcnnOutput:
    """What the first stage says, and the features for the second."""

    features: dict[str, Tensor]  # by level number, float[B, channels, h, w]
    objectness: Tensor  # float[B, A], logit
    deltas: Tensor  # float[B, A, 4]
    anchors: Tensor  # float[A, 4], xyxy, pixels
    level_sizes: list[int]  # anchors of each level; they add up to A
    size_hw: tuple[int, int]  # of the padded batch, pixels


class FasterRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> FasterRcnnOutput."""

    def __init__(self, config: FasterRcnnConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        strides = [spec.stride for spec in specs]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise UserError(
                f"Faster R-CNN wants levels whose strides double, got {strides}",
                where="neck.strides",
                fix=f"use {tuple(strides[0] * 2**k for k in range(len(strides)))}",
            )
        self.config, self.strides, channels = config, strides, specs[0].channels
        anchors = AnchorGenerator(
            tuple((config.anchor_scale * stride,) for stride in strides),
            (tuple(config.ratios),) * len(strides),
        )
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(channels, len(config.ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=config.anchor_samples,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * config.proposals_train, "testing": config.proposals_test},
            post_nms_top_n={"training": config.proposals_train, "testing": config.proposals_test},
            nms_thresh=0.7,
        )
        pool = MultiScaleRoIAlign([str(i) for i in range(len(specs))], config.roi_size, sampling_ratio=2)
        pool.scales = [1.0 / stride for stride in strides]
        finest = round(math.log2(strides[0]))
        pool.map_levels = LevelMapper(finest, finest + len(strides) - 1)
        self.roi = RoIHeads(
            pool,
            TwoMLPHead(channels * config.roi_size**2, config.width),
            FastRCNNPredictor(config.width, num_classes + 1),  # class 0 is the background
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.roi_samples,
            positive_fraction=config.roi_positive,
            bbox_reg_weights=None,  # torchvision's 10, 10, 5, 5
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_iou,
            detections_per_img=config.max_detections,
        )

    def forward(self, features: list[Tensor]) -> FasterRcnnOutput:
        features = [f.float() for f in features]  # anchors take this type; in bf16 they would be pixels off
        objectness, deltas = self.rpn.head(features)
        level_sizes = [o[0].numel() for o in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        batch, _, rows, columns = features[0].shape
        size_hw = (rows * self.strides[0], columns * self.strides[0])
        canvas = features[0].new_empty(1).expand(1, 1, *size_hw)  # the generator only reads its shape
        return FasterRcnnOutput(
            features={str(i): f for i, f in enumerate(features)},
            objectness=objectness.float().view(batch, -1),
            deltas=deltas.float().view(batch, -1, 4),
            anchors=self.rpn.anchor_generator(ImageList(canvas, [size_hw]), features)[0],
            level_sizes=level_sizes,
            size_hw=size_hw,
        )

    def loss(self, output: FasterRcnnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The four losses of each image, added up.

        Samples are drawn from torch's global generator, which the engine seeds at every step.

        Returns:
            The sum over the images, all of which count, with or without objects.
        """
        parts = torch.stack([self._image_loss(output, i, target) for i, target in enumerate(targets)])  # [B, 4]
        summed = parts.sum(dim=0)
        names = ("loss_objectness", "loss_proposal", "loss_class", "loss_box")
        means = (summed.detach() / max(1, len(targets))).tolist()
        return HeadLoss(total=summed.sum(), count=float(len(targets)), metrics=dict(zip(names, means, strict=True)))

    def _image_loss(self, output: FasterRcnnOutput, i: int, target: BoxTarget) -> Tensor:
        """float[4] of image `i`: objectness, proposal box, class, box."""
        boxes, labels, crowds = target.split()
        truth = [{"boxes": boxes, "labels": labels + 1}]  # class 0 is the background

        anchor_labels, anchor_boxes = self.rpn.assign_targets_to_anchors([output.anchors], truth)
        _ignore(anchor_labels[0], output.anchors, crowds)
        stage1: tuple[Tensor, ...] = (output.objectness[i].sum() * 0, output.deltas[i].sum() * 0)
        if (anchor_labels[0] >= 0).any():  # a crowd region over the whole image leaves none, and a mean over none
            stage1 = self.rpn.compute_loss(
                output.objectness[i],
                output.deltas[i],
                anchor_labels,
                list(self.rpn.box_coder.encode(anchor_boxes, [output.anchors])),
            )

        proposals = self.roi.add_gt_proposals(self._proposals(output, i, output.size_hw), [boxes])
        matched, roi_labels = self.roi.assign_targets_to_proposals(proposals, [boxes], [truth[0]["labels"]])
        _ignore(roi_labels[0], proposals[0], crowds)
        sample = self.roi.subsample(roi_labels)[0]
        rois, roi_label = proposals[0][sample], roi_labels[0][sample]
        logits, deltas = self._classify(output, i, rois)
        stage2: tuple[Tensor, ...] = (logits.sum() * 0, deltas.sum() * 0)
        if len(sample):
            goal = boxes[matched[0][sample]] if len(boxes) else torch.zeros_like(rois)  # unread without objects
            stage2 = fastrcnn_loss(logits, deltas, [roi_label], list(self.roi.box_coder.encode([goal], [rois])))
        return torch.stack([*stage1, *stage2])

    def decode(self, output: FasterRcnnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them, and left out where
                nothing stays.
        """
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            proposals = self._proposals(output, i, size_hw)
            logits, deltas = self._classify(output, i, proposals[0])
            (boxes,), (scores,), (labels,) = self.roi.postprocess_detections(logits, deltas, proposals, [size_hw])
            found.append(Detections(boxes_xyxy=boxes, scores=scores, labels=labels - 1))
        return found

    def _proposals(self, output: FasterRcnnOutput, i: int, size_hw: tuple[int, int]) -> list[Tensor]:
        """[float[P, 4]] of image `i`, detached: the second stage does not teach the first where to look."""
        decoded = self.rpn.box_coder.decode(output.deltas[i].detach(), [output.anchors]).view(1, -1, 4)
        boxes, _ = self.rpn.filter_proposals(decoded, output.objectness[i][None], [size_hw], output.level_sizes)
        return boxes

    def _classify(self, output: FasterRcnnOutput, i: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """float[P, C + 1] logits and float[P, 4 (C + 1)] box deltas of proposals in image `i`."""
        features = {name: f[i : i + 1] for name, f in output.features.items()}
        pooled = self.roi.box_roi_pool(features, [rois], [output.size_hw])
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))
        return logits.float(), deltas.float()


def _ignore(labels: Tensor, boxes: Tensor, crowds: Tensor) -> None:
    """Take background samples that mostly lie in a crowd region out of the sampler's sight, in place (-1)."""
    labels[(labels == 0) & (covered_share(boxes, crowds) > CROWD_SHARE)] = -1
