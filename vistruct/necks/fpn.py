"""The feature pyramid network: a top-down path that brings what coarse maps know to the fine ones.

Source: Lin et al., Feature Pyramid Networks, arXiv:1612.03144; torchvision's module. Levels from strided convolutions
    over the backbone's coarsest map: RetinaNet, arXiv:1708.02002, without the ReLU in between, as MMDetection has it by
    default (torchvision's LastLevelP6P7 has that ReLU, and always two levels).
Shapes: one map float[B, C_i, H/s_i, W/s_i] a backbone level -> float[B, channels, ...] at the same strides, without
    those of the `skip` finest, and `extra_levels` more, each half as fine as the one before.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FeaturePyramidNetwork

from vistruct.config import Part
from vistruct.contracts import FeatureSpec, NeckTraits
from vistruct.errors import UserError
from vistruct.necks.laterals import coarser


class FpnConfig(Part):
    """A pyramid over all maps of the backbone; the defaults are those of most two-stage detectors."""

    kind: Literal["fpn"] = "fpn"
    channels: int = Field(256, gt=0)
    skip: int = Field(0, ge=0)  # finest maps of the backbone that are not used
    extra_levels: int = Field(1, ge=0)  # beyond the backbone's coarsest map
    extra: Literal["subsample", "conv"] = "subsample"  # every second cell of the last level, or strided convolutions
    norm: bool = False  # channel-first layer norm behind every convolution

    def build(self, specs: tuple[FeatureSpec, ...]) -> Fpn:
        """Build on the backbone's maps, finest first.

        Raises:
            UserError: strides that do not grow from map to map, as those of a plain ViT's blocks; no map is left.
        """
        return Fpn(self, specs)


class Fpn(nn.Module):
    """float[B, C_i, h_i, w_i] for each of the backbone's specs -> float[B, channels, h, w] for each of its own."""

    def __init__(self, config: FpnConfig, specs: tuple[FeatureSpec, ...]) -> None:
        super().__init__()
        strides = [spec.stride for spec in specs]
        if sorted(set(strides)) != strides:
            raise UserError(
                f"a pyramid needs maps from fine to coarse, and the backbone gives strides {strides}",
                where="neck",
                fix="use neck kind simple_pyramid for a plain ViT, or put an adapter (vit_adapter) around it",
            )
        if config.skip >= len(specs):
            what = f"skip={config.skip} leaves none of the backbone's {len(specs)} maps"
            raise UserError(what, where="neck.skip", fix=f"--set task.neck.skip={len(specs) - 1} at most")
        self.skip = config.skip
        self.specs = coarser(strides[config.skip :], config.channels, config.extra_levels)
        self.least_divisor = math.lcm(*strides)  # extra levels round up
        self.pyramid = FeaturePyramidNetwork(
            [spec.channels for spec in specs[config.skip :]],
            config.channels,
            norm_layer=partial(LayerNorm2d, eps=1e-6) if config.norm else None,
        )
        self.extra = nn.ModuleList()
        if config.extra == "conv":
            widths = [specs[-1].channels] + [config.channels] * config.extra_levels
            self.extra.extend(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
            for conv in self.extra:
                nn.init.kaiming_uniform_(conv.get_parameter("weight"), a=1)  # as torchvision's other layers here
                nn.init.zeros_(conv.get_parameter("bias"))

    @property
    def traits(self) -> NeckTraits:
        return NeckTraits(
            least_divisor=self.least_divisor, convert_keys=self.convert_keys, to_published=self.to_published
        )

    def _names(self) -> dict[str, str]:
        """Beginnings of mmdet's names, and what stands here in their place."""
        num = len(self.pyramid.inner_blocks)
        places = {f"lateral_convs.{i}.conv.": f"pyramid.inner_blocks.{i}.0." for i in range(num)}
        places |= {f"fpn_convs.{i}.conv.": f"pyramid.layer_blocks.{i}.0." for i in range(num)}
        return places | {f"fpn_convs.{num + i}.conv.": f"extra.{i}." for i in range(len(self.extra))}

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """mmdet's names as ours; what is not this pyramid's falls away."""
        places = self._names()
        found: dict[str, Tensor] = {}
        for key, value in state.items():
            front = next((front for front in places if key.startswith(front)), None)
            own = key if front is None else places[front] + key.removeprefix(front)
            if front is not None or own.startswith(("pyramid.", "extra.")):
                found[own] = value
        return found

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The way back, to mmdet's names.

        Raises:
            UserError: a tensor that has none there: of a norm.
        """
        found: dict[str, Tensor] = {}
        for key, value in state.items():
            front = next(((there, own) for there, own in self._names().items() if key.startswith(own)), None)
            if front is None:
                what = f"{key} has no name in published pyramids"
                raise UserError(what, where="neck", fix="export its backbone: --format backbone-original")
            found[front[0] + key.removeprefix(front[1])] = value
        return found

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = list(self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(maps[self.skip :]))).values())
        for number, conv in enumerate(self.extra):
            levels.append(conv(levels[-1] if number else maps[-1]))
        while len(levels) < len(self.specs):
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels
