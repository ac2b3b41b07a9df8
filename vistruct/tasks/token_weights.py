"""Weights of answer tokens: what the text alone already tells counts less.

Source: PRIOR (arXiv:2505.08971): a token's loss counts the more, the less likely a text-only language model finds it.
Differs: the weight is (1 - p)^gamma (the published one could not be read here); the text-only model is the language
    model itself with all visual tokens hidden, no other one trained on the answers; weights are divided by the mean of
    those of earlier steps and not of the batch, so that the loss stays a sum over tokens that any split gives alike.
Shapes: M supervised tokens.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.distributed.ranks import all_reduce_sum

LEAST_MEAN = 0.05  # that weights are divided by: none is ever above 20


class TokenWeights(Part):
    """How fast a token's weight falls with its likelihood in the text alone."""

    gamma: float = Field(1.0, ge=0)  # 0: all tokens count alike
    rate: float = Field(0.1, gt=0, le=1)  # that the mean weight follows the steps with

    def build(self) -> TokenWeighing:
        return TokenWeighing(self)


class TokenWeighing(nn.Module):
    """float32[M] likelihoods -> float32[M] weights whose mean is about 1, by the steps before."""

    summed: Tensor  # float32[2], sum of the weights of earlier steps and their number, both fading

    def __init__(self, config: TokenWeights) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("summed", torch.zeros(2))
        self._step: list[Tensor] = []  # of each micro-batch of this step, float32[2]

    def before_step(self) -> None:
        """Forget what a step that was broken off has left."""
        self._step = []

    @torch.no_grad()
    def after_step(self) -> None:
        """The mean moves by what the step's tokens weighed, on all ranks."""
        own = torch.stack(self._step).sum(dim=0) if self._step else torch.zeros_like(self.summed)
        total = all_reduce_sum(own)
        if total[1] > 0:
            self.summed.mul_(1 - self.config.rate).add_(self.config.rate * total)
        self._step = []

    @torch.no_grad()
    def forward(self, likelihood: Tensor) -> Tensor:
        """In training the weights are noted for the mean; before the first step they are divided by 1."""
        weights = prior_weights(likelihood, self.config.gamma)
        if self.training:
            self._step.append(torch.stack([weights.sum(), torch.full_like(weights[:1].sum(), len(weights))]))
        total, number = self.summed.unbind()
        mean = torch.where(number > 0, total / number, 1.0)
        return weights / mean.clamp(min=LEAST_MEAN)


def prior_weights(likelihood: Tensor, gamma: float) -> Tensor:
    """float32[M] in [0, 1] from likelihoods float[M]: (1 - p)^gamma."""
    return (1 - likelihood.float()).clamp(min=0) ** gamma
