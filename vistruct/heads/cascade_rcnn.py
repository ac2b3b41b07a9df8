"""Cascade R-CNN: several looks at each proposal, each starting from the box of the last and asking for a better fit.

Source: Cai and Vasconcelos, "Cascade R-CNN", arXiv:1712.00726; the numbers are those of the public configurations.
Differs from the paper: a stage's classes are scored on its own boxes, as in the public implementations; there all
    stages score the last boxes once more. These disagree on what is averaged over the stages: the logits
    (OpenMMLab), as here, or the probabilities (Detectron2), as `average` says.
Shapes: B images, P proposals of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Selection, Shown
from vistruct.heads.boxes import add_images, count_images, split
from vistruct.heads.published_names import CASCADE, RPN, renamed
from vistruct.heads.roi_stage import RoiConfig, RoiStage
from vistruct.heads.rpn import Rpn, RpnConfig, RpnOutput
from vistruct.heads.selection import proposed, select_classes, select_detections


class StageConfig(Part):
    """One look."""

    iou: float = Field(gt=0, le=1)  # from there on a box is on an object
    weight: float = Field(gt=0)  # of its losses
    stds: tuple[float, float, float, float]  # of x, y, log w and log h: a delta of one


STAGES = (
    StageConfig(iou=0.5, weight=1.0, stds=(0.1, 0.1, 0.2, 0.2)),
    StageConfig(iou=0.6, weight=0.5, stds=(0.05, 0.05, 0.1, 0.1)),
    StageConfig(iou=0.7, weight=0.25, stds=(0.033, 0.033, 0.067, 0.067)),
)


class CascadeRcnnConfig(Part):
    """The proposal network, the looks, and thresholds of the detections."""

    kind: Literal["cascade_rcnn"] = "cascade_rcnn"
    rpn: RpnConfig = RpnConfig(proposals_train=2000, least_iou=0.3)
    roi: RoiConfig = RoiConfig(sampling=0, beta=1.0)
    stages: tuple[StageConfig, ...] = Field(STAGES, min_length=1)
    average: Literal["logits", "probabilities"] = "logits"  # of the stages, for the scores
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.5, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_detections: int = Field(100, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> CascadeRcnn:
        """Build on levels with the same number of channels, finest first."""
        return CascadeRcnn(self, specs, num_classes)


class CascadeRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput."""

    def __init__(self, config: CascadeRcnnConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.rpn = config, Rpn(config.rpn, specs)
        self.stages = nn.ModuleList(
            RoiStage(config.roi, specs, num_classes, iou=stage.iou, stds=stage.stds, class_agnostic=True)
            for stage in config.stages
        )
        numbers = range(1, len(config.stages) + 1)
        self.terms = ("objectness", "proposal", *(f"{w}_{k}" for k in numbers for w in ("class", "box")))

    @property
    def looks(self) -> list[RoiStage]:
        return cast("list[RoiStage]", list(self.stages))

    @property
    def traits(self) -> HeadTraits:
        layers = [layer for i, look in enumerate(self.looks) for layer in look.class_layers(f"stages.{i}")]
        nms_iou, most = self.config.nms_iou, self.config.max_detections
        return HeadTraits(
            nms_iou=nms_iou, max_detections=most, class_layers=tuple(layers), convert_keys=self.convert_keys
        )

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmdet's names as this head's; what is not its own falls away."""
        return renamed(self, state, RPN | CASCADE)

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> RpnOutput:
        return self.rpn(features)

    def loss(self, output: RpnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The losses of each image, added up: two of the proposals, and a weighted pair of each stage.

        What is drawn of an image is a function of the step and its objects (`sampler_of`).

        Returns:
            Sums over the images.
        """
        parts = [self._image_loss(output, i, target) for i, target in enumerate(targets)]
        return HeadLoss(terms=add_images(parts, self.terms))

    def _image_loss(self, output: RpnOutput, i: int, target: BoxTarget) -> list[Tensor]:
        boxes, labels, crowds = split(target)
        generator = self.rpn.kind.sampler(boxes)
        losses = [*self.rpn.loss(output, i, boxes, crowds, generator)]
        proposals = self.rpn.proposals(output, i, output.size_hw, train=True)
        for stage, config in zip(self.looks, self.config.stages, strict=True):
            sample = stage.sample(proposals, boxes, labels, crowds, generator)
            logits, deltas = stage(output.features, i, sample.rois)
            losses += [config.weight * loss for loss in stage.loss(logits, deltas, sample)]
            # What was sampled goes on to the next stage, but the true boxes, which it gets again.
            proposals = stage.move(sample.rois, deltas.detach(), output.size_hw)[:, 0][~sample.is_truth]
        return losses

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Images."""
        return count_images(targets, self.terms)

    def decode(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image: the boxes of the last stage, the scores of all.

        Args:
            output: of a batch of B images.
            sizes_hw: B real sizes before padding, pixels; boxes are clipped to them, and left out where
                nothing stays.
        """
        found: list[Detections] = []
        for i, size_hw in enumerate(sizes_hw):
            boxes, probabilities = self._look(output, i, size_hw)
            found.append(select_classes(boxes[:, None], probabilities, size_hw, self.config, select_detections))
        return found

    def _look(self, output: RpnOutput, i: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """float[P, 4] boxes and float[P, C + 1] probabilities of image `i`."""
        boxes = self.rpn.proposals(output, i, size_hw, train=False)
        said: list[Tensor] = []
        for stage in self.looks:
            logits, deltas = stage(output.features, i, boxes)
            boxes = stage.move(boxes, deltas, size_hw)[:, 0]
            said.append(logits)
        stacked = torch.stack(said)  # [stages, P, C + 1]
        if self.config.average == "logits":
            return boxes, stacked.mean(dim=0).softmax(dim=1)
        return boxes, stacked.softmax(dim=2).mean(dim=0)

    @property
    def num_levels(self) -> int:
        return 1

    @property
    def selection(self) -> Selection:
        return proposed(self.config)

    def dense(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """As of `DenseBoxHead`, of one image: its proposals after the last look."""
        (size_hw,) = sizes_hw
        boxes, probabilities = self._look(output, 0, size_hw)
        return [(probabilities[None, :, :-1], boxes[None])]
