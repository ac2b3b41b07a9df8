"""Mask2Former's pixel decoder: the coarse maps read each other, then finer ones are added step by step.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527, section 3.2.1, with the deformable
    attention of arXiv:2010.04159; sizes and the names of the parameters are those of the published checkpoints.
Differs: from one map alone (ViSFT: a plain ViT, stride 14) the same map is added once more at its own size, which is
    what the published code does there; positions count the cells that show an image, not the padding.
Shapes: B images, L maps in the encoder, S cells of these together, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.contracts import FeatureSpec
from vistruct.heads.conv_norm import resized
from vistruct.heads.detr_layers import sine_positions
from vistruct.ops.deformable_attention import DeformableAttention, Sizes, centres

GROUPS = 32  # of the norms, in every published model


class EncoderLayer(nn.Module):
    """float[B, S, D] -> float[B, S, D]: every cell reads a few places around it in all maps."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(
            width=width, heads=heads, levels=levels, points=points, value_width=width, dropout=0.0
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, sizes_hw: Sizes) -> Tensor:
        x = self.norm1(x + self.self_attn(x + positions, places, x, sizes_hw))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DeformableEncoder(nn.Module):
    """Layers below the names `encoder.layers`, and what says from which map a cell is."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn: int, layers: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(EncoderLayer(width, heads, levels, points, ffn) for _ in range(layers))}
        )

    def forward(self, maps: Sequence[Tensor], paddings: Sequence[Tensor]) -> list[Tensor]:
        """float[B, D, h, w] each -> the same shapes; `paddings` bool[B, h, w], true at cells that show no image."""
        sizes_hw = [(one.shape[2], one.shape[3]) for one in maps]
        width = maps[0].shape[1]
        x = torch.cat([one.flatten(2) for one in maps], dim=2).transpose(1, 2)  # [B, S, D]
        positions = torch.cat(
            [sine_positions(padding, width) + level for padding, level in zip(paddings, self.level_embed, strict=True)],
            dim=1,
        )
        places = centres(sizes_hw, x.device)
        for layer in self.encoder["layers"].children():
            x = layer(x, positions, places, sizes_hw)
        parts = x.transpose(1, 2).split([h * w for h, w in sizes_hw], dim=2)
        return [part.reshape(part.shape[0], width, *size_hw) for part, size_hw in zip(parts, sizes_hw, strict=True)]


class NormedConv(nn.Conv2d):
    """A convolution without bias that keeps the size, and the norm behind it."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2, bias=False)
        self.norm = group_norm(after)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(super().forward(input))


class PixelDecoder(nn.Module):
    """Maps float[B, C_i, h_i, w_i], finest first -> L maps of D channels, coarsest first, and those of the masks.

    The `levels` coarsest maps go through the encoder, and all finer ones are added afterwards; where there is no
    finer one, the finest is.
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        *,
        width: int,
        heads: int,
        levels: int,
        points: int,
        ffn: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.levels = min(levels, len(specs))
        coarse = specs[len(specs) - self.levels :][::-1]
        self.num_fine = max(1, len(specs) - self.levels)
        self.input_proj = nn.ModuleList(
            nn.Sequential(started(nn.Conv2d(spec.channels, width, 1)), group_norm(width)) for spec in coarse
        )
        self.transformer = DeformableEncoder(width, heads, self.levels, points, ffn, layers)
        for number in range(1, self.num_fine + 1):
            self.add_module(f"adapter_{number}", NormedConv(specs[number - 1].channels, width, 1))
            self.add_module(f"layer_{number}", NormedConv(width, width, 3))
        self.mask_features = started(nn.Conv2d(width, width, 1))

    def forward(self, maps: Sequence[Tensor], paddings: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """`paddings` bool[B, h_i, w_i], true at cells that show no image -> L maps, and that of the masks."""
        coarse = range(len(maps) - 1, len(maps) - 1 - self.levels, -1)
        projected = [project(maps[i]) for project, i in zip(self.input_proj, coarse, strict=True)]
        encoded = self.transformer(projected, [paddings[i] for i in coarse])
        finest = encoded[-1]
        for number in range(self.num_fine, 0, -1):
            lateral = self.get_submodule(f"adapter_{number}")(maps[number - 1])
            finest = lateral + resized(finest, (lateral.shape[2], lateral.shape[3]))
            finest = F.relu(self.get_submodule(f"layer_{number}")(finest))
        return encoded, self.mask_features(finest)


def group_norm(width: int) -> nn.GroupNorm:
    """As many groups as published, or as the width has room for."""
    return nn.GroupNorm(math.gcd(GROUPS, width), width)


def started(conv: nn.Conv2d) -> nn.Conv2d:
    """As the published decoder starts its projections."""
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
