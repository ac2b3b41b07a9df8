"""A U-Net's decoder over the maps of any backbone: twice the size, the next finer map beside it, two convolutions.

Source: Ronneberger et al., arXiv:1505.04597; the blocks and widths are those of MTP's change detection models, which
    are those of segmentation_models_pytorch.
Differs: doubling ends at `stride`. Over the four equal maps of a plain ViT the published decoder goes on to twice the
    resolution of the image, and its loss then throws three quarters of that away; here `stride=1` is that decoder
    without the waste, and `stride=2`, the default, another quarter of the work. Its last, bilinear doubling is left to
    the task, which resizes the logits once; the classifier, linear as it is, comes before it: the same numbers.
    segmentation_models_pytorch itself is what the test compares with; it was not taken, because its decoder wants exact
    halvings from the image down and has batch norm of one device alone, and it is a dependency for forty lines.
Shapes: maps float[B, C_i, h_i, w_i], finest first -> logits float[B, K, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec, HeadTraits
from vistruct.heads.conv_norm import ConvNorm, NormKind, resized
from vistruct.heads.upernet import check_finest_first, start_classifier

Size = Literal["double", "same", "skip"]


class UNetConfig(Part):
    """The decoder; the defaults are MTP's change detection models'."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = Field((512, 256, 128, 64), min_length=1)  # of the blocks; the last serves any further
    stride: int = Field(2, gt=0)  # pixels: what is coarser is doubled, with blocks of its own where no map is left
    dropout: float = Field(0.1, ge=0, lt=1)  # of whole channels, before the last layer
    norm: NormKind = "batch"  # see `conv_norm`

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> UNet:
        """Build on maps of any number, finest first; equal strides are fine.

        Raises:
            UserError: a map that is finer than the one before it.
        """
        return UNet(self, specs, num_classes)


class UNet(nn.Module):
    """float[B, C_i, h_i, w_i] for each spec -> float[B, K, h, w], at `stride`."""

    traits = HeadTraits(class_layers=(ClassLayer(name="classify"),))

    def __init__(self, config: UNetConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        check_finest_first(specs)
        finer = list(specs[-2::-1])  # from coarse to fine, without the coarsest
        stride, before = float(specs[-1].stride), specs[-1].channels
        blocks: list[nn.Module] = []
        while finer[len(blocks) :] or stride > config.stride:
            skip = finer[len(blocks)] if len(blocks) < len(finer) else None
            size: Size = "double" if stride > config.stride else "same"
            stride = stride / 2 if size == "double" else stride
            if skip is not None and skip.stride <= stride:
                stride, size = skip.stride, "skip"
            after = config.channels[min(len(blocks), len(config.channels) - 1)]
            blocks.append(Block(before, 0 if skip is None else skip.channels, after, config.norm, size))
            before = after
        self.stride = stride  # of the logits; not a whole number over a ViT of 14-pixel patches
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(before, num_classes, 1)
        start_classifier(self.classify)

    def forward(self, features: list[Tensor]) -> Tensor:
        *finer, x = features
        for i, block in enumerate(self.blocks):
            x = block(x, finer[-1 - i] if i < len(finer) else None)
        return self.classify(self.dropout(x))


class Block(nn.Module):
    """float[B, before, h, w] and a skip float[B, skip, H, W], or alone -> float[B, after, ...].

    Args:
        size: double: 2h x 2w; same: h x w; in both the skip is resized to that. skip: H x W, whatever the factor.
    """

    def __init__(self, before: int, skip: int, after: int, norm: NormKind, size: Size) -> None:
        super().__init__()
        self.size: Size = size
        self.conv1 = ConvNorm(before + skip, after, 3, norm)
        self.conv2 = ConvNorm(after, after, 3, norm)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        height, width = x.shape[2:]
        if self.size == "double":
            height, width = 2 * height, 2 * width
        elif self.size == "skip" and skip is not None:
            height, width = skip.shape[2:]
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="nearest")
        if skip is not None:
            x = torch.cat([x, resized(skip, (height, width))], dim=1)
        return self.conv2(self.conv1(x))
