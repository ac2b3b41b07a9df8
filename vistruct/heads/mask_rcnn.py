"""Mask R-CNN: Faster R-CNN, and for each object which pixels of its box are its own.

Source: He et al., "Mask R-CNN", arXiv:1703.06870; the layers are torchvision's `MaskRCNNHeads` and
    `MaskRCNNPredictor`.
Differs from torchvision's `MaskRCNN`:
    - the background has no mask of its own;
    - the true masks are read as aligned as the features are, a few at a time;
    - the loss is a sum over images, each a mean over that image's own positive proposals.
Shapes: B images, S positive proposals or detections of an image, C classes, m cells along each side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from vistruct.config import Part
from vistruct.contracts import BoxTarget, ClassLayer, Detections, FeatureSpec, HeadLoss, HeadTraits, Shown
from vistruct.heads.boxes import add_images, count_images
from vistruct.heads.faster_rcnn import FasterRcnn, FasterRcnnConfig
from vistruct.heads.published_names import MASK, ROI, RPN, below, published, renamed
from vistruct.heads.roi_stage import RoiSample, pool_rois
from vistruct.heads.rpn import RpnOutput

_NAMES = below("box", RPN | ROI) | MASK
PIXELS_AT_ONCE = 32_000_000  # of true masks as float32, 128 MB


class MaskRcnnConfig(Part):
    """Faster R-CNN, and the layers of the masks."""

    kind: Literal["mask_rcnn"] = "mask_rcnn"
    box: FasterRcnnConfig = FasterRcnnConfig()
    mask_size: int = Field(28, gt=0, multiple_of=2)  # cells along each side of a mask
    mask_width: int = Field(256, gt=0)  # channels of its layers
    mask_convs: int = Field(4, ge=1)  # before the one that doubles the size

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> MaskRcnn:
        """Build on levels with the same number of channels, finest first."""
        return MaskRcnn(self, specs, num_classes)


class MaskRcnn(nn.Module):
    """Levels list[float[B, channels, H/stride, W/stride]] -> RpnOutput."""

    terms = (*FasterRcnn.terms, "mask")

    def __init__(self, config: MaskRcnnConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.box = config, config.box.build(specs, num_classes)
        self.strides = tuple(spec.stride for spec in specs)
        self.layers = MaskRCNNHeads(specs[0].channels, (config.mask_width,) * config.mask_convs, dilation=1)
        self.logits = MaskRCNNPredictor(config.mask_width, config.mask_width, num_classes)

    @property
    def traits(self) -> HeadTraits:
        box = self.box.traits
        boxes = (replace(layer, name=f"box.{layer.name}") for layer in box.class_layers)
        masks = ClassLayer(name="logits.mask_fcn_logits")
        named = {"convert_keys": self.convert_keys, "to_published": self.to_published}
        return replace(box, masks="box", class_layers=(*boxes, masks), **named)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmdet's names, or those of our Faster R-CNN, as this head's; what is not its own falls away."""
        return renamed(self, state, _NAMES | {"rpn.": "box.rpn.", "roi.": "box.roi."})

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back, to mmdet's names."""
        return published(state, _NAMES)

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> RpnOutput:
        return self.box(features)

    def loss(self, output: RpnOutput, targets: Sequence[BoxTarget]) -> HeadLoss:
        """The five losses of each image, added up; as `FasterRcnn.loss` otherwise.

        Raises:
            ValueError: a target with objects and without masks.
        """
        parts: list[list[Tensor]] = []
        for i, target in enumerate(targets):
            losses, sample = self.box.image_loss(output, i, target)
            parts.append([*losses, self._mask_loss(output, i, target, sample)])
        return HeadLoss(terms=add_images(parts, self.terms))

    def _mask_loss(self, output: RpnOutput, i: int, target: BoxTarget, sample: RoiSample) -> Tensor:
        """float[], the mean over the cells of image `i`'s positive proposals whose objects have a mask; else 0."""
        positive = len(sample.matched)
        rois, labels = sample.rois[:positive], sample.labels[:positive]
        logits = self._mask_logits(output, i, rois, labels)
        if positive == 0:
            return logits.sum()  # of nothing: the layers stay part of the graph
        if target.masks is None:
            raise ValueError("the target of a head with masks has no masks")
        numbers = (target.is_single).nonzero().squeeze(1)[sample.matched]
        # An object that was annotated as a box alone has no pixels. One by one: together they may be gigabytes.
        which, back = numbers.unique(return_inverse=True)
        drawn = torch.stack([target.masks[i].any() for i in which])[back]
        if not drawn.any():
            return logits.sum() * 0
        goal = cut_masks(
            target.masks, numbers[drawn], rois[drawn], self.config.mask_size, aligned=self.config.box.roi.aligned
        )
        return F.binary_cross_entropy_with_logits(logits[drawn], goal)

    def units(self, targets: Sequence[BoxTarget], size_hw: tuple[int, int]) -> dict[str, float]:
        """Images."""
        return count_images(targets, self.terms)

    def decode(self, output: RpnOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
        """As `FasterRcnn.decode`, with the masks of the predicted classes."""
        found = self.box.decode(output, sizes_hw)
        return [
            replace(one, masks=self._mask_logits(output, i, one.boxes_xyxy, one.labels).sigmoid())
            for i, one in enumerate(found)
        ]

    def _mask_logits(self, output: RpnOutput, i: int, rois: Tensor, labels: Tensor) -> Tensor:
        """float[S, m, m]: the masks that boxes float[S, 4] in image `i` have as objects of classes int64[S]."""
        size, config = self.config.mask_size // 2, self.config.box.roi
        pooled = pool_rois(output.features, i, rois, self.strides, size, config)
        logits = self.logits(self.layers(pooled)).float()  # [S, C, m, m]
        return logits[torch.arange(len(labels), device=labels.device), labels]


def cut_masks(masks: Tensor, numbers: Tensor, boxes_xyxy: Tensor, size: int, *, aligned: bool) -> Tensor:
    """What part of each cell of a grid over a box belongs to the object.

    Args:
        masks: bool[N, H, W].
        numbers: int64[S], which mask goes with each box.
        boxes_xyxy: float[S, 4], pixels of the masks.
        size: cells of the grid along each side.
        aligned: whether pixel 0 is from 0 to 1, or from -1/2 to 1/2.

    Returns:
        float32[S, size, size] in [0, 1].
    """
    num = max(1, PIXELS_AT_ONCE // masks[0].numel())
    cut: list[Tensor] = []
    for rows, boxes in zip(numbers.split(num), boxes_xyxy.split(num), strict=True):
        which = torch.arange(len(rows), device=boxes.device, dtype=boxes.dtype)
        rois = torch.cat([which[:, None], boxes], dim=1)
        cut.append(roi_align(masks[rows][:, None].to(boxes), rois, size, aligned=aligned)[:, 0])
    return torch.cat(cut)
