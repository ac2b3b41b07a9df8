"""What plain ViTs share where they give their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vistruct.contracts import Tokens
from vistruct.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Entered:
    """What goes into the first block."""

    tokens: Tensor  # float[B, N, D], with absolute positions; class token and registers first
    num_first: int = 0  # of those
    # Sines and cosines that Eva's blocks turn queries and keys of patches by: float[L, d]; of chosen patches
    # float[B, 1, K, d]; where each block has its own, one more dimension of blocks before, and heads before L.
    rotary: Tensor | None = None


def split(
    x: Tensor, before_norm: Tensor, *, has_class: bool, num_registers: int, grid_hw: tuple[int, int] | None
) -> Tokens:
    """Name the tokens of float[B, N, D]: class token, registers and patches, in this order."""
    first = int(has_class) + num_registers
    return Tokens(
        patches=x[:, first:],
        class_token=x[:, 0] if has_class else None,
        registers=x[:, int(has_class) : first] if num_registers else None,
        before_norm=before_norm,
        grid_hw=grid_hw,
    )


def blocks_named(which: Sequence[int], num_blocks: int) -> list[int]:
    """Numbers of blocks from 0, whether they were counted from the first or from the last.

    Raises:
        UserError: a block that is not there.
    """
    beyond = [i for i in which if not -num_blocks <= i < num_blocks]
    if beyond:
        fix = f"they count from 0 to {num_blocks - 1}, or from the last with -1"
        raise UserError(f"no block {beyond[0]} among {num_blocks}", where="layers", fix=fix)
    return [i % num_blocks for i in which]


def patches_of(image: Tensor, patch: int) -> tuple[int, int]:
    """Patches down and across an image float[..., H, W].

    Raises:
        UserError: it is not a whole number of patches.
    """
    h, w = image.shape[-2:]
    if h % patch or w % patch:
        what = f"image of {h} x {w} pixels is not a whole number of {patch}-pixel patches"
        raise UserError(what, fix=f"pad or resize to a multiple of {patch}")
    return h // patch, w // patch
