"""The exponential moving average (EMA) of a run's weights, which is measured and shipped in place of the last ones.

Source: averaging of iterates, Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); the update is torch's
    `optim.swa_utils.get_ema_multi_avg_fn`; the decay grows as in TensorFlow's `ExponentialMovingAverage(num_updates)`.
Differs: only what trains is kept twice, and running statistics of batch norms: of `AveragedModel`'s copy of everything
    a frozen backbone is the largest part. What lies spread over ranks is averaged where it lies.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vistruct.distributed.shard import local


def decay_at(step: int, decay: float) -> float:
    """What the average keeps of itself at the update after step `step`, counted from 1.

    The least of `decay` and (1 + step) / (10 + step): after few steps the average is still one of the last steps, and
    not of the weights that the run began with.
    """
    return min(decay, (1 + step) / (10 + step))


@dataclass
class Averaged:
    """Averages of a model's tensors, on the devices and in the pieces in which they lie."""

    decay: float
    model: dict[str, Tensor]  # those of the model, by name
    tensors: dict[str, Tensor]  # their averages

    @classmethod
    def of(cls, model: nn.Module, decay: float) -> Averaged:
        """Begin with the weights as they are; to be made after the model has been spread over ranks."""
        own = {name: p for name, p in model.named_parameters() if p.requires_grad} | running_statistics(model)
        return cls(decay=decay, model=own, tensors={name: tensor.detach().clone() for name, tensor in own.items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        move = get_ema_multi_avg_fn(decay_at(step, self.decay))
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in self.tensors.items():
            ours, theirs = groups.setdefault(tensor.dtype, ([], []))
            ours.append(local(tensor))
            theirs.append(local(self.model[name]).detach())
        for ours, theirs in groups.values():
            move(ours, theirs, step)

    @torch.no_grad()
    def settle(self) -> None:
        """Make the averages the model's weights, for good."""
        for name, tensor in self.tensors.items():
            local(self.model[name]).copy_(local(tensor))

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the averages into the model, and its weights where the averages were; twice is as before, to the bit."""
        for name, tensor in self.tensors.items():
            own, average = local(self.model[name]), local(tensor)
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)


def ema_in_words(decay: float) -> str:
    """What is shipped, for logs and cards."""
    return f"an exponential moving average (EMA) of the weights over the steps, decay {decay:g} after its warm-up"


def averages(average: Averaged | None) -> dict[str, Tensor]:
    """Those that a checkpoint keeps, by name; none where nothing is averaged."""
    return {} if average is None else average.tensors


@contextmanager
def in_place(average: Averaged | None) -> Generator[None]:
    """Inside, the model has the averages as its weights; to measure and to ship, never to train."""
    if average is None:
        yield
        return
    average.exchange()
    try:
        yield
    finally:
        average.exchange()


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Means and variances that batch norms keep of what went through them, by name."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return {
        f"{name}.{key}": buffer
        for name, module in norms
        for key, buffer in module.named_buffers(recurse=False)
        if module.training and buffer.is_floating_point()
    }
