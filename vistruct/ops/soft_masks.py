"""Masks that are shares of each pixel, or depths, at another size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def resized_soft(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear and not antialiased, so that edges stay as narrow where masks shrink.

    Args:
        masks: float[N, H, W]; NaN where nothing is known.

    Returns:
        float[N, h, w]; the mean of what is known of the four pixels around each place, NaN where that is none of them.
    """
    known = masks.isfinite()
    if known.all():
        return _bilinear(masks, size_hw)
    weights = _bilinear(known.to(masks.dtype), size_hw)
    values = _bilinear(masks.where(known, 0), size_hw)
    return (values / weights).masked_fill(weights <= 0, float("nan"))


def _bilinear(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == size_hw or not len(masks):
        return masks.new_zeros(0, *size_hw) if not len(masks) else masks
    return functional.interpolate(masks[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]
