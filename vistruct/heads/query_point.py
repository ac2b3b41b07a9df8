"""A point for each query, on its object: where the query points.

VT-PLUG names the unit and has no decoder of it. What is learned is the centre of the object's box, or the pixel of its
mask that is nearest to it; the score is how likely the point lies on the object, which is what points are measured by.
Shapes: N queries of all rows end to end, H x W pixels of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Queries, Ratio, Shown
from vistruct.heads.query_layers import Asked, QueryLayersConfig, all_of, chosen_spec, mlp, object_units
from vistruct.heads.query_pixels import PixelPointer, Pointed, place_loss


class QueryPointConfig(Part):
    """Where a query points, and the weights of costs and losses alike."""

    kind: Literal["query_point"] = "query_point"
    layers: QueryLayersConfig = QueryLayersConfig()
    pixel_level: int = 0  # of the maps, on which a query points
    use_groups: bool = True  # queries of a phrase stand for its objects in any order; False: in that of the text
    l1_weight: float = Field(5.0, ge=0)
    place_weight: float = Field(1.0, ge=0)  # of the cell that a query points at
    quality_weight: float = Field(0.5, ge=0)

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int) -> QueryPoint:
        """Build over these maps.

        Raises:
            UserError: there is no such level, or a width that the heads do not divide.
        """
        return QueryPoint(self, specs, query_width)


@dataclass(frozen=True, kw_only=True)
class PointsDrawn:
    """A point for each query, float32 whatever the precision of the layers."""

    asked: Asked
    places: Tensor  # float32[N, 2], x and y of the padded picture's size
    quality: Tensor  # float32[N], logits of lying on the object
    pointed: Pointed


class QueryPoint(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> PointsDrawn."""

    terms = ("l1", "place", "quality")

    def __init__(self, config: QueryPointConfig, specs: tuple[FeatureSpec, ...], query_width: int) -> None:
        super().__init__()
        self.config, self.specs = config, specs
        width = config.layers.width
        self.layers = config.layers.build(specs, query_width)
        self.pointer = PixelPointer(chosen_spec(specs, config.pixel_level), width)
        self.places, self.quality = mlp(width, 2, 2 * width), nn.Linear(2 * width, 1)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(repeated_blocks=self.layers.repeated_blocks)

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> PointsDrawn:
        asked = Asked.of(queries, self.config.layers.slots, all_of(maps, self.specs, shown))
        own = asked.flat(self.layers(queries, maps, asked.shown))
        pointed = self.pointer(own, asked, maps[self.config.pixel_level])
        own = torch.cat([own, pointed.seen.to(own.dtype)], dim=1)
        places = pointed.places_xy + self.places(own).float() * pointed.cell
        return PointsDrawn(asked=asked, places=places, quality=self.quality(own).float()[:, 0], pointed=pointed)

    def loss(self, output: PointsDrawn, targets: Sequence[BoxTarget]) -> HeadLoss:
        """L1 distance of each point, the cell that its query should point at, and whether it lies on its object.

        Returns:
            Sums over objects. Its metrics: `inside`, the part of the points that do; `cut`, that of the objects beyond
            the slots.
        """
        config, asked = self.config, output.asked
        kept = asked.truths(targets)
        height, width = asked.shown.padded_hw
        scale = output.places.new_tensor([width, height])
        true = torch.cat([points_on(target, asked.shown.padded_hw) for target in kept]) / scale

        def cost(span: slice) -> Tensor:
            apart = torch.cdist(output.places[span].detach(), true[span], p=1)
            surprise = output.pointed.surprise(true[span], span).detach()
            return config.l1_weight * apart + config.place_weight * surprise

        order = asked.order(cost, config.use_groups, true.device)
        hits = [
            lies_on(places * scale, target, rows, asked.shown.padded_hw)
            for places, target, rows in zip(
                output.places.detach().split(asked.counts), kept, asked.within_rows(order), strict=True
            )
        ]
        inside = torch.cat(hits).float()
        quality = F.binary_cross_entropy_with_logits(output.quality, inside, reduction="sum")
        terms = {
            "l1": config.l1_weight * (output.places - true[order]).abs().sum(),
            "place": config.place_weight * place_loss(output.pointed, true[order]),
            "quality": config.quality_weight * quality,
        }
        return HeadLoss(
            terms=terms, metrics={"inside": Ratio(total=inside.sum(), count=len(inside)), "cut": asked.share}
        )

    def units(self, targets: Sequence[BoxTarget]) -> dict[str, float]:
        """Of all terms objects."""
        return dict.fromkeys(self.terms, object_units(targets, self.config.layers.slots))

    def decode(self, output: PointsDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """Points as boxes without a size."""
        asked, (height, width) = output.asked, padded_hw
        places = asked.clipped(output.places * output.places.new_tensor([width, height]), padded_hw)
        parts = zip(asked.split(places), asked.split(output.quality.sigmoid()), strict=True)
        return [
            Detections(boxes_xyxy=place.repeat(1, 2), scores=score, labels=torch.zeros_like(score, dtype=torch.int64))
            for place, score in parts
        ]


def points_on(target: BoxTarget, padded_hw: tuple[int, int]) -> Tensor:
    """float32[M, 2], pixels: the centre of each box, or the place on the object's mask that is nearest to it.

    Args:
        target: masks over the padded picture, at any resolution.
        padded_hw: of the picture, pixels.
    """
    boxes = target.boxes_xyxy.float()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    if target.masks is None or not target.masks.numel():
        return centres
    grid = target.masks.shape[1:]
    row, column = (
        (torch.arange(cells, device=boxes.device) + 0.5) * (size / cells)
        for cells, size in zip(grid, padded_hw, strict=True)
    )
    far = (row[:, None] - centres[:, 1, None, None]).square() + (column - centres[:, 0, None, None]).square()
    best = torch.where(target.masks > 0.5, far, torch.inf).flatten(1).argmin(dim=1)
    nearest = torch.stack([column[best % grid[1]], row[best // grid[1]]], dim=1)
    rows = torch.arange(len(target), device=boxes.device)
    return torch.where(lies_on(centres, target, rows, padded_hw)[:, None], centres, nearest)


def lies_on(places: Tensor, target: BoxTarget, rows: Tensor, padded_hw: tuple[int, int]) -> Tensor:
    """bool[n]: whether each of float[n, 2], pixels, lies on the mask, or in the box, of one of the objects int64[n]."""
    boxes = target.boxes_xyxy.float()[rows]
    inside = ((places >= boxes[:, :2]) & (places <= boxes[:, 2:])).all(dim=1)
    if target.masks is None or not target.masks.numel():
        return inside
    height, width = target.masks.shape[1:]
    column = (places[:, 0] * width / padded_hw[1]).long().clamp(0, width - 1)
    row = (places[:, 1] * height / padded_hw[0]).long().clamp(0, height - 1)
    is_drawn = (target.masks > 0.5).flatten(1).any(dim=1)[rows]
    return torch.where(is_drawn, target.masks[rows, row, column] > 0.5, inside)
