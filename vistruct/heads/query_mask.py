"""A mask for each query: its product with the pixels of a pyramid.

Source: VT-PLUG's mask decoder (REF-VLM): MaskFormer, arXiv:2107.06278, section 3.2, with its pyramid; the queries look
    at the coarsest map alone.
Differs: see `query_layers` and `query_mask_loss`.
Shapes: B rows, N queries of all rows end to end, D width, h x w cells of the finest map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import BoxTarget, Detections, FeatureSpec, HeadLoss, HeadTraits, Queries, Shown
from vistruct.heads.pixel_decoder import NormedConv
from vistruct.heads.query_layers import Asked, QueryLayersConfig, all_of, chosen_spec, mlp, object_units
from vistruct.heads.query_mask_loss import MaskDrawing, MasksDrawn


class Drawing(Protocol):
    """What masks learn from, and what they are in the end."""

    @property
    def terms(self) -> tuple[str, ...]: ...

    def loss(self, output: MasksDrawn, targets: Sequence[BoxTarget], use_groups: bool) -> HeadLoss: ...

    def decode(self, output: MasksDrawn, padded_hw: tuple[int, int]) -> list[Detections]: ...


class QueryMaskConfig(Part):
    """Which maps are drawn on, how queries look, and what is learned."""

    kind: Literal["query_mask"] = "query_mask"
    layers: QueryLayersConfig = QueryLayersConfig()
    pyramid: tuple[int, ...] | None = None  # of the maps, from the one that is drawn on to the coarsest; None: all
    use_groups: bool = True  # queries of a phrase stand for its objects in any order; False: in that of the text
    drawing: MaskDrawing = MaskDrawing()

    def build(self, specs: tuple[FeatureSpec, ...], query_width: int) -> QueryMask:
        """Build over these maps.

        Raises:
            UserError: there is no such level, or a width that the heads do not divide.
        """
        return QueryMask(self.layers, self.pyramid, self.drawing, specs, query_width, use_groups=self.use_groups)


class MaskPyramid(nn.Module):
    """Maps list[float[B, C_i, h_i, w_i]], finest first -> float[B, D, h_0, w_0]: the coarse ones added to the fine."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        *fine, top = channels
        self.stem = NormedConv(top, width, 3)
        self.laterals = nn.ModuleList(NormedConv(one, width, 1) for one in fine[::-1])
        self.blocks = nn.ModuleList(NormedConv(width, width, 3) for _ in fine)
        self.project = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *fine, top = maps
        x = F.relu(self.stem(top))
        for lateral, block, one in zip(self.laterals, self.blocks, fine[::-1], strict=True):
            x = F.relu(block(lateral(one) + F.interpolate(x, one.shape[2:])))
        return self.project(x)


class QueryMask(nn.Module):
    """Queries and maps list[float[B, C_i, h_i, w_i]] -> MasksDrawn."""

    def __init__(
        self,
        layers: QueryLayersConfig,
        pyramid: Sequence[int] | None,
        drawing: Drawing,
        specs: tuple[FeatureSpec, ...],
        query_width: int,
        *,
        use_groups: bool,
    ) -> None:
        super().__init__()
        self.specs, self.drawing, self.use_groups, self.slots = specs, drawing, use_groups, layers.slots
        self.levels = tuple(range(len(specs))) if pyramid is None else tuple(pyramid)
        self.layers = layers.build(specs, query_width)
        self.pyramid = MaskPyramid([chosen_spec(specs, level).channels for level in self.levels], layers.width)
        self.asks, self.quality = mlp(layers.width, layers.width), nn.Linear(layers.width, 1)
        self.terms = drawing.terms

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(masks="image", repeated_blocks=self.layers.repeated_blocks)

    def forward(self, queries: Queries, maps: list[Tensor], shown: Shown | None = None) -> MasksDrawn:
        asked = Asked.of(queries, self.slots, all_of(maps, self.specs, shown))
        states = asked.flat(self.layers(queries, maps, asked.shown))
        pixels = self.pyramid([maps[level] for level in self.levels])
        keys = self.asks(states).split(asked.counts)
        found = [torch.einsum("nd,dhw->nhw", key, one) for key, one in zip(keys, pixels, strict=True)]
        return MasksDrawn(asked=asked, logits=torch.cat(found).float(), quality=self.quality(states).float()[:, 0])

    def loss(self, output: MasksDrawn, targets: Sequence[BoxTarget]) -> HeadLoss:
        """As the drawing says."""
        return self.drawing.loss(output, targets, self.use_groups)

    def units(self, targets: Sequence[BoxTarget]) -> dict[str, float]:
        """Of all terms objects."""
        return dict.fromkeys(self.terms, object_units(targets, self.slots))

    def decode(self, output: MasksDrawn, padded_hw: tuple[int, int]) -> list[Detections]:
        """As the drawing says."""
        return self.drawing.decode(output, padded_hw)
