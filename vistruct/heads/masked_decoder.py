"""Mask2Former's decoder: queries look only where their mask already is, and say class and mask after every layer.

Source: Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527, section 3.2.2: cross-attention, then
    self-attention, then a feed-forward, each with its norm behind the sum; no dropout. The names of the parameters are
    those of the published checkpoints.
Differs: what a query may look at is one table for all heads, and padding is not looked at.
Shapes: B images, Q queries, D width, K classes, L maps, h x w cells of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.heads.conv_norm import resized
from vistruct.heads.detr_layers import sine_positions


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the queries say before the first layer and after each; the last is the prediction."""

    logits: tuple[Tensor, ...]  # float[B, Q, K + 1] each, the last class stands for no object
    masks: tuple[Tensor, ...]  # float[B, Q, h, w] each, logits


class Attention(nn.Module):
    """torch's multi-head attention by the names of its tensors, where all heads share one mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None = None) -> Tensor:
        """float[B, Q, D], float[B, S, D] twice, and bool[B, Q, S], false where not to look -> float[B, Q, D]."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias)
            .reshape(*x.shape[:2], self.heads, -1)
            .transpose(1, 2)  # [B, heads, Q or S, D / heads]
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=None if sees is None else sees[:, None])
        return self.out_proj(found.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """float[B, Q, D] -> the same; queries read a map where they are allowed to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn, self.norm = Attention(width, heads), nn.LayerNorm(width)

    def forward(self, x: Tensor, own: Tensor, key: Tensor, value: Tensor, sees: Tensor) -> Tensor:
        return self.norm(x + self.multihead_attn(x + own, key, value, sees))


class SelfAttention(nn.Module):
    """float[B, Q, D] -> the same; queries read each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn, self.norm = Attention(width, heads), nn.LayerNorm(width)

    def forward(self, x: Tensor, own: Tensor) -> Tensor:
        named = x + own
        return self.norm(x + self.self_attn(named, named, x))


class FeedForward(nn.Module):
    """float[B, Q, D] -> the same."""

    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(width, ffn), nn.Linear(ffn, width), nn.LayerNorm(width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class Mlp(nn.Module):
    """float[..., D] -> float[..., D], three layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        return third(F.relu(second(F.relu(first(x)))))


class MaskedDecoder(nn.Module):
    """L maps float[B, D, h_i, w_i], coarsest first and read in turn, and those of the masks -> Said."""

    def __init__(
        self, *, width: int, heads: int, ffn: int, layers: int, queries: int, levels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.query_feat, self.query_embed = nn.Embedding(queries, width), nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(levels, width)
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttention(width, heads) for _ in range(layers))
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttention(width, heads) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(width, ffn) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed, self.mask_embed = nn.Linear(width, num_classes + 1), Mlp(width)

    def forward(self, maps: Sequence[Tensor], mask_features: Tensor, paddings: Sequence[Tensor]) -> Said:
        """`paddings` bool[B, h_i, w_i], true at cells that show no image."""
        values, keys = [], []
        for one, padding, level in zip(maps, paddings, self.level_embed.weight, strict=True):
            values.append(one.flatten(2).transpose(1, 2) + level)  # [B, S, D]
            keys.append(values[-1] + sine_positions(padding, one.shape[1]))
        sizes_hw = [(one.shape[2], one.shape[3]) for one in maps]
        own = self.query_embed.weight
        x = self.query_feat.weight.expand(len(mask_features), -1, -1)
        said = [self._say(x, mask_features)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for number, (cross, own_attention, feed_forward) in enumerate(layers):
            level = number % len(maps)
            sees = looked_at(said[-1][1], sizes_hw[level], paddings[level])
            x = cross(x, own, keys[level], values[level], sees)
            x = feed_forward(own_attention(x, own))
            said.append(self._say(x, mask_features))
        logits, masks = zip(*said, strict=True)
        return Said(logits=logits, masks=masks)

    def _say(self, x: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """float[B, Q, K + 1] and float[B, Q, h, w]."""
        x = self.decoder_norm(x)
        masks = self.mask_embed(x) @ mask_features.flatten(2)  # [B, Q, h * w]
        # Where it is traced for ONNX, unflatten would be of one size.
        return self.class_embed(x), masks.reshape(*masks.shape[:2], *mask_features.shape[2:])


def looked_at(masks: Tensor, size_hw: tuple[int, int], padding: Tensor) -> Tensor:
    """Where each query may look: at what it takes for its object, or at all of the image where that is nothing.

    Args:
        masks: float[B, Q, h, w], logits.
        size_hw: of the map to look at.
        padding: bool[B, H, W] of that size, true at cells that show no image.

    Returns:
        bool[B, Q, H * W].
    """
    shows = ~padding.flatten(1)[:, None]  # [B, 1, S]
    sees = (resized(masks.detach(), size_hw).flatten(2) >= 0) & shows
    return sees | (shows & ~sees.any(dim=2, keepdim=True))
