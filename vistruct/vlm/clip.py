"""What makes a CLIP of a ViT: its tokens become one vector, texts become others, and their angle is the answer.

Source: CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343, a learned query that pools and a bias), EVA-CLIP
    (arXiv:2303.15389).
Shapes: tokens of B images, N texts -> unit vectors float[B, E], float[N, E] -> logits float[B, N].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Tokens
from vistruct.errors import UserError
from vistruct.vlm.text_tower import TextConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB in [0, 1], as OpenAI's CLIP and EVA-CLIP were trained with
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PORTION = 256  # texts in one pass


class PoolConfig(Part):
    """How an image's tokens become one vector."""

    by: Literal["class_token", "query"] = "class_token"  # query: learned, reads all patches, with an MLP behind it
    project: Literal["linear", "bias", "none"] = "linear"  # to the width of texts; bias: a linear layer that has one
    # Of the query's pooling:
    heads: int = Field(12, gt=0)
    mlp_width: int = Field(3072, gt=0)
    act: Literal["gelu", "gelu_tanh"] = "gelu"
    norm_eps: float = 1e-6


class ClipConfig(Part):
    """All but the backbone of a CLIP."""

    pool: PoolConfig = PoolConfig()
    text: TextConfig
    has_bias: bool = False  # a number that is added to every logit

    def build(self, width: int, assets: Path) -> Clip:
        """On tokens of this width.

        Raises:
            UserError: as `TextConfig.build`.
        """
        return Clip(self, width, assets)


class Clip(nn.Module):
    """Tokens and texts -> unit vectors, and from these logits."""

    def __init__(self, config: ClipConfig, width: int, assets: Path) -> None:
        super().__init__()
        self.config = config
        self.pool = QueryPool(width, config.pool) if config.pool.by == "query" else None
        is_linear = config.pool.project != "none"
        bias = config.pool.project == "bias"
        self.project = nn.Linear(width, config.text.width, bias=bias) if is_linear else nn.Identity()
        self.text = config.text.build(assets)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if config.has_bias else None

    def of_images(self, tokens: Tokens) -> Tensor:
        """float[B, E], of length 1."""
        pooled = tokens.class_token if self.pool is None else self.pool(tokens.patches)
        if pooled is None:
            what = "this CLIP reads the class token, and the backbone has none"
            raise UserError(what, where="task.backbone", fix="--set task.backbone.class_token=true")
        return F.normalize(self.project(pooled).float(), dim=-1)

    def of_cells(self, cells: Tensor) -> Tensor:
        """float[P, L, D], cells of regions -> float[P, E], of length 1: pooled as patches are, or their mean."""
        pooled = cells.mean(dim=1) if self.pool is None else self.pool(cells)
        return F.normalize(self.project(pooled).float(), dim=-1)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """int64[N, L] as the tokenizer gives them -> float[N, E], of length 1; a portion at a time."""
        found = [F.normalize(self.text(part).float(), dim=-1) for part in tokens.split(PORTION)]
        return torch.cat(found) if found else self.logit_scale.new_zeros(0, self.config.text.width)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """float[N, E], of length 1."""
        return self.of_tokens(self.text.tokenizer(texts).to(self.logit_scale.device))

    def of_classes(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """float[K, E], of length 1: of each class the mean of its texts' unit vectors.

        Source: CLIP's prompt ensembling, as open_clip and EVA-CLIP measure it.
        """
        every = self.of_texts([text for own in texts for text in own])
        means = [part.mean(dim=0) for part in every.split([len(own) for own in texts])]
        return F.normalize(torch.stack(means), dim=-1)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """float[B, N] of unit vectors."""
        found = self.logit_scale.exp() * images @ texts.T
        return found if self.logit_bias is None else found + self.logit_bias


class QueryPool(nn.Module):
    """A learned query reads all patches: float[B, L, D] -> float[B, D].

    Source: SigLIP's attention pooling (MAP), with its layers under timm's names (`AttentionPoolLatent`), which it is.
    """

    def __init__(self, width: int, config: PoolConfig) -> None:
        super().__init__()
        from timm.layers import AttentionPoolLatent, get_act_layer  # seconds to import

        if width % config.heads:
            what = f"heads={config.heads} does not divide {width} channels"
            raise UserError(what, where="task.clip.pool.heads", fix="use those of the backbone")
        norm: Any = partial(nn.LayerNorm, eps=config.norm_eps)
        self.read = AttentionPoolLatent(
            width,
            num_heads=config.heads,
            mlp_ratio=(config.mlp_width + 0.5) / width,  # rounded down there
            norm_layer=norm,
            act_layer=get_act_layer(config.act),
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.read(patches)
