"""Rotated RoIAlign: the features inside each oriented box, on a small grid that is turned with it.

Source: Ding et al., RoI Transformer, arXiv:1812.00155, and He et al., Mask R-CNN, arXiv:1703.06870 (RoIAlign); the
    rules about borders, rounding and conventions are those of mmcv's operator, so that its models keep their numbers.
Differs: no compiled code. Every bin is a weighted sum of feature vectors ("taps", four for each bilinear sample), which
    is what `embedding_bag` computes, forward and backward, without ever holding the vectors it sums.
Shapes: K boxes, C channels, h x w bins of a box, T samples over all bins of all boxes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_MAX_SAMPLES = 500_000  # of one pass: their taps take about 0.1 GB


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    *,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
    clockwise: bool = True,
) -> Tensor:
    """Average of bilinear samples in every bin of every oriented box.

    A sample further than one cell outside of the map counts as 0; closer ones take the value at the border. There is
    a gradient for the features and none for the boxes.

    Args:
        features: float[B, C, H, W]; fastest in channels-last memory.
        rois: float[K, 6]: batch index, cx, cy, w, h in pixels of the image, angle in radians.
        output_size: bins (h, w).
        spatial_scale: cells of the map to a pixel of the image, 1 / stride.
        sampling_ratio: samples along each side of a bin; 0: one a cell, rounded up, so that large boxes cost more.
        aligned: pixel centres lie at half coordinates; False: at whole ones, and boxes are at least one cell wide.
        clockwise: a positive angle turns +x towards +y (clockwise on screen, as all boxes here); False: the other way.

    Returns:
        float[K, C, h, w] in the features' dtype; computed in at least float32. 0 for a box without area under
        adaptive sampling, and for one with NaN in it.

    Raises:
        ValueError: shapes or a sampling ratio that make no sense; a batch index that does not exist (on the CPU).
    """
    if features.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 6:
        raise ValueError(f"want features [B, C, H, W] and rois [K, 6], got {[*features.shape]} and {[*rois.shape]}")
    if sampling_ratio < 0 or min(output_size) < 1:
        raise ValueError(f"sampling_ratio={sampling_ratio} is negative, or output_size={output_size} has no bins")
    batch, channels, height, width = features.shape
    if len(rois) and rois.device.type == "cpu" and not 0 <= rois[:, 0].min() <= rois[:, 0].max() < batch:
        raise ValueError(f"batch indices {rois[:, 0].min():g} to {rois[:, 0].max():g} for {batch} images")
    dtype = torch.promote_types(features.dtype, torch.float32)
    if features.numel() == 0 or len(rois) == 0:
        empty = features.new_zeros(len(rois), channels, *output_size)
        return empty + 0 * features.sum()  # still a part of the graph
    table = features.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels).contiguous()  # [B * H * W, C]

    with torch.no_grad():
        boxes = rois[:, 1:].to(dtype)
        centres = boxes[:, :2] * spatial_scale - (0.5 if aligned else 0.0)  # cells
        sides = boxes[:, 2:4] * spatial_scale
        if not aligned:
            sides = sides.clamp(min=1.0)
        angles = boxes[:, 4] if clockwise else -boxes[:, 4]
        bins_hw = sides.new_tensor(output_size)
        if sampling_ratio:
            samples_hw = torch.full_like(sides, sampling_ratio, dtype=torch.int64)  # [K, 2], of one bin
            most = sampling_ratio**2
        else:
            samples_hw = (sides.flip(1) / bins_hw).ceil().nan_to_num(0.0, 0.0, 0.0).clamp(min=0).long()
            most = int(samples_hw.prod(dim=1).amax())
        geometry = torch.cat([centres, sides, angles[:, None], rois[:, :1].to(dtype)], dim=1)  # [K, 6]

    step = max(1, _MAX_SAMPLES // max(1, most * output_size[0] * output_size[1]))
    passes = list(zip(geometry.split(step), samples_hw.split(step), strict=True))
    if len(passes) > 1 and sampling_ratio == 0 and torch.is_grad_enabled() and table.requires_grad:
        # Adaptive samples are many: find them again in the backward pass instead of keeping them.
        pooled = [
            checkpoint(_pool, table, *part, output_size, (height, width), use_reentrant=False, preserve_rng_state=False)
            for part in passes
        ]
    else:
        pooled = [_pool(table, *part, output_size, (height, width)) for part in passes]
    out = torch.cat(pooled).view(len(rois), *output_size, channels)
    return out.permute(0, 3, 1, 2).contiguous().to(features.dtype)


def _pool(
    table: Tensor, geometry: Tensor, samples_hw: Tensor, output_size: tuple[int, int], size_hw: tuple[int, int]
) -> Tensor:
    """float[B * H * W, C] -> float[K * h * w, C]."""
    with torch.no_grad():
        taps, weights, starts = _taps(geometry, samples_hw, output_size, size_hw)
    return F.embedding_bag(taps, table, starts, mode="sum", per_sample_weights=weights)


def _taps(
    geometry: Tensor, samples_hw: Tensor, output_size: tuple[int, int], size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows of the table each bin sums, and with which weights.

    Returns:
        int64[4 T] rows, float[4 T] weights, int64[K * h * w] where each bin's begin among them.
    """
    (bins_h, bins_w), (height, width) = output_size, size_hw
    num, device = len(geometry), geometry.device
    bins = bins_h * bins_w
    per_bin = samples_hw.prod(dim=1)  # [K]
    counts = per_bin.repeat_interleave(bins)  # [K * h * w]
    ends = counts.cumsum(0)
    total = int(ends[-1])
    bag = torch.arange(num * bins, device=device).repeat_interleave(counts, output_size=total)  # [T]
    within = torch.arange(total, device=device) - (ends - counts)[bag]  # [T], number of the sample in its bin
    roi, cell = bag // bins, bag % bins
    samples_h, samples_w = samples_hw[roi].unbind(1)

    centre_x, centre_y, side_w, side_h, angle, image = geometry.unbind(1)
    # Place of the sample along each side of its box, from -1/2 to 1/2. Whole numbers alone would become float32.
    row, column = (within // samples_w).to(geometry.dtype), (within % samples_w).to(geometry.dtype)
    v = (cell // bins_w + (row + 0.5) / samples_h) / bins_h - 0.5
    u = (cell % bins_w + (column + 0.5) / samples_w) / bins_w - 0.5
    along, across = u * side_w[roi], v * side_h[roi]  # cells
    cos, sin = angle.cos()[roi], angle.sin()[roi]
    x = centre_x[roi] + along * cos - across * sin
    y = centre_y[roi] + along * sin + across * cos

    is_inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)  # NaN is outside
    x_low, x_high, x_part = _neighbours(torch.where(is_inside, x, 0.0), width)
    y_low, y_high, y_part = _neighbours(torch.where(is_inside, y, 0.0), height)
    first = image.long()[roi] * (height * width)
    upper, lower = first + y_low * width, first + y_high * width
    taps = torch.stack([upper + x_low, upper + x_high, lower + x_low, lower + x_high], dim=1)  # [T, 4]
    share = is_inside.to(geometry.dtype) / per_bin[roi]  # of one sample in the mean of its bin
    top, bottom = (1 - y_part) * share, y_part * share
    weights = torch.stack([top * (1 - x_part), top * x_part, bottom * (1 - x_part), bottom * x_part], dim=1)
    return taps.flatten(), weights.flatten(), 4 * (ends - counts)


def _neighbours(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells before and after each place, and how far it is from the first to the second, in [0, 1)."""
    at = at.clamp(0, size - 1)
    low = at.long()
    return low, (low + 1).clamp(max=size - 1), at - low
