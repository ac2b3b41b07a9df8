"""Classes told by their names: the score of a class is how well what is seen agrees with a vector of its name.

Nothing in it knows which classes there are: other names are other classes, and data sets with different classes
share it.

Source: GLIP, arXiv:2112.03857, and its public code: v . W(t / 2) / exp(a) + t . u + b, of a place v and a word t of
    length 1, within 50,000 of zero.
Differs: a class is one vector of its whole name, where GLIP takes the mean over the tokens of a phrase.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BOUND = 50_000.0


class ByName(nn.Module):
    """Features float[B, D, H, W] and names float[K, E], of length 1 -> logits float[B, H * W, K].

    Args:
        prior: score of every class at every place before training, nearly.
    """

    def __init__(self, width: int, name_width: int, prior: float) -> None:
        super().__init__()
        self.project = nn.Linear(name_width, width)  # W
        self.log_scale = nn.Parameter(torch.zeros(()))  # a
        self.of_name = nn.Parameter(torch.zeros(name_width))  # u
        self.bias = nn.Parameter(torch.tensor(-math.log((1 - prior) / prior)))  # b

    def forward(self, features: Tensor, names: Tensor) -> Tensor:
        words = self.project(names / 2) / self.log_scale.exp()  # [K, D]
        said = features.flatten(2).transpose(1, 2) @ words.T  # [B, H * W, K]
        return (said + (names @ self.of_name + self.bias)).clamp(-BOUND, BOUND)
