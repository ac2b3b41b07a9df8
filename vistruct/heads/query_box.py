"""A box for each query: said by a layer, as DETR does, or at the place that the query points at.

Source: VT-PLUG's box decoder (`style: detr`): DETR's layers over all maps, three linear layers, L1 distance and GIoU
    loss, assigned by Hungarian inside each phrase.
Differs: see `query_layers`; how well a box fits is learned as well (`quality`), so that boxes have scores; losses are
    sums over objects.
Shapes: B rows, N queries of all rows end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou, generalized_box_iou, generalized_box_iou_loss

from vistruct.config import Part
from vistruct.contracts import (
    BoxTarget,
    Detections,
    FeatureSpec,
    HeadLoss,
    HeadTraits,
    Queries,
    Ratio,
    Shown,
)
from vistruct.heads.query_layers import Asked, QueryLayersConfig, all_of, chosen_spec, mlp, object_units
from vistruct.heads.query_pixels import PixelPointer, Pointed, place_loss


class QueryBoxConfig(Part):
    """How a box is said, and the weights of costs and losses alike."""

    kind: Literal["query_box"] = "query_box"
    style: Literal["detr", "pixels"] = "pixels"
    layers: QueryLayersConfig = QueryLayersConfig()
    pixel_level: int = 0  # of the maps, on which a query points
    use_groups: bool = True  # queries of a phrase stand for its objects in any order; False: in that of the text
    l1_weight: float = Field(5.0, ge=0)
    giou_weight: float = Field(2.0, ge=0)
    place_weight: float = Field(1.0, ge=0)  # of the cell that a query points at
    quality_weight: float = Field(0.5, ge=0)

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int) -> QueryBox:
        """Build over these maps.

        Raises:
            UserError: there is no such level, or a width that the heads do not divide.
        """
        return QueryBox(self, specs, query_width)


@dataclass(frozen=True, kw_only=True)
class BoxesDrawn:
    """A box for each query, float32 whatever the precision of the layers."""

    asked: Asked
    boxes: Tensor  # float32[N, 4], cxcywh of the padded picture's size
    quality: Tensor  # float32[N], logits of the IoU that each box is thought to have
    pointed: Pointed | None  # None: it does not point
    states: Tensor  # float[B, Q, D], of the last layer


class QueryBox(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> BoxesDrawn."""

    def __init__(self, config: QueryBoxConfig, specs: tuple[FeatureSpec, ...], query_width: int) -> None:
        super().__init__()
        self.config, self.specs = config, specs
        width = config.layers.width
        self.layers = config.layers.build(specs, query_width)
        spec = chosen_spec(specs, config.pixel_level)
        self.pointer = PixelPointer(spec, width) if config.style == "pixels" else None
        says = width if self.pointer is None else 2 * width
        self.boxes, self.quality = mlp(width, 4, says), nn.Linear(says, 1)
        self.terms: tuple[str, ...] = ("l1", "giou", "quality", *(["place"] if self.pointer else []))

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(repeated_blocks=self.layers.repeated_blocks)

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> BoxesDrawn:
        asked = Asked.of(queries, self.config.layers.slots, all_of(maps, self.specs, shown))
        states = self.layers(queries, maps, asked.shown)
        own = asked.flat(states)
        if self.pointer is None:
            return BoxesDrawn(
                asked=asked,
                boxes=self.boxes(own).float().sigmoid(),
                quality=self.quality(own).float()[:, 0],
                pointed=None,
                states=states,
            )
        pointed = self.pointer(own, asked, maps[self.config.pixel_level])
        own = torch.cat([own, pointed.seen.to(own.dtype)], dim=1)
        said = self.boxes(own).float()
        boxes = torch.cat([pointed.places_xy + said[:, :2] * pointed.cell, said[:, 2:].sigmoid()], dim=1)
        quality = self.quality(own).float()[:, 0]
        return BoxesDrawn(asked=asked, boxes=boxes, quality=quality, pointed=pointed, states=states)

    def loss(self, output: BoxesDrawn, targets: Sequence[BoxTarget]) -> HeadLoss:
        """L1 distance and GIoU loss of each box, the cell that its query should point at, and its own IoU.

        Returns:
            Sums over objects. Its metrics: `iou`, that of the boxes; `cut`, the part of the objects beyond the slots.
        """
        config, said = self.config, output.boxes
        true = relative_boxes(output.asked, targets)
        order = output.asked.order(lambda span: self.cost(output, true[span], span), config.use_groups, said.device)
        true = true[order]
        terms, iou = box_terms(said, true, config.l1_weight, config.giou_weight)
        if output.pointed is not None:
            terms["place"] = config.place_weight * place_loss(output.pointed, true[:, :2])
        quality = F.binary_cross_entropy_with_logits(output.quality, iou, reduction="sum")
        terms["quality"] = config.quality_weight * quality
        return HeadLoss(terms=terms, metrics={"iou": Ratio(total=iou.sum(), count=len(iou)), "cut": output.asked.share})

    @torch.no_grad()
    def cost(self, output: BoxesDrawn, true: Tensor, span: slice) -> Tensor:
        """float[n, n]: what it costs that the queries of a group stand for its boxes float[n, 4]."""
        config = self.config
        cost = box_cost(output.boxes[span], true, config.l1_weight, config.giou_weight)
        if output.pointed is None:
            return cost
        return cost + config.place_weight * output.pointed.surprise(true[:, :2], span)

    def units(self, targets: Sequence[BoxTarget]) -> dict[str, float]:
        """Of all terms objects."""
        return dict.fromkeys(self.terms, object_units(targets, self.config.layers.slots))

    def decode(self, output: BoxesDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """A box for each query, clipped to the image, and the IoU that it is thought to have."""
        height, width = padded_hw
        boxes = box_convert(output.boxes, "cxcywh", "xyxy") * output.boxes.new_tensor([width, height, width, height])
        boxes = output.asked.clipped(boxes, padded_hw)
        scores = output.quality.sigmoid()
        return [
            Detections(boxes_xyxy=box, scores=score, labels=torch.zeros_like(score, dtype=torch.int64))
            for box, score in zip(output.asked.split(boxes), output.asked.split(scores), strict=True)
        ]


def relative_boxes(asked: Asked, targets: Sequence[BoxTarget]) -> Tensor:
    """float32[N, 4], cxcywh of the padded picture's size: those of the queries' objects, row by row."""
    height, width = asked.shown.padded_hw
    boxes = torch.cat([one.boxes_xyxy for one in asked.truths(targets)]).float()
    return box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])


def box_cost(said: Tensor, true: Tensor, l1_weight: float, giou_weight: float) -> Tensor:
    """float[N, M] of boxes float[N, 4] and float[M, 4], cxcywh."""
    corners, goals = (box_convert(one, "cxcywh", "xyxy") for one in (said, true))
    return l1_weight * torch.cdist(said, true, p=1) - giou_weight * generalized_box_iou(corners, goals)


def box_terms(said: Tensor, true: Tensor, l1_weight: float, giou_weight: float) -> tuple[dict[str, Tensor], Tensor]:
    """Terms `l1` and `giou` of boxes float[N, 4], cxcywh, weighted and summed, and their IoU float[N], no gradient."""
    corners, goals = (box_convert(one, "cxcywh", "xyxy") for one in (said, true))
    giou = generalized_box_iou_loss(corners, goals, eps=1e-12)  # the area of a box is 1e-6 and less
    terms = {"l1": l1_weight * (said - true).abs().sum(), "giou": giou_weight * giou.sum()}
    return terms, box_iou(corners.detach(), goals).diagonal().clamp(0, 1)
