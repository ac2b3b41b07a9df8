"""How a ViT and the pyramid beside it talk: an injector before a group of blocks, extractors behind it.

Source: Chen et al., Vision Transformer Adapter, arXiv:2205.08534, section 3.3 and figure 4. The two attention variants
    are those of ViTP's downstream code: `ddetr` as in the paper, with narrow values; `mmcv`, which its configurations
    fall back to and really train: values of full width, dropout, and in the extractor the *normalised* query goes on.
Shapes: B images, L = h * w tokens of the ViT, C = 4 L + L + L/4 of the pyramid (strides 8, 16, 32), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistruct.ops.deformable_attention import DeformableAttention, Sizes, centres

Variant = Literal["mmcv", "ddetr"]


def as_map(cells: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """float[B, D, h * w] -> float[B, D, h, w]; unflatten would be of one size where it is traced for ONNX."""
    return cells.reshape(cells.shape[0], int(cells.shape[1]), *size_hw)


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of every channel by itself, on the three maps of the pyramid: float[B, C, D] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor, sizes_hw: Sizes) -> Tensor:
        parts = x.transpose(1, 2).split([h * w for h, w in sizes_hw], dim=2)
        maps = [self.dwconv(as_map(part, size)) for part, size in zip(parts, sizes_hw, strict=True)]
        return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)


class ConvFfn(nn.Module):
    """A narrow feed-forward layer with a convolution inside, so that neighbours in the pyramid meet."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, sizes_hw: Sizes) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), sizes_hw)))


class Injector(nn.Module):
    """The ViT's tokens read the pyramid: float[B, L, D], float[B, C, D] -> float[B, L, D]."""

    def __init__(self, attn: DeformableAttention, scale: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(attn.width)
        self.feat_norm = nn.LayerNorm(attn.width)
        self.attn = attn
        self.gamma = nn.Parameter(torch.full((attn.width,), scale))

    def forward(self, x: Tensor, c: Tensor, grid_hw: tuple[int, int], sizes_hw: Sizes) -> Tensor:
        places = centres([grid_hw], x.device)
        return x + self.gamma * self.attn(self.query_norm(x), places, self.feat_norm(c), sizes_hw)


class Extractor(nn.Module):
    """The pyramid reads the ViT's tokens: float[B, C, D], float[B, L, D] -> float[B, C, D]."""

    def __init__(self, attn: DeformableAttention, *, variant: Variant, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.variant, self.drop_path = variant, drop_path
        self.query_norm = nn.LayerNorm(attn.width)
        self.feat_norm = nn.LayerNorm(attn.width)
        self.attn = attn
        self.ffn_norm = nn.LayerNorm(attn.width)
        self.ffn = ConvFfn(attn.width, hidden)

    def forward(self, c: Tensor, x: Tensor, grid_hw: tuple[int, int], sizes_hw: Sizes) -> Tensor:
        query = self.query_norm(c)
        read = self.attn(query, centres(sizes_hw, c.device), self.feat_norm(x), [grid_hw])
        c = (query if self.variant == "mmcv" else c) + read
        more = self.ffn(self.ffn_norm(c), sizes_hw)
        if self.training and self.drop_path:  # stochastic depth by sample, the kept ones scaled to keep the mean
            kept = torch.rand(len(c), 1, 1, device=c.device) >= self.drop_path
            more = more * kept / (1 - self.drop_path)
        return c + more


class Interaction(nn.Module):
    """Inject, run a group of the ViT's blocks, extract."""

    def __init__(self, injector: Injector, extractor: Extractor, more: Sequence[Extractor] = ()) -> None:
        super().__init__()
        self.injector, self.extractor = injector, extractor
        self.extra_extractors = nn.ModuleList(more)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        blocks: Callable[[Tensor], Tensor],
        call: Callable[..., Any],
        grid_hw: tuple[int, int],
        sizes_hw: Sizes,
    ) -> tuple[Tensor, Tensor]:
        """float[B, L, D], float[B, C, D] -> the same; `call(module, *arguments)` decides what is kept for backward."""
        x = blocks(call(self.injector, x, c, grid_hw, sizes_hw))
        for extractor in (self.extractor, *self.extra_extractors):
            c = call(extractor, c, x, grid_hw, sizes_hw)
        return x, c
