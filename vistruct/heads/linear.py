"""The honest probe: a class for every cell of the map from that cell's features alone.

Source: the linear segmentation of DINOv2, Oquab et al., arXiv:2304.07193, section 7.4: batch norm and one linear layer.
    Without weights of its own that look around, what it gets right is in the backbone.
Shapes: maps float[B, C_i, h_i, w_i] -> logits float[B, K, h, w] at the last map's stride, or the finest's of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec, HeadTraits
from vistruct.heads.conv_norm import BatchNorm, resized
from vistruct.heads.upernet import start_classifier


class LinearConfig(Part):
    """The probe; `hidden` makes it a small MLP."""

    kind: Literal["linear"] = "linear"
    maps: Literal["last", "all"] = "last"  # all: resized to the finest and put behind each other
    hidden: int | None = Field(None, gt=0)  # channels of one hidden layer; None: linear
    norm: bool = True  # batch norm without weights in front: features of any scale learn at the same rate
    dropout: float = Field(0.0, ge=0, lt=1)  # of whole channels, before the last layer

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> Linear:
        """Build on maps in any order."""
        return Linear(self, specs, num_classes)


class Linear(nn.Module):
    """float[B, C_i, h_i, w_i] for each spec -> float[B, K, h, w]."""

    traits = HeadTraits(class_layers=(ClassLayer(name="classify"),))

    def __init__(self, config: LinearConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        used = list(range(len(specs))) if config.maps == "all" else [len(specs) - 1]
        self.used, self.finest = used, min(used, key=lambda i: specs[i].stride)
        width = sum(specs[i].channels for i in used)
        self.norm = BatchNorm(width, affine=False) if config.norm else nn.Identity()
        self.hidden = nn.Identity()
        if config.hidden is not None:
            self.hidden = nn.Sequential(nn.Conv2d(width, config.hidden, 1), nn.GELU())
            width = config.hidden
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)
        start_classifier(self.classify)

    def forward(self, features: list[Tensor]) -> Tensor:
        finest = features[self.finest]
        size_hw = (finest.shape[2], finest.shape[3])
        x = torch.cat([resized(features[i], size_hw) for i in self.used], dim=1)
        return self.classify(self.dropout(self.hidden(self.norm(x))))
