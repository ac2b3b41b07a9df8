"""Convolution, norm and ReLU, the brick of the segmentation decoders, with three norms to choose from.

batch   As published. In training on several devices the mean and variance are those of all devices' pixels together,
        and the gradient goes back through them to all of them: the same numbers as one device with all the images.
        Micro-batches of one device stay apart, each with its own statistics: with this norm alone, splitting a batch
        over micro-batches is not the same training.
        The devices wait for each other in every norm, so all must make equally many forward passes in a step.
group   Groups of channels of one image by themselves: nothing depends on who else is in the batch.
layer   All channels of one pixel by themselves, as in the ViT adapter.

Source: torch's SyncBatchNorm, which exists on accelerators alone; on CPUs its formula is written out here.
Shapes: B images, C channels, n values of a channel over all images, pixels and devices.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from vistruct.distributed.ranks import all_reduce_sum, world_size
from vistruct.errors import UserError

NormKind = Literal["batch", "group", "layer"]


class BatchNorm(nn.SyncBatchNorm):
    """float[B, C, ...] -> the same shape; its tensors have the names of torch's BatchNorm2d.

    Raises:
        UserError: in training, a single value of a channel: its own mean, which leaves nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        ranks = world_size() if self.training else 1
        if self.training and ranks == 1 and input.numel() == self.num_features:
            what = "batch norm over one value a channel: one image, and a map of one cell"
            fix = "--set task.head.norm=group (of a stream: streams.NAME.task...), or a larger --batch"
            raise UserError(what, where="head.norm", fix=fix)
        if ranks == 1 or input.device.type != "cpu":
            return super().forward(input)
        return self._over_ranks(input)

    def _over_ranks(self, x: Tensor) -> Tensor:
        """The formula of batch norm over the values of all ranks, in training."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        across = [d for d in range(x.dim()) if d != 1]
        per_channel = [1, -1, *[1] * (x.dim() - 2)]
        n = float(all_reduce_sum(torch.tensor(x.numel() / self.num_features, dtype=torch.float64)))
        mean = _RankSum.apply(x.sum(dim=across, dtype=torch.float32)) / n  # [C]
        centred = x - mean.view(per_channel)
        var = _RankSum.apply(centred.square().sum(dim=across, dtype=torch.float32)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        out = centred * (var + self.eps).rsqrt().view(per_channel)
        if self.affine:
            out = out * self.weight.view(per_channel) + self.bias.view(per_channel)
        return out.to(x.dtype)


class _RankSum(torch.autograd.Function):
    """Sum over ranks. What every rank made of the sum comes back to each: the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduce_sum(gradients[0].contiguous().clone())


class ConvNorm(nn.Module):
    """float[B, before, h, w] -> float[B, after, h, w]; a convolution that keeps the size, norm, ReLU.

    `conv` and `bn` are the names of the published checkpoints, whatever the norm is.
    """

    def __init__(self, before: int, after: int, kernel: int, norm: NormKind) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)  # the norm has the bias
        self.bn = norm_layer(norm, after)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def norm_layer(kind: NormKind, channels: int) -> nn.Module:
    """The norm of a map float[B, C, h, w]; groups are of at least four channels, and at most 32 of them."""
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "layer":
        return LayerNorm2d(channels, eps=1e-6)
    groups = max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels)


def resized(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear, without aligned corners; what has the size already is not touched."""
    if tuple(x.shape[-2:]) == size_hw and not torch.onnx.is_in_onnx_export():  # there it may be another next time
        return x
    return F.interpolate(x, size_hw, mode="bilinear", align_corners=False)
