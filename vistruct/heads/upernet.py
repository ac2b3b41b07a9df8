"""UPerNet: the coarsest map looks at the whole image, a pyramid brings that to the finest, and all levels vote.

Source: Xiao et al., Unified Perceptual Parsing, arXiv:1807.10221; the sizes, and the names of the parameters, are those
    of the published segmentation and change models (mmseg's `decode_head`), so that these load as they are.
Differs: no auxiliary head, as in ViTP; a choice of norm. transformers has the same decoder and is what the test
    compares with; it was not taken, because its batch norm is fixed and stays on one device, it has no dropout, and its
    names are not those of the checkpoints.
Cost: at 512 pixels on four maps of 1024 channels 220 G multiplications an image (torch's FlopCounterMode), 70 % of them
    in `fpn_bottleneck`, which looks at all levels at the finest's size, and 18 % in the finest level's 3x3.
Shapes: maps float[B, C_i, h_i, w_i], finest first -> logits float[B, K, h_0, w_0].
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vistruct.config import Part
from vistruct.contracts import ClassLayer, FeatureSpec, HeadTraits
from vistruct.errors import UserError
from vistruct.heads.conv_norm import ConvNorm, NormKind, resized
from vistruct.heads.published_names import renamed
from vistruct.ops.adaptive_pool import AdaptivePool

_FRONT = r"(module\.)?(semsegdecoder\.)?(head\.)?(decode_head\.)?"  # a wrapped model, MTP's pretraining, ours, mmseg


class UperNetConfig(Part):
    """The decoder; the defaults are ViTP's and MTP's downstream models'."""

    kind: Literal["upernet"] = "upernet"
    channels: int = Field(512, gt=1)  # of every level; 1024 in ViTP's model of LEVIR-CD
    bins: tuple[int, ...] = Field((1, 2, 3, 6), min_length=1)  # cells along a side of the pooled maps
    dropout: float = Field(0.1, ge=0, lt=1)  # of whole channels, before the last layer
    norm: NormKind = "batch"  # see `conv_norm`; group where a micro-batch is one image

    def build(self, specs: Sequence[FeatureSpec], num_classes: int) -> UperNet:
        """Build on maps of any number, finest first; equal strides are fine.

        Raises:
            UserError: a map that is finer than the one before it.
        """
        return UperNet(self, specs, num_classes)


class UperNet(nn.Module):
    """float[B, C_i, h_i, w_i] for each spec -> float[B, K, h_0, w_0], at the stride of the first."""

    def __init__(self, config: UperNetConfig, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        check_finest_first(specs)
        width, norm = config.channels, config.norm
        self.norm_kind = norm
        *finer, coarsest = (spec.channels for spec in specs)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AdaptivePool(bins), ConvNorm(coarsest, width, 1, norm)) for bins in config.bins
        )
        self.bottleneck = ConvNorm(coarsest + len(config.bins) * width, width, 3, norm)
        self.lateral_convs = nn.ModuleList(ConvNorm(channels, width, 1, norm) for channels in finer)
        self.fpn_convs = nn.ModuleList(ConvNorm(width, width, 3, norm) for _ in finer)
        self.fpn_bottleneck = ConvNorm(len(specs) * width, width, 3, norm)
        self.dropout = nn.Dropout2d(config.dropout)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        start_classifier(self.conv_seg)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(
            convert_keys=self.convert_keys,
            to_published=self.to_published,
            class_layers=(ClassLayer(name="conv_seg"),),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        *finer, coarsest = features
        size_hw = (coarsest.shape[2], coarsest.shape[3])
        pooled = [resized(pool(coarsest), size_hw) for pool in self.psp_modules]
        levels = [lateral(m) for lateral, m in zip(self.lateral_convs, finer, strict=True)]
        levels.append(self.bottleneck(torch.cat([coarsest, *pooled], dim=1)))
        for i in range(len(levels) - 1, 0, -1):  # top-down: what coarse levels know is added to the finer
            size_hw = (levels[i - 1].shape[2], levels[i - 1].shape[3])
            levels[i - 1] = levels[i - 1] + resized(levels[i], size_hw)
        levels[:-1] = [conv(m) for conv, m in zip(self.fpn_convs, levels[:-1], strict=True)]
        finest_hw = (levels[0].shape[2], levels[0].shape[3])
        x = self.fpn_bottleneck(torch.cat([resized(level, finest_hw) for level in levels], dim=1))
        return self.conv_seg(self.dropout(x))

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published model's names as this head's; other modules' (the backbone, auxiliary heads) fall away.

        The keys may also be those of the head alone.
        """
        return renamed(self, {re.sub(f"^{_FRONT}", "", key): value for key, value in state.items()}, {})

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back, to mmseg's names.

        Raises:
            UserError: norms that are called otherwise there.
        """
        if self.norm_kind != "batch":
            what = f"published UPerNets have batch norms, and this one's are of kind {self.norm_kind!r}"
            raise UserError(what, where="head.norm", fix="export its backbone: --format backbone-original")
        return {f"decode_head.{key}": value for key, value in state.items()}


def check_finest_first(specs: Sequence[FeatureSpec]) -> None:
    """Refuse maps that a decoder cannot climb.

    Raises:
        UserError: a map that is finer than the one before it.
    """
    strides = [spec.stride for spec in specs]
    if any(after < before for before, after in itertools.pairwise(strides)):
        raise UserError(
            f"a decoder needs maps from fine to coarse, and gets strides {strides}",
            where="head",
            fix="give the backbone's out_indices, or the neck's strides, in order",
        )


def start_classifier(conv: nn.Conv2d) -> None:
    """All classes equally likely at first: small random weights, no bias, as the published decoders start."""
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
