"""What it costs to take one for another: a right answer among wrong ones, each a number.

Source: InfoNCE (arXiv:1807.03748), which is CLIP's loss in one direction; SigLIP (arXiv:2303.15343), its sigmoid loss.
Differs: wrong ones come from elsewhere than the batch, so that the sums of two batches are that of both.
Shapes: N questions, one right answer of each, M wrong ones of all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_loss(right: Tensor, wrong: Tensor, is_none: Tensor) -> Tensor:
    """float[], cross-entropy of the right answers, summed over the questions.

    Args:
        right: float[N], logits.
        wrong: float[N, M], logits.
        is_none: bool[N, M], which are no wrong answers of a question; if none is left its loss is 0.
    """
    logits = torch.cat([right[:, None], wrong.masked_fill(is_none, -torch.inf)], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64), reduction="sum")


def sigmoid_loss(right: Tensor, wrong: Tensor, is_none: Tensor) -> Tensor:
    """float[], the cross-entropy of each pair by itself, summed over all pairs; as `softmax_loss`."""
    return -F.logsigmoid(right).sum() - F.logsigmoid(-wrong).masked_fill(is_none, 0.0).sum()


def are_first(right: Tensor, wrong: Tensor, is_none: Tensor) -> Tensor:
    """bool[N], whether the right answer is above all wrong ones; as `softmax_loss`."""
    return right.detach() > wrong.detach().masked_fill(is_none, -torch.inf).amax(dim=1)
