"""A small transformer that reads the cells of the map and says one unit after the other: the better caption head.

Source: the decoder of Vaswani et al., arXiv:1706.03762, with norms before attention, by torch's layers; the table of
    words is input and output (Press and Wolf, arXiv:1608.05859).
Differs: the map's cells are its memory, without an encoder of their own, with sine positions of both axes.
Shapes: maps float[B, C, h, w], M = h * w cells; captions int64[B, L], lengths int64[B]; V units of width D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, HeadLoss, HeadTraits
from vistruct.errors import UserError
from vistruct.heads.show_attend_tell import word_loss


class CaptionTransformerConfig(Part):
    """A decoder of a few layers."""

    kind: Literal["caption_transformer"] = "caption_transformer"
    width: int = Field(256, gt=0)
    depth: int = Field(4, gt=0)
    heads: int = Field(8, gt=0)
    mlp_width: int = Field(1024, gt=0)
    pool: int | None = Field(None, gt=0)  # cells of the map, each side, that it is pooled to; None: all of them
    dropout: float = Field(0.1, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> CaptionTransformerConfig:
        if self.width % self.heads or self.width % 4:
            what = f"heads={self.heads} does not divide width={self.width}, or 4 does not"
            raise UserError(
                what, where="head.width", fix=f"use {4 * self.heads * max(1, self.width // 4 // self.heads)}"
            )
        return self

    def build(self, specs: Sequence[FeatureSpec], num_words: int) -> CaptionTransformer:
        """Build on maps of which the last is read."""
        return CaptionTransformer(self, specs[-1].channels, num_words)


class CaptionTransformer(nn.Module):
    """The last map and captions -> terms; or one unit after the other."""

    terms = ("words",)
    traits = HeadTraits()

    def __init__(self, config: CaptionTransformerConfig, channels: int, num_words: int) -> None:
        super().__init__()
        self.config = config
        self.pool = nn.Identity() if config.pool is None else nn.AdaptiveAvgPool2d(config.pool)
        self.read = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, config.width))
        self.embed = nn.Embedding(num_words, config.width)
        layer = nn.TransformerDecoderLayer(
            config.width, config.heads, config.mlp_width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, config.depth, nn.LayerNorm(config.width))
        self.dropout = nn.Dropout(config.dropout)
        for parameter in self.layers.parameters():  # the copies of a layer begin alike otherwise
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embed.weight, std=0.02)  # larger, and each word would begin by being said again

    def forward(self, features: list[Tensor], captions: Tensor) -> Tensor:
        """float[B, L - 1, V]: each next unit from the true ones before it."""
        return self._scores(captions[:, :-1], self.begin(features)["memory"])

    def begin(self, features: list[Tensor]) -> dict[str, Tensor]:
        """float[B, M, D], the cells of each image."""
        cells = self.pool(features[-1])
        memory = self.read(cells.flatten(2).transpose(1, 2))
        width = self.config.width // 2
        down, along = (_waves(side, width, cells.device) for side in cells.shape[2:])
        places = torch.cat(torch.broadcast_tensors(down[:, None], along[None]), dim=2).flatten(0, 1)
        return {"memory": memory + places.to(memory.dtype)}

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """int64[N, t] so far -> log-probabilities of the next unit float[N, V]."""
        return self._scores(tokens, state["memory"])[:, -1].float().log_softmax(dim=1), state

    def _scores(self, tokens: Tensor, memory: Tensor) -> Tensor:
        length = tokens.shape[1]
        words = self.embed(tokens) * math.sqrt(self.config.width) + _waves(length, self.config.width, tokens.device)
        is_later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        found = self.layers(self.dropout(words), memory, tgt_mask=is_later, tgt_is_causal=True)
        return found @ self.embed.weight.T

    def learn(self, features: list[Tensor], captions: Tensor, lengths: Tensor) -> HeadLoss:
        """Cross entropy summed over units; `lengths` count start and end."""
        scores = self(features, captions)
        is_word = torch.arange(scores.shape[1], device=lengths.device)[None] < (lengths - 1)[:, None]
        loss, metrics = word_loss(scores, captions, is_word, self.config.label_smoothing)
        return HeadLoss(terms={"words": loss}, metrics=metrics)

    def units(self, lengths: Tensor) -> Mapping[str, float | Tensor]:
        """Units to be said, the end among them."""
        return {"words": (lengths - 1).sum()}


def _waves(length: int, width: int, device: torch.device) -> Tensor:
    """float32[length, width], sines and cosines of positions."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
