"""Queries that say a class and a mask each: Mask2Former without what it is used for.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527. One set of settings gives the ordinary form
    (three maps in the encoder, a finer one for the masks) and ViSFT's (one map, stride 14); see `pixel_decoder`.
Shapes: B images, Q queries, K classes, maps finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec, Shown
from vistruct.errors import UserError
from vistruct.heads.masked_decoder import MaskedDecoder, Said
from vistruct.heads.pixel_decoder import PixelDecoder
from vistruct.heads.upernet import check_finest_first

CLASS_LAYERS = (ClassLayer(name="queries.predictor.class_embed", rest=1),)


class MaskQueriesConfig(Part):
    """The layers; the defaults are the published model's."""

    queries: int = Field(100, gt=0)  # objects that can be found in an image
    width: int = Field(256, gt=0, multiple_of=4)
    heads: int = Field(8, gt=0)  # of every attention
    levels: int = Field(3, gt=0)  # of the coarsest maps that read each other, and that queries read in turn
    points: int = Field(4, gt=0)  # places that a cell reads in each map, a head
    encoder_layers: int = Field(6, gt=0)
    encoder_ffn: int = Field(1024, gt=0)
    decoder_layers: int = Field(9, gt=0)
    decoder_ffn: int = Field(2048, gt=0)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> MaskQueriesConfig:
        if self.width % self.heads:
            what = f"heads={self.heads} does not divide width={self.width}"
            raise UserError(what, where="head.layers", fix=f"--set task.head.layers.heads={max(1, self.width // 32)}")
        return self

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> MaskQueries:
        """Build on maps of any number, finest first.

        Raises:
            UserError: a map that is finer than the one before it.
        """
        return MaskQueries(self, specs, num_classes)


ONE_LEVEL = MaskQueriesConfig(levels=1, encoder_ffn=512, decoder_ffn=1024)  # ViSFT's, on the one map of a ViT


def sized(width: int) -> MaskQueriesConfig:
    """The published proportions at another width: 32 channels a head, at least one."""
    heads = max(1, width // 32)
    return MaskQueriesConfig(width=width, heads=heads, encoder_ffn=4 * width, decoder_ffn=8 * width)


@dataclass(frozen=True, kw_only=True)
class MaskOutput:
    """What the queries say of a padded batch."""

    said: Said
    shown: Shown | None  # what of it is image; None: all of it


class MaskQueries(nn.Module):
    """Maps list[float[B, C_i, h_i, w_i]] -> MaskOutput, masks at the stride of the finest."""

    def __init__(self, config: MaskQueriesConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        check_finest_first(specs)
        shared = {"width": config.width, "heads": config.heads}
        self.pixel_decoder = PixelDecoder(
            specs,
            levels=config.levels,
            points=config.points,
            ffn=config.encoder_ffn,
            layers=config.encoder_layers,
            **shared,
        )
        self.predictor = MaskedDecoder(
            queries=config.queries,
            ffn=config.decoder_ffn,
            layers=config.decoder_layers,
            levels=self.pixel_decoder.levels,
            num_classes=num_classes,
            **shared,
        )

    def forward(self, features: list[Tensor], shown: Shown | None = None) -> MaskOutput:
        paddings = [_padding(one, shown) for one in features]
        coarse, mask_features = self.pixel_decoder(features, paddings)
        said = self.predictor(coarse, mask_features, paddings[: -len(coarse) - 1 : -1])
        return MaskOutput(said=said, shown=shown)


def _padding(one: Tensor, shown: Shown | None) -> Tensor:
    """bool[B, h, w], or [1, h, w] where all of the batch is image."""
    size_hw = (one.shape[2], one.shape[3])
    if shown is None or all(size == shown.padded_hw for size in shown.sizes_hw):
        return torch.zeros(1, *size_hw, dtype=torch.bool, device=one.device)
    return shown.padding(size_hw, one.device)


def semantic_scores(logits: Tensor, masks: Tensor) -> Tensor:
    """Of every class at every place: what all queries say of it together.

    Args:
        logits: float[..., Q, K + 1].
        masks: float[..., Q, h, w], logits.

    Returns:
        float32[..., K, h, w], at least 0; no probabilities yet, as several queries may say the same.
    """
    classes = logits.float().softmax(-1)[..., :-1]
    return torch.einsum("...qc,...qhw->...chw", classes, masks.float().sigmoid())
