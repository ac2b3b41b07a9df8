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
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Selection, Shown
from vistruct.heads.boxes import add_images, count_images
from vistruct.heads.oriented_roi import OrientedRoiStage
from vistruct.heads.published_names import ROI, RPN, published, renamed
from vistruct.heads.roi_stage import RoiConfig, RoiSample, RoiStage
from vistruct.heads.rpn import Rpn, RpnConfig, RpnOutput
from vistruct.heads.selection import proposed, select_classes


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
        rpn = Rpn(self.rpn, specs)
        return FasterRcnn(self, rpn, RoiStage(self.roi, specs, num_classes, class_agnostic=self.class_agnostic))


class FasterRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput.

    Args:
        config: FasterRcnnConfig, or one with the same thresholds.
        rpn: whose kind of proposals the head gives.
        roi: looks at proposals of that kind.
    """

    terms = ("objectness", "proposal", "class", "box")

    def __init__(self, config: Any, rpn: Rpn, roi: RoiStage | OrientedRoiStage) -> None:
        super().__init__()
        self.config, self.rpn, self.roi = config, rpn, roi

    @property
    def traits(self) -> HeadTraits:
        config, is_oriented = self.config, self.rpn.kind.is_oriented
        return HeadTraits(
            is_oriented=is_oriented,
            nms_iou=config.nms_iou,
            max_detections=config.max_detections,
            convert_keys=self.convert_keys,
            to_published=self.to_published,
            class_layers=self.roi.class_layers("roi"),
        )

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmdet's and mmrotate's names, or those of our Mask R-CNN, as this head's; what is not its own falls away."""
        return renamed(self, state, RPN | ROI | {"box.": ""})

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back, to mmdet's and mmrotate's names."""
        return published(state, RPN | ROI)

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> RpnOutput:
        return self.rpn(features)

    def loss(self, output: RpnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The four losses of each image, added up.

        What is drawn of an image is a function of the step and its objects (`sampler_of`).

        Returns:
            Sums over the images.

        Raises:
            ValueError: a target without the kind of boxes that the head learns from.
        """
        parts = [self.image_loss(output, i, target)[0] for i, target in enumerate(targets)]
        return HeadLoss(terms=add_images(parts, self.terms))

    def image_loss(self, output: RpnOutput, i: int, target: BoxTarget) -> tuple[list[Tensor], RoiSample]:
        """Four float[] of image `i`, as in `terms`, and the proposals that the last two are about."""
        boxes, labels, regions = self.rpn.kind.split(target)
        generator = self.rpn.kind.sampler(boxes)
        first = self.rpn.loss(output, i, boxes, regions, generator)
        proposals = self.rpn.proposals(output, i, output.size_hw, train=True)
        sample = self.roi.sample(proposals, boxes, labels, regions, generator)
        second = self.roi.loss(*self.roi(output.features, i, sample.rois), sample)
        return [*first, *second], sample

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Images."""
        return count_images(targets, self.terms)

    def decode(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them and left out where nothing
                stays; oriented ones are left out where they lie wholly outside.
        """
        looks = [(*self._look(output, i, size_hw), size_hw) for i, size_hw in enumerate(sizes_hw)]
        return [select_classes(*look, self.config, self.rpn.kind.select) for look in looks]

    def _look(self, output: RpnOutput, i: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """float[P, K, 4 or 5] boxes and float[P, C + 1] probabilities of image `i`."""
        rois = self.rpn.proposals(output, i, size_hw, train=False)
        logits, deltas = self.roi(output.features, i, rois)
        return self.roi.move(rois, deltas, size_hw), logits.softmax(dim=1)

    @property
    def num_levels(self) -> int:
        return 1

    @property
    def selection(self) -> Selection:
        by_class = isinstance(self.roi, RoiStage) and not self.roi.class_agnostic
        return proposed(self.config, by_class=by_class)

    def dense(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """As of `DenseBoxHead`, of one image: its proposals after the second look."""
        (size_hw,) = sizes_hw
        boxes, probabilities = self._look(output, 0, size_hw)
        return [(probabilities[None, :, :-1], boxes.flatten(0, 1)[None])]
