"""How much each token of an answer counts, so that long answers do not drown short ones.

A map of 36 cells and its end mark are 37 tokens, a yes and its end mark two: in a mean over tokens a step listens to
the map, and a question of one word is hardly learned.

Source: InternVL 2.5 (arXiv:2412.05271), loss reweighting: token averaging, sample averaging, and square averaging
    between them; `token`, `sample` and `square` of `--loss_reduction` in the public code.
Differs: the length is that of one answer and not of all answers of a conversation, which is the same for questions that
    are asked each for itself.
Shapes: N tokens of rows end to end.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vistruct.vlm.chat import IGNORE

LossReduction = Literal["token", "square", "sample"]
POWERS: dict[LossReduction, float] = {"token": 0.0, "square": 0.5, "sample": 1.0}


def token_weights(labels: Tensor, reduction: LossReduction) -> Tensor:
    """What the loss at each token counts, by the length of its answer.

    Args:
        labels: int64[N], `chat.IGNORE` between answers.
        reduction: of an answer of n tokens each counts 1 (token), 1 / sqrt(n) (square) or 1 / n (sample).

    Returns:
        float64[N]; 0 at tokens of no answer.
    """
    is_taught = labels != IGNORE
    begins = is_taught.clone()
    begins[1:] &= ~is_taught[:-1]
    answer = begins.cumsum(0)  # 0 before the first one
    lengths = torch.bincount(answer[is_taught], minlength=int(answer.max() if len(answer) else 0) + 1)
    weights = lengths[answer].clamp(min=1).double() ** -POWERS[reduction]
    return weights.where(is_taught, 0.0)
