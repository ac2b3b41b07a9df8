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

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.heads.anchors import Anchors
from vistruct.heads.boxes import split_oriented
from vistruct.heads.matching import sampler_of
from vistruct.heads.oriented_coders import MidpointOffsets
from vistruct.heads.oriented_regions import ignore_regions
from vistruct.heads.oriented_selection import select_oriented
from vistruct.heads.rpn import NEGATIVE_IOU, Proposals
from vistruct.ops.oriented import cxcywha_to_xyxy, xyxy_to_cxcywha

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

    def limits(self, train: bool) -> tuple[int, int]:
        """Candidates of a level, and proposals of an image: whatever they are for."""
        return self.candidates, self.proposals

    def kind(self, candidates: int) -> Proposals:
        """Boxes float[5], cxcywha in le90, not clipped; at most so many candidates go into the last NMS."""
        coder = MidpointOffsets(compatible=self.compatible)
        return Proposals(
            numbers=6,
            anchors=ExactAnchors,
            split=split_oriented,
            sampler=sampler_of,
            hulls=cxcywha_to_xyxy,
            encode=coder.encode,
            decode=coder.decode,
            ignore=_ignore,
            solid=_solid,
            select=partial(select_oriented, candidates=candidates),
            is_oriented=True,
        )


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


def _ignore(matched: Tensor, anchors_xyxy: Tensor, regions: Tensor) -> Tensor:
    return ignore_regions(matched, xyxy_to_cxcywha(anchors_xyxy), regions, NEGATIVE_IOU)


def _solid(boxes: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return boxes, (boxes[:, 2:4] > MIN_SIDE).all(dim=1) & boxes.isfinite().all(dim=1)
