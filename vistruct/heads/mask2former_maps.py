"""Mask2Former for pixels: every class of an image is an object that one query finds, and all queries vote on pixels.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527; the vote is the published
    `semantic_inference`.
Differs: the votes leave the head at the stride of its masks and as logarithms, so that the task's softmax makes shares
    of them that add up to one; ignored pixels have no points.
Shapes: B images, K classes, maps finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadLoss, HeadTraits
from vistruct.heads.mask2former_names import own_names, published_names
from vistruct.heads.mask_loss import TERMS, MaskLoss, truth_of_map
from vistruct.heads.mask_queries import CLASS_LAYERS, MaskQueriesConfig, semantic_scores


class Mask2FormerMapsConfig(Part):
    """Layers and loss."""

    kind: Literal["mask2former"] = "mask2former"
    layers: MaskQueriesConfig = MaskQueriesConfig()
    loss: MaskLoss = MaskLoss()

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> Mask2FormerMaps:
        """Build on maps of any number, finest first.

        Raises:
            UserError: a map that is finer than the one before it.
        """
        return Mask2FormerMaps(self, specs, num_classes)


class Mask2FormerMaps(nn.Module):
    """Maps list[float[B, C_i, h_i, w_i]] -> float[B, K, h, w] at the stride of the finest."""

    terms = TERMS

    def __init__(self, config: Mask2FormerMapsConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        self.config, self.queries = config, config.layers.build(specs, num_classes)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(convert_keys=self.convert_keys, to_published=published_names, class_layers=CLASS_LAYERS)

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of published models, ViSFT's and transformers' as this head's."""
        return own_names(self, state)

    def forward(self, features: list[Tensor]) -> Tensor:
        said = self.queries(features).said
        return semantic_scores(said.logits[-1], said.masks[-1]).clamp(min=1e-6).log()

    def learn(self, features: list[Tensor], label_maps: Tensor) -> HeadLoss:
        """Sums over queries and the classes of each image of int16[B, H, W], and all layers."""
        return self.config.loss(self.queries(features).said, [truth_of_map(one) for one in label_maps])

    def units(self, label_maps: Tensor) -> dict[str, float]:
        """Weights of the queries, and classes that are there."""
        return self.config.loss.units([truth_of_map(one) for one in label_maps], self.config.layers.queries)
