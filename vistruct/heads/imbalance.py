"""What a loss is told about classes of which there are few (class imbalance): weights, and the focal factor.

Source: inverse frequency as scikit-learn's `class_weight="balanced"` counts it, King and Zeng, Political Analysis 9
    (2001); of several classes an image, torch's `pos_weight`. Focal: Lin et al., arXiv:1708.02002, of a softmax here
    and of sigmoids torchvision's `sigmoid_focal_loss`.
Differs: focal losses are sums over units that were counted before, and not divided by the positives of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vistruct.contracts import IGNORED
from vistruct.errors import UserError, closest

# One a class in their order, or by name (1 for those not named); balanced: by what the training data have of each.
ClassWeights = tuple[float, ...] | dict[str, float] | Literal["balanced"]


def inverse_frequency(counts: Sequence[int]) -> tuple[float, ...]:
    """total / (K x count) of each class, K being those that occur: all together count as much as unweighted.

    A class that does not occur has 1, which no sample of the training data sees.
    """
    there = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (there * count) if count else 1.0 for count in counts)


def positive_weights(counts: Sequence[int], total: int) -> tuple[float, ...]:
    """Samples without a class to those with it: what a positive counts where each class is told by itself."""
    return tuple((total - count) / count if 0 < count < total else 1.0 for count in counts)


def numbers_of(
    asked: ClassWeights | None, names: Sequence[str], counts: Sequence[int] | None, where: str
) -> tuple[float, ...] | None:
    """Weights as numbers, one a class in their order; None: all alike.

    Args:
        counts: of each class in the training data; None: they were not counted.

    Raises:
        UserError: other classes than there are, numbers below 0; balanced, and nothing was counted.
    """
    if asked is None:
        return None
    if asked == "balanced":
        if counts is None:
            fix = "give weights by class: --class-weights tree=5,ground=1"
            raise UserError("what these data have of each class was not counted", where=where, fix=fix)
        return inverse_frequency(counts)
    if isinstance(asked, dict):
        unknown = [name for name in asked if name not in names]
        if unknown:
            what = f"a weight for {unknown[0]!r}, which is no class"
            raise UserError(what, where=where, fix=closest(unknown[0], names))
        asked = tuple(asked.get(name, 1.0) for name in names)
    if len(asked) != len(names):
        what = f"{len(asked)} weights for {len(names)} classes"
        raise UserError(what, where=where, fix="one for each class, in their order")
    if any(not 0 <= weight < float("inf") for weight in asked):
        raise UserError(f"class weights {list(asked)}", where=where, fix="weights are at least 0")
    return asked


def weights_in_words(weights: Sequence[float], names: Sequence[str], asked: ClassWeights | None, of: str) -> str:
    """One line for the log.

    Args:
        of: what was counted.
    """
    told = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(names, weights, strict=True))
    how = f" (balanced: inverse frequency of the training {of})" if asked == "balanced" else ""
    return f"class weights{how}: {told}"


def focal_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, smoothing: float = 0.0, gamma: float = 0.0
) -> Tensor:
    """Cross-entropy times (1 - probability of the true class) ** gamma.

    Args:
        logits: float[B, K, ...].
        labels: int64[B, ...], from 0 to K - 1, or IGNORED.
        weights: float[K].

    Returns:
        float[B, ...], 0 where ignored.
    """
    losses = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
    if not gamma:
        return losses
    right = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").neg().exp()
    return losses * (1 - right).clamp(min=1e-6) ** gamma  # at 0 a power below 1 has no slope
