"""Distances between oriented boxes seen as Gaussians: they have a gradient where two boxes do not even touch.

A box is a Gaussian with its mean at the centre and, along its sides, standard deviations in proportion to them.
Neither turning a box by pi nor swapping its sides while turning it by pi/2 changes that Gaussian, so none of these
losses jumps at the seam of the angle.

Source: GWD, Yang et al., arXiv:2101.11952, equations 4 and 5; KLD, Yang et al., arXiv:2106.01883, equations 4 to 9;
    ProbIoU, Llerena et al., arXiv:2106.06072, equations 4 to 8.
Differs:
    - the traces and determinants of the 2 x 2 matrices are closed formulas in the frame of one box, in float64:
      no matrix root, no inverse, no cancellation between a needle and itself;
    - the Wasserstein distance is divided by the geometric mean of the two areas, so that the loss of a pair does not
      depend on the size of a pixel (the paper's does);
    - sides count as at least `LEAST_SIDE`, so that a box without an area has a finite distance.
Two round Gaussians are equal however their squares are turned: these losses cannot teach the angle of a square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 1e-3  # pixels
SHARP = 1e-7  # keeps the slope of ProbIoU's square root finite where two boxes are equal


def gwd_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - 1 / (1 + log(1 + W2^2 / sqrt(area_a area_b))), from the Gaussian Wasserstein distance W2.

    Args:
        a: float[N, 5], cxcywha, pixels and radians; any order of the sides and any angle.
        b: float[N, 5], likewise.

    Returns:
        float[N] in [0, 1), in the type of `a`; 0 for equal boxes.

    Raises:
        ValueError: shapes that are not [N, 5] twice.
    """
    pair = _Pair.of(a, b)
    scale = (pair.side_a.prod(dim=1) * pair.side_b.prod(dim=1)).sqrt()  # px^2
    return _bounded(_wasserstein(pair) / scale).to(a.dtype)


def kld_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - 1 / (1 + log(1 + KL(a || b))), with `a` the prediction and `b` the truth.

    Arguments, results and errors are those of `gwd_loss`; the divergence is not symmetric.
    """
    return _bounded(kl_divergence(a.double(), b.double())).to(a.dtype)


def probiou_loss(a: Tensor, b: Tensor) -> Tensor:
    """The Hellinger distance sqrt(1 - exp(-B)), from the Bhattacharyya distance B.

    Arguments, results and errors are those of `gwd_loss`; boxes far apart have 1, and hardly a gradient.
    """
    share = -torch.expm1(-bhattacharyya_distance(a.double(), b.double()))  # 1 - exp(-B)
    return ((share + SHARP).sqrt() - SHARP**0.5).to(a.dtype)


def wasserstein_squared(a: Tensor, b: Tensor) -> Tensor:
    """float[N], px^2: the squared 2-Wasserstein distance of the pairs' Gaussians, with deviations w/2 and h/2."""
    return _wasserstein(_Pair.of(a, b)).clamp(min=0).to(a.dtype)


def kl_divergence(a: Tensor, b: Tensor) -> Tensor:
    """float[N] >= 0: KL(a || b) of the pairs' Gaussians; the same for every scale of the deviations but the centre's.

    With deviations w/2 and h/2, as for the Wasserstein distance.
    """
    pair = _Pair.of(a, b)
    own, other = (pair.side_a / 2).square(), (pair.side_b / 2).square()  # variances along each box's own sides, px^2
    centre = (pair.offset.square() / other).sum(dim=1)
    ratio = own[:, :, None] / other[:, None, :]  # [N, 2 of a, 2 of b]
    trace = (ratio * pair.overlap).sum(dim=(1, 2))
    logs = 2 * (pair.side_b.log() - pair.side_a.log()).sum(dim=1)
    return (0.5 * (centre + trace + logs) - 1).clamp(min=0).to(a.dtype)


def bhattacharyya_distance(a: Tensor, b: Tensor) -> Tensor:
    """float[N] >= 0: of the pairs' Gaussians with the variances of the boxes themselves, w^2/12 and h^2/12."""
    pair = _Pair.of(a, b)
    own, other = pair.side_a.square() / 12, pair.side_b.square() / 12  # variances along each box's own sides, px^2
    # The mean of both matrices in b's frame: [[p, r], [r, q]].
    turned = (own[:, :, None] * pair.overlap).sum(dim=1)  # [N, 2], the diagonal of a's matrix there
    p, q = ((turned + other) / 2).unbind(dim=1)
    r = (own[:, 0] - own[:, 1]) * pair.cos * pair.sin / 2
    # det((A + B) / 2) as a sum of positive terms: p q - r^2 cancels to nothing for two parallel needles.
    mixed = (own[:, :, None] * other.flip(1)[:, None, :] * pair.overlap).sum(dim=(1, 2))
    det = (own.prod(dim=1) + other.prod(dim=1) + mixed) / 4
    x, y = pair.offset.unbind(dim=1)
    centre = (q * x.square() - 2 * r * x * y + p * y.square()) / det
    logs = det.log() - (own.log() + other.log()).sum(dim=1) / 2
    return (centre / 8 + logs / 2).clamp(min=0).to(a.dtype)


LOSSES = {"gwd": gwd_loss, "kld": kld_loss, "probiou": probiou_loss}  # by the name that a run gives them


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """N pairs of boxes, float64, in the frame of the second one."""

    side_a: Tensor  # float[N, 2], pixels
    side_b: Tensor  # float[N, 2]
    offset: Tensor  # float[N, 2], from b's centre to a's along b's sides, pixels
    cos: Tensor  # float[N], of the angle from b to a
    sin: Tensor
    overlap: Tensor  # float[N, 2, 2], squared cosine between side i of a and side j of b

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> _Pair:
        if a.shape != b.shape or a.dim() != 2 or a.shape[1] != 5:
            raise ValueError(f"pairs of boxes are float[N, 5] twice, got {list(a.shape)} and {list(b.shape)}")
        a, b = a.double(), b.double()
        x, y = (a[:, :2] - b[:, :2]).unbind(dim=1)
        cos_b, sin_b = b[:, 4].cos(), b[:, 4].sin()
        cos, sin = (a[:, 4] - b[:, 4]).cos(), (a[:, 4] - b[:, 4]).sin()
        c2, s2 = cos.square(), sin.square()
        return cls(
            side_a=a[:, 2:4].clamp(min=LEAST_SIDE),
            side_b=b[:, 2:4].clamp(min=LEAST_SIDE),
            offset=torch.stack([cos_b * x + sin_b * y, cos_b * y - sin_b * x], dim=1),
            cos=cos,
            sin=sin,
            overlap=torch.stack([torch.stack([c2, s2], dim=1), torch.stack([s2, c2], dim=1)], dim=1),
        )


def _wasserstein(pair: _Pair) -> Tensor:
    own, other = (pair.side_a / 2).square(), (pair.side_b / 2).square()  # px^2
    product = (own[:, :, None] * other[:, None, :] * pair.overlap).sum(dim=(1, 2))  # trace of the matrices' product
    root = (product + 2 * (own.prod(dim=1) * other.prod(dim=1)).sqrt()).sqrt()  # trace of the root of it
    return pair.offset.square().sum(dim=1) + own.sum(dim=1) + other.sum(dim=1) - 2 * root


def _bounded(distance: Tensor) -> Tensor:
    """From [0, infinity) to [0, 1), steep at 0."""
    return 1 - 1 / (1 + distance.clamp(min=0).log1p())
