"""Pixels of 8 bits, 16 bits and floats as parts of their full scale, and back.

What is 1 in uint8 (255), in uint16 (65535) and in float32 (1) is the same brightness, so that mean, standard deviation
and every change of colour are said once, for values from 0 to 1. Torch knows few operations on uint16: images are
stored, moved, cut and put together in it, and computed with as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vistruct.errors import UserError

FULL_SCALE: dict[torch.dtype, float] = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}


def full_scale(dtype: torch.dtype) -> float:
    """The value that is 1.

    Raises:
        UserError: images are of no such type.
    """
    if dtype not in FULL_SCALE:
        raise UserError(f"pixels of type {dtype}", where="image", fix="give uint8, uint16 or float32")
    return FULL_SCALE[dtype]


def to_unit(image: Tensor) -> Tensor:
    """float32 of the same shape, from 0 to 1.

    Raises:
        UserError: floats beyond that: values in a unit of their own have no black and no white.
    """
    scale = full_scale(image.dtype)
    if scale != 1:
        return image.float() / scale
    if image.numel() and not 0 <= float(image.min()) <= float(image.max()) <= 1:
        what = f"values from {float(image.min()):.5g} to {float(image.max()):.5g}, and a change of colour is for 0 to 1"
        raise UserError(what, where="image", fix="say a range: --low and --high")
    return image


def from_unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 from 0 to 1 as an image of `dtype`, rounded; what lies beyond is clipped."""
    return stored((values * full_scale(dtype)).clamp(0, full_scale(dtype)), dtype)


def stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 on the scale of `dtype` and within it, rounded where those are whole numbers."""
    return values if dtype == torch.float32 else values.round().to(dtype)


def moved(image: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Pixels in another order; of uint16 by its bits, because torch 2.9 cannot flip it."""
    return move(image.view(torch.int16)).view(image.dtype) if image.dtype == torch.uint16 else move(image)


def flipped(image: Tensor, axes: Sequence[int]) -> Tensor:
    """Pixels of any type mirrored along these axes."""
    return moved(image, lambda bits: bits.flip(tuple(axes)))


def as_numbers(values: Sequence[int | Tensor], like: Tensor) -> Tensor:
    """[N] of `like`'s type and device; of sizes too that are tensors, because a network is being traced for ONNX."""
    return torch.stack([like.new_zeros(()) + one for one in values])
