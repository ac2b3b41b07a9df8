"""Visual robustness learning (VRL): answer the instruction from a random part of the image.

Source: Li et al., ViTP, arXiv:2509.17562, equations 3 and 4.
Differs: the published code has one flag both for how often to drop and for how much (0.75 drops in a quarter of the
steps), works for one sample only, and pads the rows back to full length; here chance and share are two fields, each
row draws for itself, and rows really get shorter. Positions are not renumbered, as in the source.
Shapes: B rows, L tokens in a row (text and image), K tokens in the longest kept row, D width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from vistruct.config import Part
from vistruct.ops.seeds import derive


class Vrl(Part):
    """How often rows lose visual tokens, and how many of them."""

    drop_prob: float = Field(1.0, ge=0, le=1)  # chance that a row is dropped from at all
    drop_ratio: float = Field(0.75, ge=0, lt=1)  # share of the row's image tokens that go; whole tokens, rounded down


OFF = Vrl(drop_prob=0.0, drop_ratio=0.0)
PRESETS = {
    "off": OFF,
    "paper": Vrl(drop_prob=1.0, drop_ratio=0.75),  # every row keeps a quarter
    "published-code": Vrl(drop_prob=0.25, drop_ratio=0.75),  # what the released scripts really did
}


def keep_mask(is_image: Tensor, vrl: Vrl, seeds: Tensor) -> Tensor:
    """Choose the tokens that stay: all text, and a random part of each row's image tokens.

    Args:
        is_image: bool[B, L], true at image tokens.
        vrl: how often and how much.
        seeds: int64[B], one for each row, so that a row's choice does not depend on its batch.

    Returns:
        bool[B, L], true at the tokens to keep.
    """
    keep = torch.ones_like(is_image)
    if vrl.drop_prob == 0.0 or vrl.drop_ratio == 0.0:
        return keep
    for row, seed in enumerate(seeds.tolist()):  # the generator stays on the CPU: the same choice on every device
        generator = torch.Generator().manual_seed(derive(seed, "vrl"))
        if torch.rand((), generator=generator) >= vrl.drop_prob:
            continue
        image = is_image[row].nonzero().squeeze(1)  # [n]
        num_drop = int(len(image) * vrl.drop_ratio)
        chosen = torch.randperm(len(image), generator=generator)[:num_drop].to(image.device)
        keep[row, image[chosen]] = False
    return keep


def shorten(keep: Tensor, *rows: Tensor, fill: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Gather the kept tokens of each row to the left, in order, and cut all rows to the longest.

    Args:
        keep: bool[B, L].
        rows: tensors [B, L, ...].
        fill: for each tensor, the value in the places behind a row's last kept token.

    Returns:
        the tensors as [B, K, ...].
    """
    num_kept = keep.sum(dim=1)  # [B]
    longest = int(num_kept.max())
    order = torch.argsort(~keep, dim=1, stable=True)[:, :longest]  # kept first, order unchanged
    empty = torch.arange(longest, device=keep.device)[None] >= num_kept[:, None]  # [B, K]
    out = []
    for tensor, value in zip(rows, fill, strict=True):
        index = order.view(*order.shape, *[1] * (tensor.dim() - 2)).expand(-1, -1, *tensor.shape[2:])
        hole = empty.view(*empty.shape, *[1] * (tensor.dim() - 2))
        out.append(tensor.gather(1, index).masked_fill(hole, value))
    return tuple(out)
