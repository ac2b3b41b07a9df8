"""Features as shares of prototypes: the head of DINO and its descendants.

Source: DINO (arXiv:2104.14294) and iBOT (arXiv:2111.07832): three linear layers with GELU, a bottleneck of length 1,
    and the cosine with each prototype, whose length does not train.
Differs: a norm before the first layer, for not every backbone has a last one; first weights as wide as the published
    ones (0.02) are at 2,048 inputs, whatever their number: narrow heads would have gradients of thousands; cosines are
    taken in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part


class PrototypesConfig(Part):
    """Sizes; the defaults are iBOT's."""

    hidden: int = Field(2048, gt=0)  # width of the layers between
    bottleneck: int = Field(256, gt=0)
    number: int = Field(8192, gt=1)  # of prototypes

    def build(self, width: int) -> Prototypes:
        """For features float[..., width]."""
        return Prototypes(self, width)


class Prototypes(nn.Module):
    """float[..., D] -> float32[..., K], the cosine with each prototype."""

    def __init__(self, config: PrototypesConfig, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(config.number, config.bottleneck))
        nn.init.normal_(self.prototypes)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, prototypes_stand: bool = False) -> Tensor:
        """
        Args:
            prototypes_stand: they get no gradient.
        """
        low = self.layers(features).float()
        rows = self.prototypes.detach() if prototypes_stand else self.prototypes
        with torch.autocast(low.device.type, enabled=False):  # divided by 0.04, an error of bf16 would be large
            return F.linear(F.normalize(low, dim=-1), F.normalize(rows.float(), dim=1))
