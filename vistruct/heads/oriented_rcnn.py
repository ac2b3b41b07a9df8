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

from typing import Literal

from pydantic import Field

from vistruct.config import Part
from vistruct.contracts import FeatureSpec
from vistruct.heads.faster_rcnn import FasterRcnn
from vistruct.heads.oriented_roi import OrientedRoiConfig, OrientedRoiStage
from vistruct.heads.oriented_rpn import OrientedRpnConfig
from vistruct.heads.rpn import Rpn


class OrientedRcnnConfig(Part):
    """The two stages, and thresholds of the detections."""

    kind: Literal["oriented_rcnn"] = "oriented_rcnn"
    rpn: OrientedRpnConfig = OrientedRpnConfig()
    roi: OrientedRoiConfig = OrientedRoiConfig()
    score_threshold: float = Field(0.05, ge=0, lt=1)  # detections below are left out
    nms_iou: float = Field(0.1, gt=0, le=1)  # of two boxes of one class above it, the better one stays
    candidates: int = Field(10_000, gt=0)  # best boxes of an image that go into NMS
    max_detections: int = Field(2000, gt=0)  # in one image

    def build(self, specs: tuple[FeatureSpec, ...], num_classes: int) -> FasterRcnn:
        """Build on levels with the same number of channels, finest first."""
        rpn = Rpn(self.rpn, specs, self.rpn.kind(self.candidates))
        return FasterRcnn(self, rpn, OrientedRoiStage(self.roi, specs, num_classes))
