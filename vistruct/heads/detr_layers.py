"""The transformer of DETR: an encoder over the cells of a map, and a decoder of queries that look at them.

Source: Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872, section A.3. The layers are
    torch's, with positions added to queries and keys of every attention, which torch's own do not.
Shapes: B images, L cells of a map, Q queries, E and D the widths of encoder and decoder.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10_000.0  # of the wave lengths of positions


class EncoderLayer(nn.TransformerEncoderLayer):
    """Self-attention with positions, then two linear layers, each with its norm behind it."""

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:  # ty: ignore[incompatible-method-override]
        """float[B, L, E] cells and positions, bool[B, L] true where nothing is shown -> float[B, L, E]."""
        where = x + positions
        seen = self.self_attn(where, where, x, key_padding_mask=padding, need_weights=False)[0]
        x = self.norm1(x + self.dropout1(seen))
        return self.norm2(x + self._ff_block(x))


class DecoderLayer(nn.TransformerDecoderLayer):
    """Self-attention of the queries, attention to the cells, then two linear layers, each with its norm behind it."""

    def forward(  # ty: ignore[incompatible-method-override]
        self, x: Tensor, queries: Tensor, memory: Tensor, where: Tensor, padding: Tensor | None, unseen: Tensor | None
    ) -> Tensor:
        """float[B, Q, D] of x and queries, float[B, L, D] cells without and with positions -> float[B, Q, D]."""
        own = x + queries
        seen = self.self_attn(own, own, x, key_padding_mask=unseen, need_weights=False)[0]
        x = self.norm1(x + self.dropout1(seen))
        seen = self.multihead_attn(x + queries, where, memory, key_padding_mask=padding, need_weights=False)[0]
        x = self.norm2(x + self.dropout2(seen))
        return self.norm3(x + self._ff_block(x))


class Encoder(nn.Module):
    """Cells that have looked at each other.

    Args:
        task_token: whether one more cell, learned and without a position, stands before them.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int, dropout: float, *, task_token: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, hidden, dropout, batch_first=True) for _ in range(layers)
        )
        spread_evenly(self)
        self.task_token = nn.Parameter(torch.randn(1, width)) if task_token else None

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """float[B, L, E] cells and positions, bool[B, L] -> float[B, L, E], or float[B, 1 + L, E] with a task token."""
        if self.task_token is not None:
            token = self.task_token.to(cells.dtype).expand(len(cells), 1, -1)
            cells = torch.cat([token, cells], dim=1)
            positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
            padding = None if padding is None else torch.cat([torch.zeros_like(padding[:, :1]), padding], dim=1)
        for layer in self.layers:
            cells = layer(cells, positions, padding)
        return cells


class Decoder(nn.Module):
    """Queries that have looked at the cells: what each layer made of them, under one norm.

    Args:
        look_near: whether queries begin with looking at the cells of positions like theirs.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int, dropout: float, *, look_near: bool) -> None:
        super().__init__()
        made = [DecoderLayer(width, heads, hidden, dropout, batch_first=True) for _ in range(layers)]
        self.layers, self.norm = nn.ModuleList(made), nn.LayerNorm(width)
        spread_evenly(self)
        if look_near:
            for layer in made:
                query, key, _ = layer.multihead_attn.in_proj_weight.detach().chunk(3)
                key.copy_(query)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        states: Tensor | None = None,
        unseen: Tensor | None = None,
    ) -> Tensor:
        """float[B, L, D] cells and positions, bool[B, L] -> float[layers, B, Q, D].

        Args:
            queries: float[Q, D] or float[B, Q, D], added wherever a query looks.
            memory: the cells.
            positions: added to the cells wherever a query looks for them.
            padding: true at cells that no query looks at.
            states: float[B, Q, D] with which queries begin; None: zeros, as of a learned table.
            unseen: bool[B, Q], true at queries that no other looks at.
        """
        queries = queries.expand(len(memory), -1, -1)
        x, where = torch.zeros_like(queries) if states is None else states, memory + positions
        found = []
        for layer in self.layers:
            x = layer(x, queries, memory, where, padding, unseen)
            found.append(self.norm(x))
        return torch.stack(found)


def spread_evenly(module: nn.Module) -> None:
    """Draw matrices as the published code does (Glorot), which leaves norms and biases alone."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def sine_positions(padding: Tensor, width: int) -> Tensor:
    """Where each cell of a map lies in its image, as waves.

    Args:
        padding: bool[B, h, w], true at the cells that show no image; these are the last of their rows and columns.
        width: of an embedding, a multiple of 4.

    Returns:
        float32[B, h*w, width], rows first, as `waves` of the cells' places: the image's last cell is at 1.
    """
    shown, places = ~padding, []
    for axis in (1, 2):
        at = shown.cumsum(axis, dtype=torch.float32)
        places.append(at / (at.amax(axis, keepdim=True) + 1e-6))  # that of the last cell
    return waves(torch.stack(places, dim=-1), width).flatten(1, 2)


def waves(places_yx: Tensor, width: int) -> Tensor:
    """float[..., 2] in [0, 1] -> float32[..., width]: half are of y, half of x, sine and cosine in turn."""
    number = torch.arange(width // 2, device=places_yx.device, dtype=torch.float32)
    length = TEMPERATURE ** (2 * (number // 2) / (width // 2))
    angle = (places_yx.float() * 2 * math.pi)[..., None] / length  # [..., 2, width / 2]
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)
