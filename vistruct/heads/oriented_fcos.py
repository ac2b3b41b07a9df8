"""Oriented FCOS: every location of every level says what is there, where its box's centre is, how large and how turned.

Source: Tian et al., "FCOS", arXiv:2006.09214, carried over to oriented boxes as in `RotatedFCOSHead` of mmrotate.
    ProbIoU, KLD and GWD: `vistruct.ops.oriented_losses`.
Differs from mmrotate's head:
    - nothing that is said has a seam. There it is an angle and the distances to four sides in the box's frame: at
      +-pi/2 the angle jumps, and left and right change places. Here it is the cosine and sine of twice the angle, the
      offset of the centre along the image's axes, and the two sides;
    - inside, near the centre, and the size ranges of the levels are judged in the box's own frame: turning image and
      boxes changes nothing;
    - an object thinner than the locations are apart still has one (there many small objects have none);
    - the box loss is 1 - IoU of the boxes by default, with the exact IoU (there its logarithm, by a compiled kernel);
    - locations are learnt from within 1.5 strides of an object's centre only, as in the paper;
    - locations in a region to be ignored that belong to no object take no part in the loss;
    - the loss is a sum over images with the number of matched locations beside it, so that splitting a batch changes
      nothing.
Shapes: B images, N locations over all levels, C classes, M objects in an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead

from vistruct.config import Part
from vistruct.contracts import FeatureSpec
from vistruct.heads.boxes import split_oriented
from vistruct.heads.fcos import Fcos, Points, norm_of
from vistruct.heads.oriented_points import box_frames, half_sides, match_oriented, within_any
from vistruct.heads.oriented_selection import select_oriented
from vistruct.ops.oriented_iou import oriented_iou_aligned
from vistruct.ops.oriented_losses import LOSSES

LARGEST_LOG = 8.0  # of half a side in strides: 3,000 of them


class OrientedFcosConfig(Part):
    """Layers of the head, its box loss, and thresholds of its detections."""

    kind: Literal["oriented_fcos"] = "oriented_fcos"
    num_convs: int = Field(4, ge=1)  # in each of the two towers
    prior: float = Field(0.01, gt=0, lt=1)  # score of every class at every location before training
    box_loss: Literal["iou", "probiou", "kld", "gwd"] = "iou"
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.1, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    max_candidates: int = Field(2000, gt=0)  # best locations of a level that go into NMS
    max_detections: int = Field(2000, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> Fcos:
        """Build on levels with the same number of channels, finest first."""
        points = Points(
            output=OrientedFcosOutput,
            split=split_oriented,
            match=match_oriented,
            inside=within_any,
            box_loss=_one_minus_iou if self.box_loss == "iou" else LOSSES[self.box_loss],
            centerness=centerness_of,
            select=select_oriented,
            is_oriented=True,
        )
        return Fcos(self, specs, _Layers(self, specs[0].channels, num_classes), points, "classes")


@dataclass(frozen=True, kw_only=True)
class OrientedFcosOutput:
    """What every location says, float32 whatever the precision of the layers."""

    logits: Tensor  # float[B, N, C]
    offsets: Tensor  # float[B, N, 2]: x and y from the location to the box's centre, strides
    sizes: Tensor  # float[B, N, 2]: log of half the width and half the height, strides
    turns: Tensor  # float[B, N, 2], in the direction of (cos, sin) of twice the angle, of any length
    centerness: Tensor  # float[B, N, 1], logit
    cells_xyxy: Tensor  # float[N, 4], pixels; a location is the centre of its cell
    level_sizes: tuple[int, ...]  # locations of each level; they add up to N

    def boxes(self, i: int, rows: Tensor) -> Tensor:
        """float[K, 5], cxcywha: what the locations int64[K] of image `i` say; the width need not be the longer side."""
        return _boxes(self.offsets[i, rows], self.sizes[i, rows], self.turns[i, rows], self.cells_xyxy[rows])

    def every(self) -> Tensor:
        """float[B, N, 5], cxcywha: what all locations of all images say."""
        return _boxes(self.offsets, self.sizes, self.turns, self.cells_xyxy)


def _boxes(offsets: Tensor, sizes: Tensor, turns: Tensor, cells_xyxy: Tensor) -> Tensor:
    """float[..., K, 5], cxcywha, of what K locations say."""
    point, stride = (cells_xyxy[:, :2] + cells_xyxy[:, 2:]) / 2, cells_xyxy[:, 2:3] - cells_xyxy[:, :1]
    sides = 2 * stride * sizes.clamp(max=LARGEST_LOG).exp()
    cos2, sin2 = turns.unbind(dim=-1)
    none = cos2.square() + sin2.square() < 1e-12  # no direction: atan2 would have no gradient
    angle = torch.atan2(sin2, torch.where(none, 1.0, cos2)) / 2
    return torch.cat([point + stride * offsets, sides, angle[..., None]], dim=-1)


class _Layers(nn.Module):
    """Levels list[float[B, channels, h, w]] -> what every location says, by the names of OrientedFcosOutput."""

    def __init__(self, config: OrientedFcosConfig, channels: int, num_classes: int) -> None:
        super().__init__()
        norm = norm_of(channels)
        self.classes = FCOSClassificationHead(
            channels, 1, num_classes, config.num_convs, prior_probability=config.prior, norm_layer=norm
        )
        tower: list[nn.Module] = []
        for _ in range(config.num_convs):
            tower += [nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
        self.tower = nn.Sequential(*tower)
        self.box = nn.Conv2d(channels, 2 + 2 + 2 + 1, 3, padding=1)  # offsets, sizes, turns, centerness
        for module in (*self.tower, self.box):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.get_parameter("bias"))
        with torch.no_grad():
            self.box.get_parameter("bias")[4] = 1.0  # upright to begin with, and far from where no direction is

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        said = torch.cat([self.box(self.tower(f)).flatten(2) for f in features], dim=2).transpose(1, 2)
        names = ("offsets", "sizes", "turns", "centerness")
        return {"logits": self.classes(features)} | dict(zip(names, said.split([2, 2, 2, 1], dim=2), strict=True))


def _one_minus_iou(boxes: Tensor, goals: Tensor) -> Tensor:
    return 1 - oriented_iou_aligned(boxes, goals)


def centerness_of(cells_xyxy: Tensor, boxes: Tensor) -> Tensor:
    """float[K] in [0, 1]: 1 at the centre of the location's box, 0 on its sides; equation 3 in the box's own frame."""
    offset = box_frames((cells_xyxy[:, :2] + cells_xyxy[:, 2:]) / 2, boxes).abs()  # [K, 2]
    half = half_sides(boxes, cells_xyxy[:, 2:3] - cells_xyxy[:, :1])
    return ((half - offset).clamp(min=0) / (half + offset)).prod(dim=1).sqrt()
