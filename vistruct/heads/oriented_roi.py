"""The second look of Oriented R-CNN: oriented proposals are pooled as they lie, classified, and moved.

Source: Xie et al., arXiv:2108.05699, section 3.2, with the numbers of `OrientedStandardRoIHead` in mmrotate 0.3.4.
Differs: proposals on a region to be ignored that match no object take no part in the losses.
Shapes: P proposals or sampled proposals of an image, C classes, M objects.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec
from vistruct.heads.matching import BACKGROUND, draw_samples
from vistruct.heads.oriented_coders import OrientedDeltas
from vistruct.heads.oriented_regions import ignore_regions
from vistruct.heads.roi_stage import RoiSample, drawn, last_layers, levels_of, stage_losses
from vistruct.ops.oriented_iou import oriented_iou
from vistruct.ops.roi_align_rotated import roi_align_rotated

IOU = 0.5  # from here on a proposal is on an object, below it is background


class OrientedRoiConfig(Part):
    """How proposals are pooled, looked at, and sampled in training."""

    size: int = Field(7, gt=0)  # cells of a pooled proposal, along each side
    sampling: int = Field(2, ge=0)  # points read in a cell, along each side; 0: one for each cell of the level
    levels: int = Field(4, gt=0)  # finest levels that proposals are read from, at most
    width: int = Field(1024, gt=0)  # of the two layers
    samples: int = Field(512, gt=0)  # proposals of an image in the losses
    positive: float = Field(0.25, gt=0, le=1)  # part of these that may be on objects
    beta: float = Field(1.0, ge=0)  # where the box loss (smooth L1) goes from square to straight; 0: L1


class OrientedRoiStage(nn.Module):
    """Levels and proposals of one image -> float[P, C + 1] logits and float[P, 5] box deltas."""

    def __init__(self, config: OrientedRoiConfig, specs: tuple[FeatureSpec, ...], num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.coder = config, num_classes, OrientedDeltas()
        self.strides = tuple(spec.stride for spec in specs)[: config.levels]
        self.layers = TwoMLPHead(specs[0].channels * config.size**2, config.width)
        self.logits, self.deltas = last_layers(config.width, num_classes, 5)  # one box for all classes

    def forward(self, features: list[Tensor], i: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the proposals float[P, 5] of image `i`."""
        seen = self.layers(self._pool(features, i, rois))
        return self.logits(seen).float(), self.deltas(seen).float()

    def class_layers(self, path: str) -> tuple[ClassLayer, ...]:
        """Those of a stage that is called `path` in its head."""
        return ClassLayer(name=f"{path}.logits", rest=1), ClassLayer(name=f"{path}.deltas", each=0, rest=5)

    def sample(
        self,
        proposals: Tensor,
        boxes: Tensor,
        labels: Tensor,
        regions: Tensor,
        generator: torch.Generator | None = None,
    ) -> RoiSample:
        """Match the proposals and the objects' own boxes to the objects, and draw those to learn from.

        Args:
            proposals: float[P, 5], cxcywha.
            boxes: float[M, 5], objects of the image.
            labels: int64[M], their classes.
            regions: float[K, 5], to be ignored.
            generator: draws them; None: torch's global one.
        """
        candidates = torch.cat([proposals, boxes])
        matched = torch.full((len(candidates),), BACKGROUND, dtype=torch.int64, device=candidates.device)
        if len(boxes):
            iou, index = oriented_iou(candidates, boxes).max(dim=1)
            matched = torch.where(iou >= IOU, index, matched)
        matched = ignore_regions(matched, candidates, regions, IOU)
        sample = draw_samples(matched, self.config.samples, self.config.positive, generator)
        return drawn(sample, matched, candidates, boxes, labels, self.num_classes)

    def loss(self, logits: Tensor, deltas: Tensor, sample: RoiSample) -> tuple[Tensor, Tensor]:
        """As `stage_losses`."""
        positive = len(sample.goals)
        goal = self.coder.encode(sample.rois[:positive], sample.goals)
        return stage_losses(logits, deltas[:positive], goal, sample, self.config.beta)

    def move(self, rois: Tensor, deltas: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """float[P, 1, 5]: the boxes that the deltas lead to, wherever that is."""
        return self.coder.decode(rois, deltas)[:, None]

    def _pool(self, features: list[Tensor], i: int, rois: Tensor) -> Tensor:
        """float[P, channels, size, size]: what lies in each proposal of image `i`, turned with it."""
        size = self.config.size
        level = levels_of(F.pad(rois[:, 2:4], (2, 0)), self.strides)  # goes by the area
        pooled = features[0].new_zeros(len(rois), features[0].shape[1], size, size)
        for number, stride in enumerate(self.strides):
            mine = (level == number).nonzero().squeeze(1)
            if len(mine) == 0:
                continue
            pooled[mine] = roi_align_rotated(
                features[number][i : i + 1],
                F.pad(rois[mine], (1, 0)),  # the only image there has number 0
                (size, size),
                spatial_scale=1 / stride,
                sampling_ratio=self.config.sampling,
            )
        return pooled
