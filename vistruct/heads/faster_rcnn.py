"""Faster R-CNN: a proposal network over a pyramid, then a second look at each proposal.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497, and Lin et al., "Feature Pyramid Networks",
    arXiv:1612.03144.
Differs from torchvision's `FasterRCNN`: as `vistruct.heads.rpn` and `vistruct.heads.roi_stage` say, and
    - proposals of a training step are clipped to the padded batch, detections to the real image;
    - losses are summed over images, each a mean over that image's own samples.
Shapes: B images, P proposals of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadTraits
from vistruct.heads.boxes import BoxTarget, Detections, HeadLoss, add_images
from vistruct.heads.roi_stage import RoiConfig, RoiSample, RoiStage
from vistruct.heads.rpn import Rpn, RpnConfig, RpnOutput
from vistruct.heads.selection import select_classes


class FasterRcnnConfig(Part):
    """The two stages, and thresholds of the detections."""

    kind: Literal["faster_rcnn"] = "faster_rcnn"
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    class_agnostic: bool = False  # one box for a proposal, not one for each class
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.5, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_detections: int = Field(300, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> FasterRcnn:
        """Build on levels with the same number of channels, finest first."""
        return FasterRcnn(self, specs, num_classes)


class FasterRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput."""

    terms = ("objectness", "proposal", "class", "box")

    def __init__(self, config: FasterRcnnConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.rpn = Rpn(config.rpn, specs)
        self.roi = RoiStage(config.roi, specs, num_classes, class_agnostic=config.class_agnostic)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(nms_iou=self.config.nms_iou, max_detections=self.config.max_detections)

    def forward(self, features: list[Tensor]) -> RpnOutput:
        return self.rpn(features)

    def loss(self, output: RpnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The four losses of each image, added up.

        Samples are drawn from torch's global generator, which the engine seeds at every step.

        Returns:
            Sums over the images.
        """
        return HeadLoss(
            terms=add_images([self.image_loss(output, i, target)[0] for i, target in enumerate(targets)], self.terms)
        )

    def image_loss(self, output: RpnOutput, i: int, target: BoxTarget) -> tuple[list[Tensor], RoiSample]:
        """Four float[] of image `i`, as in `terms`, and the proposals that the last two are about."""
        boxes, labels, crowds = target.split()
        first = self.rpn.loss(output, i, boxes, crowds)
        proposals = self.rpn.proposals(output, i, output.size_hw, train=True)
        sample = self.roi.sample(proposals, boxes, labels, crowds)
        second = self.roi.loss(*self.roi(output.features, i, sample.rois), sample)
        return [*first, *second], sample

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Images: all count, with or without objects."""
        return dict.fromkeys(self.terms, float(len(targets)))

    def decode(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them, and left out where
                nothing stays.
        """
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            rois = self.rpn.proposals(output, i, size_hw, train=False)
            logits, deltas = self.roi(output.features, i, rois)
            found.append(
                select_classes(
                    self.roi.move(rois, deltas, size_hw),
                    logits.softmax(dim=1),
                    size_hw,
                    threshold=self.config.score_threshold,
                    nms_iou=self.config.nms_iou,
                    num=self.config.max_detections,
                )
            )
        return found
