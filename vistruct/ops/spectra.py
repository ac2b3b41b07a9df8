"""Images as frequencies: which lie inside of a circle, images without some of them, and how far two spectra are apart.

Source: MFM (arXiv:2206.07706) and its public code: a circle about the centre of the spectrum of 16 pixels for images of
    224, inside or outside of which is kept; the distance is the root of a squared difference of orthonormal spectra,
    1e-12 added. Weights by difficulty: focal frequency loss (arXiv:2012.12821), as remembered.
Differs: the circle is in cycles a pixel, so that it means the same for images of any size and aspect.
Shapes: B images of H x W pixels and C channels; spectra with the mean first, as torch.fft has them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_slow(size_hw: tuple[int, int], radius: float) -> Tensor:
    """bool[H, W], true at frequencies of at most `radius` cycles a pixel; the mean always is."""
    down, across = (torch.fft.fftfreq(side, dtype=torch.float64) for side in size_hw)
    return down[:, None].square() + across.square() <= radius**2 * (1 + 1e-9)


def without_frequencies(images: Tensor, is_removed: Tensor) -> Tensor:
    """float[B, C, H, W] without the frequencies bool[B, H, W]; those of a frequency and its mirror go together."""
    return torch.fft.ifft2(torch.fft.fft2(images).masked_fill(is_removed[:, None], 0)).real


def with_frequencies(images: Tensor, others: Tensor, is_removed: Tensor) -> Tensor:
    """float[B, C, H, W] with the frequencies bool[B, H, W] of other images in place of their own."""
    spectrum = torch.where(is_removed[:, None], torch.fft.fft2(others), torch.fft.fft2(images))
    return torch.fft.ifft2(spectrum).real


def spectral_distance(told: Tensor, truth: Tensor, is_counted: Tensor, power: int = 1, focal: float = 0.0) -> Tensor:
    """float[B], of each image the mean over the frequencies that count and the channels; 0 where none counts.

    Args:
        told: float[B, C, H, W], like `truth`.
        is_counted: bool[B, H, W].
        power: 1, of the distance; or 2.
        focal: each is weighted by its distance to this power, as a share of the largest of its channel; 0: alike.
    """
    off = torch.fft.fft2(told - truth, norm="ortho")
    squared, counts = off.real.square() + off.imag.square(), is_counted[:, None]  # [B, C, H, W]
    distance = squared if power == 2 else (squared + 1e-12).sqrt()
    if focal:
        weights = squared.detach().sqrt().pow(focal) * counts
        distance = distance * weights / weights.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo().tiny)
    number = is_counted.sum(dim=(1, 2)).clamp(min=1)
    return (distance * counts).sum(dim=(1, 2, 3)) / number / told.shape[1]
