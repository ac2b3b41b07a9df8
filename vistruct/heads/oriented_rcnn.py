"""Oriented R-CNN: oriented proposals over a pyramid, then a second look at each of them, turned upright.

Source: Xie et al., "Oriented R-CNN for Object Detection", arXiv:2108.05699, with the numbers of
    `oriented_rcnn_r50_fpn_1x_dota_le90` in mmrotate 0.3.4, which ViTP and MTP use too.
Differs: as `vistruct.heads.oriented_rpn` and `vistruct.heads.oriented_roi` say, and
    - detections whose centre lies outside the image stay where they are (there the centre is moved onto the border,
      which turns a right box into a wrong one), and those wholly outside are left out;
    - at most `candidates` boxes go into the last NMS, so that an untrained model does not take minutes;
    - losses are summed over images, each a mean over that image's own samples;
    - what is drawn for an image follows from torch's seed and its objects, whatever else is in the batch.
Shapes: B images, P proposals of an image, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadTraits
from vistruct.heads.boxes import BoxTarget, Detections, HeadLoss, add_images
from vistruct.heads.oriented_roi import OrientedRoiConfig, OrientedRoiStage
from vistruct.heads.oriented_rpn import OrientedRpn, OrientedRpnConfig, OrientedRpnOutput
from vistruct.heads.oriented_selection import select_oriented
from vistruct.ops.seeds import derive


class OrientedRcnnConfig(Part):
    """The two stages, and thresholds of the detections."""

    kind: Literal["oriented_rcnn"] = "oriented_rcnn"
    rpn: OrientedRpnConfig = OrientedRpnConfig()
    roi: OrientedRoiConfig = OrientedRoiConfig()
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.1, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    candidates: int = Field(10_000, gt=0)  # best boxes of an image that go into NMS
    max_detections: int = Field(2000, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> OrientedRcnn:
        """Build on levels with the same number of channels, finest first."""
        return OrientedRcnn(self, specs, num_classes)


class OrientedRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> OrientedRpnOutput."""

    terms = ("objectness", "proposal", "class", "box")

    def __init__(self, config: OrientedRcnnConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.rpn = OrientedRpn(config.rpn, specs)
        self.roi = OrientedRoiStage(config.roi, specs, num_classes)

    @property
    def traits(self) -> HeadTraits:
        config = self.config
        return HeadTraits(is_oriented=True, nms_iou=config.nms_iou, max_detections=config.max_detections)

    def forward(self, features: list[Tensor]) -> OrientedRpnOutput:
        return self.rpn(features)

    def loss(self, output: OrientedRpnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The four losses of each image, added up.

        Returns:
            Sums over the images.

        Raises:
            ValueError: a target without oriented boxes.
        """
        return HeadLoss(
            terms=add_images([self._image_loss(output, i, target) for i, target in enumerate(targets)], self.terms)
        )

    def _image_loss(self, output: OrientedRpnOutput, i: int, target: BoxTarget) -> list[Tensor]:
        """Four float[] of image `i`, as in `terms`."""
        boxes, labels, regions = target.split_oriented()
        generator = sampler_of(boxes)
        first = self.rpn.loss(output, i, boxes, regions, generator)
        sample = self.roi.sample(self.rpn.proposals(output, i), boxes, labels, regions, generator)
        second = self.roi.loss(*self.roi(output.features, i, sample.rois), sample)
        return [*first, *second]

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Images: all count, with or without objects."""
        return dict.fromkeys(self.terms, float(len(targets)))

    def decode(self, output: OrientedRpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes wholly outside are left out.
        """
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            rois = self.rpn.proposals(output, i)
            logits, deltas = self.roi(output.features, i, rois)
            probabilities = logits.softmax(dim=1)[:, :-1]
            row, label = (probabilities > self.config.score_threshold).nonzero(as_tuple=True)
            found.append(
                select_oriented(
                    self.roi.coder.decode(rois, deltas)[row],
                    probabilities[row, label],
                    label,
                    size_hw,
                    nms_iou=self.config.nms_iou,
                    num=self.config.max_detections,
                    candidates=self.config.candidates,
                )
            )
        return found


def sampler_of(boxes: Tensor) -> torch.Generator:
    """The source of what is drawn for an image with these objects float[M, 5], on their device.

    It follows from the seed that torch was last given, which the engine does at every step, and from the objects: not
    from the image's place in the batch, nor from how the batch was split.
    """
    objects = hashlib.sha256(boxes.cpu().numpy().tobytes()).hexdigest()
    seed = derive(torch.initial_seed(), "samples", objects)
    return torch.Generator(device=boxes.device).manual_seed(seed)
