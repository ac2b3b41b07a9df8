"""Visual robustness learning (VRL): answer the instruction from a random part of the image.

Source: Li et al., ViTP, arXiv:2509.17562, equations 3 and 4.
Differs: the published code has one flag both for how often to drop and for how much (0.75 drops in a quarter of the
steps), works for one sample only, and pads the rows back to full length; here chance and share are two fields, each
row draws for itself, and rows really get shorter. Positions are not renumbered, as in the source. `drop_at="patches"`
is ours: whole cells of patches are dropped before the backbone, which then works less too, but learns from sparse
images only.
Shapes: N tokens of B rows end to end; T tiles of C cells (visual tokens) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.ops.seeds import derive


class Vrl(Part):
    """How often visual tokens are dropped, how many of them, and where."""

    drop_prob: float = Field(1.0, ge=0, le=1)  # chance that a row (or tile) is dropped from at all
    drop_ratio: float = Field(0.75, ge=0, lt=1)  # share of its image tokens that go; whole tokens, rounded down
    drop_at: Literal["tokens", "patches"] = "tokens"  # of a row behind the projector; of a tile before the backbone
    shorten: bool = True  # False: rows are padded back to their length, as the published code does; saves nothing

    @property
    def is_on(self) -> bool:
        """Whether anything is ever dropped."""
        return self.drop_prob > 0 and self.drop_ratio > 0


OFF = Vrl(drop_prob=0.0, drop_ratio=0.0)
PRESETS = {
    "off": OFF,
    "paper": Vrl(drop_prob=1.0, drop_ratio=0.75),  # every row keeps a quarter
    "published-code": Vrl(drop_prob=0.25, drop_ratio=0.75),  # what the released scripts really did
}


def keep_tokens(is_image: Tensor, lengths: Sequence[int], vrl: Vrl, seeds: Sequence[int]) -> Tensor:
    """Choose the tokens that stay: all text, and a random part of each row's image tokens.

    Args:
        is_image: bool[N], true at image tokens.
        lengths: tokens of each row.
        seeds: one for each row, so that a row's choice does not depend on its batch.

    Returns:
        bool[N], true at the tokens to keep.
    """
    keep = torch.ones_like(is_image)
    start = 0
    for length, seed in zip(lengths, seeds, strict=True):
        image = is_image[start : start + length].nonzero().squeeze(1) + start  # [n]
        keep[image[_dropped(len(image), vrl, seed)]] = False
        start += length
    return keep


def keep_cells(num_cells: int, vrl: Vrl, seeds: Sequence[int]) -> Tensor:
    """Choose the cells of each tile that enter the backbone; every tile that is dropped from keeps equally many.

    Args:
        num_cells: C.
        seeds: one for each tile.

    Returns:
        bool[T, C].
    """
    keep = torch.ones(len(seeds), num_cells, dtype=torch.bool)
    for tile, seed in enumerate(seeds):
        keep[tile, _dropped(num_cells, vrl, seed)] = False
    return keep


def patches_of(cells: Tensor, side: int, grid: int) -> Tensor:
    """int64[B, K] cells -> int64[B, K * side^2] their patches, row by row inside each cell.

    Args:
        side: patches of a cell.
        grid: patches of a tile's side.
    """
    wide = grid // side
    first = (cells // wide) * side * grid + (cells % wide) * side  # [B, K], its upper left patch
    inside = (torch.arange(side)[:, None] * grid + torch.arange(side)).flatten()
    return (first[..., None] + inside).flatten(1)


def _dropped(number: int, vrl: Vrl, seed: int) -> Tensor:
    """int64[...], which of `number` tokens go."""
    if not vrl.is_on:
        return torch.zeros(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(derive(seed, "vrl"))
    if torch.rand((), generator=generator) >= vrl.drop_prob:
        return torch.zeros(0, dtype=torch.int64)
    return torch.randperm(number, generator=generator)[: int(number * vrl.drop_ratio)]
