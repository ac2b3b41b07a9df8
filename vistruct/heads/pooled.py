"""Classes of the image as a whole: its maps pooled to one vector, and a linear layer.

Source: global average pooling, as every classifier has it; attentive pooling, a learned query that reads all cells by
    cross-attention, as the attentive probes of CAE (arXiv:2202.03026) and V-JEPA (arXiv:2404.08471).
Differs: one cross-attention and no MLP behind it, so that what it finds is in the backbone. timm's AttentionPoolLatent
    always has that MLP, and so torch's own attention was taken.
Shapes: maps float[B, C_i, h_i, w_i] -> logits float[B, K]; whether one class or any number is true is the task's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec, HeadTraits
from vistruct.errors import UserError
from vistruct.heads.conv_norm import BatchNorm


class PooledConfig(Part):
    """How the maps become one vector, and what happens to it before the last layer."""

    kind: Literal["pooled"] = "pooled"
    pooling: Literal["mean", "attention"] = "mean"
    maps: Literal["last", "all"] = "last"  # all: each is pooled, and the vectors put behind each other
    heads: int = Field(8, gt=0)  # of attentive pooling
    norm: Literal["none", "layer", "batch"] = "layer"  # of the vector; batch: without weights, as linear probes have
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last layer

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> Pooled:
        """Build on maps in any order.

        Raises:
            UserError: heads that do not divide the channels.
        """
        return Pooled(self, specs, num_classes)


class Pooled(nn.Module):
    """float[B, C_i, h_i, w_i] for each spec -> float[B, K]."""

    traits = HeadTraits(class_layers=(ClassLayer(name="classify"),))

    def __init__(self, config: PooledConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        self.used = list(range(len(specs))) if config.maps == "all" else [len(specs) - 1]
        widths = [specs[i].channels for i in self.used]
        self.pools = nn.ModuleList(
            AttentionPool(width, config.heads) if config.pooling == "attention" else MeanPool() for width in widths
        )
        width = sum(widths)
        norms = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": lambda c: BatchNorm(c, affine=False)}
        self.norm = norms[config.norm](width)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, num_classes)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        vectors = [pool(features[i]) for pool, i in zip(self.pools, self.used, strict=True)]
        return self.classify(self.dropout(self.norm(torch.cat(vectors, dim=1))))


class MeanPool(nn.Module):
    """float[B, C, h, w] -> float[B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class AttentionPool(nn.Module):
    """A learned query reads all cells: float[B, C, h, w] -> float[B, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            fits = [h for h in range(1, min(width, 33)) if width % h == 0]
            raise UserError(
                f"heads={heads} does not divide {width} channels",
                where="head.heads",
                fix=f"use one of {', '.join(map(str, fits))}",
            )
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.norm(x.flatten(2).transpose(1, 2))  # [B, h * w, C]
        read, _ = self.attention(self.query.expand(x.shape[0], -1, -1), cells, cells, need_weights=False)
        return read.squeeze(1)
