"""From the patches that an encoder gave to something about each of them: the light decoders of what was hidden.

Source: MAE (arXiv:2111.06377): a linear layer, a mask vector where a patch was hidden, fixed sine and cosine positions,
    transformer blocks with the norm before each branch, a norm and a linear layer. The blocks are torch's.
    CroCo (arXiv:2210.10716): blocks that look at another image too, between themselves and the layers of each patch.
    MaskFeat (arXiv:2112.09133) and SimMIM (arXiv:2111.09886): one linear layer.
Shapes: B images of L patches, K of them shown, E width of the encoder, D of the decoder.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import Tokens
from vistruct.errors import UserError

WAVE = 10_000.0


class PatchDecoderConfig(Part):
    """Transformer blocks; the defaults are MAE's sizes."""

    kind: Literal["transformer"] = "transformer"
    width: int = Field(512, gt=0)  # a multiple of 4 and of `heads`
    depth: int = Field(8, gt=0)
    heads: int = Field(16, gt=0)
    norm_eps: float = Field(1e-6, gt=0)
    looks_beside: bool = False  # at the patches of another image of the same place, which is shown whole
    tells_of_others: ClassVar[bool] = True  # than the patches that it is given

    def build(self, encoder_width: int, values: int, *, fills: bool) -> PatchDecoder:
        """
        Args:
            values: that are said of each patch.
            fills: whether patches are missing, which a mask vector stands for.

        Raises:
            UserError: a width that does not divide.
        """
        if self.width % 4 or self.width % self.heads:
            what = f"a decoder of width {self.width} with {self.heads} heads: no multiple of 4 and of the heads"
            raise UserError(what, where="task.decoder.width", fix=f"--set task.decoder.width={64 * self.heads}")
        return PatchDecoder(self, encoder_width, values, fills)


class LinearPatchesConfig(Part):
    """One layer, the same for every patch."""

    kind: Literal["linear"] = "linear"
    norm_eps: float = Field(1e-6, gt=0)
    tells_of_others: ClassVar[bool] = False
    looks_beside: ClassVar[bool] = False

    def build(self, encoder_width: int, values: int, *, fills: bool) -> LinearPatches:
        return LinearPatches(self, encoder_width, values)


class LinearPatches(nn.Module):
    """Tokens -> float[B, L, values]."""

    def __init__(self, config: LinearPatchesConfig, encoder_width: int, values: int) -> None:
        super().__init__()
        self.encoded = nn.LayerNorm(encoder_width, eps=config.norm_eps)
        self.say = nn.Linear(encoder_width, values)
        nn.init.trunc_normal_(self.say.weight, std=0.02)
        nn.init.zeros_(self.say.bias)

    def forward(
        self, tokens: Tokens, shown: Tensor | None, grid_hw: tuple[int, int], beside: Tokens | None = None
    ) -> Tensor:
        """Every patch must have been shown; another image is not looked at."""
        return self.among(tokens)

    def among(self, tokens: Tokens) -> Tensor:
        """float[B, K, values] of the patches that are there."""
        return self.say(self.encoded(tokens.patches))


class PatchDecoder(nn.Module):
    """Tokens of the shown patches -> float[B, L, values]."""

    def __init__(self, config: PatchDecoderConfig, encoder_width: int, values: int, fills: bool) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.encoded = nn.LayerNorm(encoder_width, eps=eps)
        self.embed = nn.Linear(encoder_width, width)
        if fills:
            self.mask = nn.Parameter(torch.empty(1, 1, width))
            nn.init.normal_(self.mask, std=0.02)
        layer = nn.TransformerDecoderLayer if config.looks_beside else nn.TransformerEncoderLayer
        self.blocks = nn.ModuleList(
            layer(width, config.heads, 4 * width, 0.0, "gelu", eps, batch_first=True, norm_first=True)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.say = nn.Linear(width, values)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Tokens, shown: Tensor | None, grid_hw: tuple[int, int], beside: Tokens | None = None
    ) -> Tensor:
        """
        Args:
            tokens: patches float[B, K, E], with a class token or without.
            shown: int64[B, K], which of the L = h * w patches these are; None: all of them.
            beside: all L patches of another image of the same place; None: there is none to look at.
        """
        cells = patches = self.embed(self.encoded(tokens.patches))
        count = grid_hw[0] * grid_hw[1]
        if shown is not None:
            cells = self.mask.to(patches.dtype).expand(len(patches), count, -1)
            cells = cells.scatter(1, shown[..., None].expand(-1, -1, patches.shape[2]), patches)
        positions = sine_positions(grid_hw, patches.shape[2]).to(patches)
        seen = None if beside is None else self.embed(self.encoded(beside.patches)) + positions
        return self._told(tokens, cells + positions, seen)

    def among(self, tokens: Tokens) -> Tensor:
        """float[B, K, values] of the patches that are there, of which no decoder knows where they lie."""
        return self._told(tokens, self.embed(self.encoded(tokens.patches)))

    def _told(self, tokens: Tokens, x: Tensor, seen: Tensor | None = None) -> Tensor:
        count = x.shape[1]
        if tokens.class_token is not None:  # has no place
            x = torch.cat([self.embed(self.encoded(tokens.class_token))[:, None], x], dim=1)
        for block in self.blocks:
            x = block(x) if seen is None else block(x, seen)
        return self.say(self.norm(x))[:, -count:]


def sine_positions(grid_hw: tuple[int, int], width: int) -> Tensor:
    """float32[h * w, D]: sines and cosines of the column, then of the row, wave lengths from 2 pi to 10,000 of it."""
    rates = 1.0 / WAVE ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid_hw)
    y, x = (one.flatten()[:, None] * rates for one in torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()
