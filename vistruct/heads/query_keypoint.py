"""Key points for each query: its box first, then a query of each key point, which look at the picture again.

Source: VT-PLUG's pose decoder (REF-VLM): a box decoder, whose queries become one of the box and one of each key point;
    the box assigns; L1 distance of the annotated key points, focal loss of whether one is there.
Differs:
    - any number of key points, and any box decoder before them;
    - key points are said in the box that was found first (`within_box`; published: in the picture);
    - `oks` is one minus the key point similarity (published, `distance`: the mean distance of all key points, also of
      those that nobody annotated, whose place is the picture's corner);
    - objects without any annotated key point teach their box alone; the similarity is learned as well (`quality`).
Shapes: N queries of all rows end to end, K key points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, sigmoid_focal_loss

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Queries, Ratio, Shown
from vistruct.errors import UserError
from vistruct.heads.query_box import BoxesDrawn, QueryBoxConfig, box_cost, box_terms, relative_boxes
from vistruct.heads.query_layers import Asked, QueryLayersConfig, mlp, object_units
from vistruct.ops.key_points import AREA_OF_BOX, key_point_similarity, sigmas_of


class QueryKeypointConfig(Part):
    """How many key points, how they are said, and the weights of losses."""

    kind: Literal["query_keypoint"] = "query_keypoint"
    points: int = Field(17, gt=0)  # of an object
    sigmas: tuple[float, ...] | None = None  # of each, for the similarity; None: COCO's for 17, else one for all
    box: QueryBoxConfig = QueryBoxConfig()  # finds the object first; its weights and groups assign here, too
    layers: QueryLayersConfig = QueryLayersConfig()  # of the queries of key points
    within_box: bool = True  # places are said in the box that was found; False: in the picture
    oks: Literal["similarity", "distance"] = "similarity"
    first_weight: float = Field(0.5, ge=0)  # of the loss of the first boxes
    keypoint_weight: float = Field(2.0, ge=0)
    oks_weight: float = Field(2.0, ge=0)
    visible_weight: float = Field(1.0, ge=0)
    quality_weight: float = Field(0.5, ge=0)

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int) -> QueryKeypoint:
        """Build over these maps.

        Raises:
            UserError: no such level, a width that the heads do not divide, other slots than those of the boxes, or not
                a sigma for each key point.
        """
        if self.sigmas is not None and len(self.sigmas) != self.points:
            what = f"{len(self.sigmas)} sigmas for {self.points} key points"
            raise UserError(what, where="sigmas", fix="one for each, or leave `sigmas` out")
        if self.layers.slots != self.box.layers.slots:
            what = f"{self.layers.slots} slots of key points for {self.box.layers.slots} of boxes"
            raise UserError(what, where="layers.slots", fix="the same number in `layers` and `box.layers`")
        return QueryKeypoint(self, specs, query_width)


@dataclass(frozen=True, kw_only=True)
class KeypointsDrawn:
    """Key points for each query, float32 whatever the precision of the layers."""

    asked: Asked
    first: BoxesDrawn
    boxes: Tensor  # float32[N, 4], cxcywh of the padded picture's size
    places: Tensor  # float32[N, K, 2], x and y of the same
    visible: Tensor  # float32[N, K, 2], logits: not there, there
    quality: Tensor  # float32[N], logits of the similarity that the key points are thought to have


class QueryKeypoint(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> KeypointsDrawn."""

    terms = ("first", "l1", "giou", "keypoint", "oks", "visible", "quality")

    def __init__(self, config: QueryKeypointConfig, specs: tuple[FeatureSpec, ...], query_width: int) -> None:
        super().__init__()
        self.config = config
        self.sigmas = sigmas_of(config.points) if config.sigmas is None else config.sigmas
        width = config.layers.width
        self.first = config.box.build(specs, query_width)
        self.layers = config.layers.build(specs, config.box.layers.width, 1 + config.points)
        self.boxes, self.places = mlp(width, 4), mlp(width, 2)
        self.visible, self.quality = nn.Linear(width, 2), nn.Linear(width, 1)

    @property
    def traits(self) -> HeadTraits:
        blocks = (*self.first.layers.repeated_blocks, *self.layers.repeated_blocks)
        return HeadTraits(key_points=self.config.points, repeated_blocks=blocks)

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> KeypointsDrawn:
        first = self.first(queries, maps, shown)
        kept = Queries(states=first.states, groups=first.asked.groups)
        states = self.layers(kept, maps, first.asked.shown).unflatten(1, (-1, 1 + self.config.points))
        states = first.asked.flat(states)  # [N, 1 + K, D]
        boxes, places = self.boxes(states[:, 0]).float(), self.places(states[:, 1:]).float()
        if self.config.within_box:
            centre, size = first.boxes.detach().split(2, dim=1)
            boxes = torch.cat([centre + boxes[:, :2] * size, size * boxes[:, 2:].clamp(max=4).exp()], dim=1)
            places = centre[:, None] + places * size[:, None]
        else:
            boxes, places = boxes.sigmoid(), places.sigmoid()
        visible, quality = self.visible(states[:, 1:]).float(), self.quality(states[:, 0]).float()[:, 0]
        return KeypointsDrawn(
            asked=first.asked, first=first, boxes=boxes, places=places, visible=visible, quality=quality
        )

    def loss(self, output: KeypointsDrawn, targets: Sequence[BoxTarget]) -> HeadLoss:
        """Of boxes as of a box decoder; of key points where they are annotated.

        Returns:
            Sums over objects. Its metrics: `oks`, the similarity; `cut`, the part of the objects beyond the slots.

        Raises:
            ValueError: objects without key points, or with another number of them.
        """
        config, asked = self.config, output.asked
        weights = config.box.l1_weight, config.box.giou_weight
        boxes, points = relative_boxes(asked, targets), self._relative_points(asked, targets)
        order = asked.order(
            lambda span: box_cost(output.boxes[span].detach(), boxes[span], *weights),
            config.box.use_groups,
            boxes.device,
        )
        boxes, places, counts = boxes[order], points[order, :, :2], points[order, :, 2] > 0
        terms, _ = box_terms(output.boxes, boxes, *weights)
        first = self.first.loss(output.first, targets).terms
        terms["first"] = config.first_weight * torch.stack(list(first.values())).sum()
        apart = (output.places - places).abs().sum(dim=2) * counts
        terms["keypoint"] = config.keypoint_weight * apart.sum()
        alike, annotated = self._similarity(asked, output.places, places, counts, boxes), counts.any(dim=1)
        if config.oks == "similarity":
            terms["oks"] = config.oks_weight * ((1 - alike) * annotated).sum()
        else:
            terms["oks"] = config.oks_weight * (output.places - places).norm(dim=2).mean(dim=1).sum()
        there = F.one_hot(counts.long(), 2).float()
        visible = sigmoid_focal_loss(output.visible, there) * annotated[:, None, None]
        terms["visible"] = config.visible_weight * visible.mean(dim=2).sum()
        quality = F.binary_cross_entropy_with_logits(output.quality, alike.detach(), reduction="none") * annotated
        terms["quality"] = config.quality_weight * quality.sum()
        measured = Ratio(total=alike.detach().sum(), count=annotated.sum())
        return HeadLoss(terms={name: terms[name] for name in self.terms}, metrics={"oks": measured, "cut": asked.share})

    def _similarity(self, asked: Asked, said: Tensor, true: Tensor, counts: Tensor, boxes: Tensor) -> Tensor:
        """float32[N], in pixels of the picture."""
        height, width = asked.shown.padded_hw
        scale = said.new_tensor([width, height])
        areas = AREA_OF_BOX * (boxes[:, 2:] * scale).prod(dim=1)
        return key_point_similarity(said * scale, true * scale, counts, areas, self.sigmas)

    def _relative_points(self, asked: Asked, targets: Sequence[BoxTarget]) -> Tensor:
        """float32[N, K, 3]: places relative to the padded picture, and what COCO's visibility says."""
        height, width = asked.shown.padded_hw
        kept = [target for target in asked.truths(targets) if len(target)]
        shape = (self.config.points, 3)
        if any(target.keypoints is None or target.keypoints.shape[1:] != shape for target in kept):
            raise ValueError(f"the target of a decoder of key points has not {self.config.points} of each object")
        empty = targets[0].boxes_xyxy.new_zeros(0, *shape)
        points = torch.cat([empty, *(one.keypoints for one in kept if one.keypoints is not None)]).float()
        return points / points.new_tensor([width, height, 1])

    def units(self, targets: Sequence[BoxTarget]) -> dict[str, float]:
        """Of boxes and places objects, of the rest those with an annotated key point."""
        slots = self.config.layers.slots
        objects = object_units(targets, slots)
        annotated = [
            (target.keypoints[:slots, :, 2] > 0).any(dim=1).sum() for target in targets if target.keypoints is not None
        ]
        number = float(torch.stack(annotated).sum()) if annotated else 0.0
        found = dict.fromkeys(self.terms, objects) | dict.fromkeys(("visible", "quality"), number)
        return found | {"oks": number if self.config.oks == "similarity" else objects}

    def decode(self, output: KeypointsDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """Boxes, and of each key point its place and COCO's visibility: 2, or 0 where it is thought not to be there."""
        asked, (height, width) = output.asked, padded_hw
        scale = output.boxes.new_tensor([width, height, width, height])
        boxes = asked.clipped(box_convert(output.boxes, "cxcywh", "xyxy") * scale, padded_hw)
        places = asked.clipped((output.places * scale[:2]).flatten(1), padded_hw).unflatten(1, (-1, 2))
        points = torch.cat([places, 2.0 * output.visible.argmax(dim=2, keepdim=True)], dim=2)
        parts = zip(*(asked.split(one) for one in (boxes, points, output.quality.sigmoid())), strict=True)
        return [
            Detections(boxes_xyxy=box, keypoints=point, scores=score, labels=torch.zeros_like(score, dtype=torch.int64))
            for box, point, score in parts
        ]
